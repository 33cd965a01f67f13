"""What each scene is asked, what is known of it, and what was answered, from their artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.queries.hierarchical_search import Search
    from data.types import Array, Prompt, PromptTruth, Split


def prompts_of(plan: Plan, scene_id: str) -> list[Prompt]:
    """Queries of one scene, without any label."""
    from data.artifacts.prompts import read_prompts

    prompts = read_prompts(plan.prompts().folder)[plan.split_of(scene_id)]
    return [prompt for prompt in prompts if prompt.scene_id == scene_id]


def asked_of(plan: Plan, scene_id: str) -> list[Prompt]:
    """All that the teacher is asked of one scene.

    These are its queries, then the bank's categories, then what its place's searches ask.
    """
    from data.queries.hierarchical_search import search_prompts
    from data.queries.prompts import bank_prompts

    own = prompts_of(plan, scene_id) + bank_prompts(plan.experiment.prompts.bank, scene_id)
    return own + search_prompts(searches_of(plan, plan.split_of(scene_id)), scene_id)


def num_asked(plan: Plan) -> dict[str, int]:
    """How many prompts each scene of the set is asked, by scene, reading the queries once."""
    from data.artifacts.prompts import read_prompts
    from data.queries.hierarchical_search import search_prompts

    counts = dict.fromkeys(plan.scenes(), len(plan.experiment.prompts.bank))
    for prompts in read_prompts(plan.prompts().folder).values():
        for prompt in prompts:
            counts[prompt.scene_id] += 1
    for split, places in plan.places.items():
        searches = searches_of(plan, split)
        for scene in (room for rooms in places.values() for room in rooms):
            counts[scene] += len(search_prompts(searches, scene))
    return counts


def truths_of(plan: Plan, scene_id: str) -> dict[str, PromptTruth]:
    """What is known of what a scene is asked, by prompt id; for oracles and evaluation only."""
    from data.artifacts.prompts import read_truths
    from data.queries.hierarchical_search import truths_in_room

    truths = read_truths(plan.prompts().folder)
    searches = searches_of(plan, plan.split_of(scene_id))
    return truths | truths_in_room(searches, truths, scene_id)


def searches_of(plan: Plan, split: Split) -> list[Search]:
    """Searches of the places of a split, without any label."""
    from data.artifacts.prompts import read_searches

    return read_searches(plan.prompts().folder).get(split, []) if plan.places else []


def masks_of(plan: Plan, scene_id: str) -> dict[str, dict[str, Array]]:
    """Masks of one scene by source and prompt id: the student's, its labels', both together."""
    from data.artifacts.soft_masks import read_predictions, read_pseudo

    student, labels = (
        read_predictions(plan.predict(scene_id).folder),
        read_pseudo(plan.fuse(scene_id).folder),
    )
    lifted = labels.answers()
    return {
        "student": dict(zip(student.prompt_ids, student.masks, strict=True)),
        "fusion_only": dict(zip(labels.prompt_ids, lifted, strict=True)),
        "together": dict(zip(student.prompt_ids, student.together, strict=True)),
    }
