"""Imports what a step needs in the process that forks its tasks.

Steps import heavy libraries as late as they can, so that planning a run stays light. Where each
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
from pipeline.steps.declaration import STEPS, Step, load
from stages.configs import Experiment

_LISA = ("models.lisa.teacher", "models.lisa.checkpoint")
_CUDA_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia")


def preload(step: Step, experiment: Experiment) -> None:
    """Import what a step declared, and for one that asks a LISA its network.

    Starts no thread of its own, reads no data and never touches CUDA, so that the process may be
    forked afterwards. What cannot be imported is left to the step, whose error says what to do.
    """
    for module in step.preload.modules:
        _quietly(importlib.import_module, module)
    for call in step.preload.calls:
        _quietly(lambda name: load(name)(), call)
    _load_loops(step)
    if step.asks_teacher and experiment.teacher.is_lisa:
        for module in _LISA:
            _quietly(importlib.import_module, module)
    if not _may_have_cuda():
        for call in step.preload.cuda_free_calls:
            _quietly(lambda name: load(name)(), call)


def load_loops() -> None:
    """Load the compiled loops of all steps; compile those that are new."""
    for step in STEPS.values():
        _load_loops(step)


def _load_loops(step: Step) -> None:
    for module in step.preload.loops:
        _quietly(importlib.import_module(module).warm)


def _quietly(run: Callable[..., object], *arguments: str) -> None:
    with contextlib.suppress(ImportError, OSError, UserError):
        run(*arguments)


def _may_have_cuda() -> bool:
    """Whether this machine has a driver of NVIDIA's.

    Loading spconv asks CUDA for its devices, and a process that asked cannot be forked.
    """
    return any(Path(file).exists() for file in _CUDA_DEVICES)
