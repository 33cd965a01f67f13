"""Builds the oracle teacher of one scene: the only place where a teacher meets ground truth."""

from __future__ import annotations

from collections.abc import Sequence

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

    A teacher hears words only, so prompts of equal text mean the union of their objects.
    Raises ValueError when a prompt has no truth and KeyError when a truth names an object
    that the scene does not have.
    """
    by_prompt = {truth_.prompt_id: truth_ for truth_ in prompt_truths}
    targets: dict[str, set[int]] = {}
    for prompt in prompts:
        if prompt.prompt_id not in by_prompt:
            raise ValueError(f"prompt {prompt.prompt_id} has no truth")
        targets.setdefault(prompt.text, set()).update(by_prompt[prompt.prompt_id].object_ids)
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
