"""Jobs of hierarchical search: which room is meant, and how good what was found there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline import scene_data
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Array, GroundTruth, Prompt
    from stages.evaluation.hierarchical_search import SearchedRoom, SearchResult


class Shown(NamedTuple):
    """Of one scene, by search id: masks of each source that count there, and what is true."""

    masks: Mapping[str, Mapping[str, Array]]
    truths: Mapping[str, Array]


def find_rooms(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Choose a room for every search of the validation places."""
    from data.artifacts.answers import write_rooms
    from stages.evaluation import hierarchical_search as stage

    scores = {name: _scores(plan, name) for name in plan.scenes("val")}
    write_rooms(folder, stage.run_find_rooms(scene_data.searches_of(plan, "val"), scores))


def _scores(plan: Plan, scene_id: str) -> dict[str, dict[str, float]]:
    """How sure each source is of what a scene was asked, by prompt id."""
    from data.artifacts.soft_masks import read_predictions, read_pseudo

    answers, labels = (
        read_predictions(plan.predict(scene_id).folder),
        read_pseudo(plan.fuse(scene_id).folder),
    )
    lifted = dict(zip(labels.prompt_ids, labels.scores().tolist(), strict=True))
    own, both = (
        dict(zip(answers.prompt_ids, answers.score(of).tolist(), strict=True))
        for of in ("student", "together")
    )
    return {"student": own, "fusion_only": lifted, "together": both}


def search_result(plan: Plan) -> SearchResult | None:
    """All searches of the validation places, scored; None where there is none."""
    from data.artifacts.answers import read_rooms
    from data.artifacts.prompts import read_truths
    from stages.evaluation import hierarchical_search as stage

    searches = scene_data.searches_of(plan, "val")
    if not searches:
        return None
    truths, choices = read_truths(plan.prompts().folder), read_rooms(plan.rooms_found().folder)
    return stage.run_search_rows(searches, truths, choices, _rooms(plan))


def _rooms(plan: Plan) -> Iterator[SearchedRoom]:
    from data.artifacts.scene import read_ground_truth
    from stages.evaluation.hierarchical_search import SearchedRoom

    for name in plan.scenes("val"):
        truth = read_ground_truth(plan.prepare(name).folder)
        yield SearchedRoom(name, truth, scene_data.masks_of(plan, name))


def found_here(plan: Plan, scene_id: str, source: str) -> list[Prompt]:
    """Searches whose answers lie in a scene, by what a source holds, as prompts of that scene.

    They have the ids under which the scene was asked, and the sentences in full. Searches of
    validation places alone have been given a room.
    """
    from data.artifacts.answers import read_rooms
    from data.queries.hierarchical_search import SEARCH_TASK
    from data.types import Prompt

    split = plan.split_of(scene_id)
    searches = scene_data.searches_of(plan, split) if split == "val" else []
    choices = read_rooms(plan.rooms_found().folder) if searches else {}
    return [
        Prompt(search.prompt_id(scene_id), scene_id, search.text, SEARCH_TASK)
        for search in searches
        if choices[search.search_id, source].room == scene_id
    ]


def shown(
    plan: Plan, scene_id: str, masks: Mapping[str, Mapping[str, Array]], truth: GroundTruth
) -> Shown:
    """What there is to draw of the searches that mean a scene."""
    from data.artifacts.answers import read_rooms
    from data.artifacts.prompts import read_truths

    found: dict[str, dict[str, Array]] = {source: {} for source in masks}
    true: dict[str, Array] = {}
    searches = scene_data.searches_of(plan, "val")
    if searches:
        truths, choices = read_truths(plan.prompts().folder), read_rooms(plan.rooms_found().folder)
        for search in searches:
            if truths[search.search_id].scene_id == scene_id:
                true[search.search_id] = truth.mask(truths[search.search_id].object_ids)
                for source in masks:
                    if choices[search.search_id, source].room in ("", scene_id):
                        mask = masks[source].get(search.prompt_id(scene_id))
                        if mask is not None:
                            found[source][search.search_id] = mask
    return Shown(found, true)
