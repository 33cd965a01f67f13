"""Builds the oracle teacher of one scene: the only place where a teacher meets ground truth."""

from __future__ import annotations

from collections.abc import Sequence

from data.bank import BANK_TASK, bank_text
from data.searches import EXTRA_TASKS
from data.types import GroundTruth, Prompt, PromptTruth, Scene
from models.oracle import OracleErrors, OracleTeacher
from stages.configs import TeacherConfig
from stages.instance_renderer import InstanceRenderer


def make_oracle(
    scene: Scene,
    truth: GroundTruth,
    prompts: Sequence[Prompt],
    prompt_truths: Sequence[PromptTruth],
    cfg: TeacherConfig,
) -> OracleTeacher:
    """An ``OracleTeacher`` that renders this scene's objects at low resolution when asked.

    A teacher hears words only, so queries of equal text mean the union of their objects. A
    category of the bank means all objects of that label, none where there are none; a query of
    the same words has the last say, so that a bank changes no answer to a query. What a search
    asks means its objects in the room that it is about, and is taken by its words in others.

    Raises ValueError when a query has no truth and KeyError when a truth names an object
    that the scene does not have.
    """
    by_prompt = {truth_.prompt_id: truth_ for truth_ in prompt_truths}
    targets: dict[str, set[int]] = {}
    for prompt in prompts:
        if prompt.prompt_id in by_prompt:
            meant = by_prompt[prompt.prompt_id].object_ids
            targets.setdefault(prompt.text, set()).update(meant)
        elif prompt.task not in (BANK_TASK, *EXTRA_TASKS):
            raise ValueError(f"prompt {prompt.prompt_id} has no truth")
    for text in {prompt.text for prompt in prompts} - targets.keys():
        targets[text] = _of_label(truth, text)
    unknown = set().union(*targets.values()) - set(truth.object_ids)
    if unknown:
        raise KeyError(f"scene {scene.scene_id} has no objects {sorted(unknown)}")
    renderer = InstanceRenderer(scene, truth, cfg.oracle.stride)
    return OracleTeacher(
        scene.scene_id,
        truth.object_ids,
        truth.labels,
        renderer.masks,
        {text: sorted(ids) for text, ids in targets.items()},
        renderer.grid,
        OracleErrors(cfg.seed, **cfg.oracle.model_dump(exclude={"stride"})),
    )


def _of_label(truth: GroundTruth, text: str) -> set[int]:
    """The objects whose label a bank's words name."""
    named = zip(truth.object_ids, truth.labels, strict=True)
    return {object_id for object_id, label in named if bank_text(label) == text}
