"""Imports for a step in the worker that forks its tasks.

Steps import heavy libraries late, so that planning a run stays fast. Each task is a process, and
the imports would take longer than most tasks on one scene. Tasks forked from a worker that has
imported the libraries find them in memory.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Callable
from pathlib import Path

from data.artifacts.store import package_versions
from data.errors import UserError
from pipeline.steps.declaration import STEPS, Step, load
from stages.configs import Experiment

_LISA = ("models.lisa.teacher", "models.lisa.checkpoint")
_CUDA_DEVICES = ("/dev/nvidiactl", "/dev/dxg", "/proc/driver/nvidia")


def preload(step: Step, experiment: Experiment) -> None:
    """Import the modules that a step declares, and LISA's network for a step that asks a LISA.

    It starts no thread, reads no data and does not initialise CUDA, so that the process can be
    forked. A failing import is ignored here; the step repeats it and reports the error.

    What was imported stays for the life of the process. So garbage collection is off meanwhile, and
    leaves it out afterwards: in each task it would walk all these objects and copy their pages.
    """
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        _import_for(step, experiment)
    finally:
        gc.freeze()
        if is_collecting:
            gc.enable()


def _import_for(step: Step, experiment: Experiment) -> None:
    package_versions()  # Every task stores them; reading them takes 0.1 s.
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
    """Load the compiled loops of all steps; compile new ones."""
    for step in STEPS.values():
        _load_loops(step)


def _load_loops(step: Step) -> None:
    for module in step.preload.loops:
        _quietly(importlib.import_module(module).warm)


def _quietly(run: Callable[..., object], *arguments: str) -> None:
    with contextlib.suppress(ImportError, OSError, UserError):
        run(*arguments)


def _may_have_cuda() -> bool:
    """Whether this machine has NVIDIA's driver.

    Loading spconv queries CUDA for devices, and a process that has done so cannot be forked.
    """
    return any(Path(file).exists() for file in _CUDA_DEVICES)
