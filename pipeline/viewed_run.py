"""A run for the viewer: its scans with stored answers and truth, its student, its teacher."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from pipeline import asking, scene_data
from pipeline.plan import Plan
from pipeline.process import resolved

if TYPE_CHECKING:
    from stages.student.ask_student import StudentEngine
    from stages.viewer.content import Belief, Query, ViewedRun, ViewedScene


def viewed_run(plan: Plan, device: str) -> ViewedRun:
    """What the viewer shows of a run; UserError where none of its scenes is prepared."""
    from stages.viewer.content import ViewedRun

    return ViewedRun(
        f"{plan.scene_set.name}: see it and ask it",
        asking.prepared_scenes(plan),
        partial(_scene, plan),
        partial(_engine, plan, device),
        partial(_teacher, plan, device),
    )


def _engine(plan: Plan, device: str) -> StudentEngine:
    asking.check_student(plan)
    return asking.make_engine(plan, resolved(device))


def _teacher(plan: Plan, device: str) -> Any:
    if plan.experiment.teacher.name == "oracle":
        raise UserError(
            "the teacher of this config is the oracle, which is ground truth itself: it answers "
            "no new sentence. View the set under a config with another teacher"
        )
    from stages.teacher.make_teacher import make_teacher

    return make_teacher(plan.experiment.teacher, resolved(device))


def _scene(plan: Plan, scene_id: str) -> ViewedScene:
    from data.artifacts.links import read_links
    from data.artifacts.scene import read_scene
    from data.artifacts.store import is_complete
    from stages.viewer.content import ViewedScene

    scene, link = read_scene(plan.prepare(scene_id).folder, plan.root), plan.link(scene_id)
    links = read_links(link.place) if is_complete(link) else None
    seen_by = None if links is None else lambda view: links.view(view).point_ids
    return ViewedScene(scene, tuple(_queries(plan, scene_id)), seen_by)


def _queries(plan: Plan, scene_id: str) -> list[Query]:
    """Stored queries with what is answered so far, and the truth where there is any."""
    from data.artifacts.store import is_complete
    from stages.viewer.content import Query

    if not is_complete(plan.prompts()):
        return []
    beliefs, truths = _beliefs(plan, scene_id), _truths(plan, scene_id)
    return [
        Query(prompt.text, tuple(beliefs.get(prompt.prompt_id, ())), truths.get(prompt.prompt_id))
        for prompt in scene_data.prompts_of(plan, scene_id)
        if prompt.prompt_id in beliefs or prompt.prompt_id in truths
    ]


def _beliefs(plan: Plan, scene_id: str) -> dict[str, list[Belief]]:
    from data.artifacts.soft_masks import read_predictions, read_pseudo
    from data.artifacts.store import is_complete
    from stages.viewer.content import NONE, Belief

    found: dict[str, list[Belief]] = {}
    if is_complete(plan.predict(scene_id)):
        stored = read_predictions(plan.predict(scene_id).folder)
        for row, name in enumerate(stored.prompt_ids):
            probs, mask = stored.probs[row], stored.masks[row]
            start = float(probs[mask].min()) if mask.any() else NONE
            own, both = (float(score) for score in stored.scores[row])
            together = Belief.of_mask("student and labels together", stored.together[row], both)
            found[name] = [Belief("student", probs, start, own), together]
    if is_complete(plan.fuse(scene_id)):
        labels = read_pseudo(plan.fuse(scene_id).folder)
        for row, name in enumerate(labels.prompt_ids):
            start, soft = float(labels.thresholds[row]), labels.soft[row]
            lifted = Belief("lifted labels", soft, start, float(soft.max(initial=0)))
            found.setdefault(name, []).append(lifted)
    return found


def _truths(plan: Plan, scene_id: str) -> dict[str, Any]:
    """Masks of what queries are about, to be looked at only; none where the set has no truth."""
    if not plan.scene_set.has_truth:
        return {}
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth

    known = read_truths(plan.prompts().folder)
    ground = read_ground_truth(plan.prepare(scene_id).folder)
    return {
        prompt.prompt_id: ground.mask(known[prompt.prompt_id].object_ids)
        for prompt in scene_data.prompts_of(plan, scene_id)
        if prompt.prompt_id in known
    }
