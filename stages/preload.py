"""What stages import once they run, imported before by a process that starts many of them.

Stages import heavy libraries as late as they can, so that planning a run stays light. Where each
task is a process of its own, every one of them would import these anew: seconds, which is more
than most tasks on one scene work for. A process that imported them once forks tasks that have
them.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path

from data.errors import UserError
from stages.configs import Experiment

_IMPORTED_LATE: dict[str, tuple[str, ...]] = {
    "generate_rooms": ("data.rooms.write",),
    "prepare_scene": ("stages.scene.prepare_scene", "data.artifacts.scene"),
    "link_points": ("stages.scene.link_points", "data.artifacts.links", "data.artifacts.scene"),
    "run_teacher": ("stages.teacher.run_teacher", "data.artifacts.teacher", "data.artifacts.scene"),
    "lift_features": ("stages.teacher.lift_features", "data.artifacts.embeddings"),
    "fuse_masks": (
        "stages.fusion.fuse_masks",
        "data.artifacts.soft_masks",
        "data.artifacts.teacher",
    ),
    "oracle_labels": ("stages.fusion.oracle_labels", "data.artifacts.soft_masks"),
    "train_student": ("stages.student.train_student", "data.artifacts.soft_masks"),
    "finetune_student": ("stages.student.train_student", "data.artifacts.soft_masks"),
    "distil_text": ("stages.student.distil_text", "data.artifacts.student"),
    "predict_masks": ("stages.student.predict_masks", "data.artifacts.soft_masks"),
    "judge_teacher": ("stages.teacher.evaluate_teacher_2d", "data.artifacts.teacher_2d"),
    "answer_questions": ("stages.evaluation.answer_questions", "data.artifacts.answers"),
    "evaluate": ("stages.evaluation.evaluate", "stages.evaluation.answer_questions"),
    "report": ("stages.report.report", "stages.report.report"),
}
_LISA = ("models.lisa.teacher", "models.lisa.checkpoint")
_CASTS_RAYS = {"generate_rooms", "prepare_scene"}
_LOOPS: dict[str, tuple[str, ...]] = {
    "generate_rooms": ("data.rooms.render",),
    "prepare_scene": (
        "data.geometry.superpoints",
        "data.geometry.raycast",
        "data.geometry.visibility",
    ),
    "link_points": ("data.geometry.visibility",),
    "fuse_masks": ("stages.fusion.votes",),
    "train_student": ("models.sparse.cpu",),
    "finetune_student": ("models.sparse.cpu",),
    "predict_masks": ("models.sparse.cpu",),
}
"""Modules whose compiled loops a stage runs; loading these takes longer than a small scene."""
_ASKS_TEACHER = {"run_teacher", "lift_features"}
_CUDA_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia")
_CONVOLVES = {"train_student", "finetune_student", "predict_masks"}


def preload(stage: str, experiment: Experiment) -> None:
    """Import what ``stage`` will need under ``experiment``; nothing for a stage not known here.

    Starts no thread of its own, reads no data and never touches CUDA, so that the process may be
    forked afterwards. What cannot be imported is left to the stage, whose error says what to do.
    """
    for module in _IMPORTED_LATE.get(stage, ()):
        _quietly(importlib.import_module, module)
    if stage in _CASTS_RAYS:
        from data.geometry.raycast import open3d

        _quietly(open3d)
    load_loops(stage)
    if stage in _ASKS_TEACHER and experiment.teacher.is_lisa:
        for module in _LISA:
            _quietly(importlib.import_module, module)
    if stage in _CONVOLVES and not _may_have_cuda():
        from models.sparse.layers import load_spconv

        _quietly(load_spconv)


def load_loops(*stages: str) -> None:
    """Load the compiled loops of some stages, of all by default; compile those that are new."""
    modules = (module for stage in stages or _LOOPS for module in _LOOPS.get(stage, ()))
    for module in dict.fromkeys(modules):
        _quietly(importlib.import_module(module).warm)


def _quietly(load: Callable[..., object], *arguments: str) -> None:
    with contextlib.suppress(ImportError, OSError, UserError):
        load(*arguments)


def _may_have_cuda() -> bool:
    """Whether this machine has a driver of NVIDIA's.

    Loading spconv asks CUDA for its devices, and a process that asked cannot be forked.
    """
    return any(Path(file).exists() for file in _CUDA_DEVICES)
