"""Slots of this machine that tasks wait for: GPUs, and slots for big teachers on a CPU.

A slot is a file lock in the machine's folder for temporary files, which the kernel releases
however the holding process ends.
"""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from luigi import configuration

from data.errors import UserError
from pipeline.process import process

VISIBLE = "CUDA_VISIBLE_DEVICES"
_DEVICE = re.compile(r"nvidia\d+")
_JOB = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID")
_WAIT = 0.5


def visible_gpus(devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, by their names in ``CUDA_VISIBLE_DEVICES``.

    Without that variable, one number for each device file of NVIDIA's driver; a container has the
    files of the GPUs given to it. Windows' Linux (WSL) has one GPU.
    """
    variable = os.environ.get(VISIBLE)
    if variable is not None:
        names = [name.strip() for name in variable.split(",")]
        # CUDA stops at the first name that it does not know, such as -1.
        num_valid = next(
            (i for i, name in enumerate(names) if not name or name == "-1"), len(names)
        )
        return names[:num_valid]
    count = sum(_DEVICE.fullmatch(path.name) is not None for path in devices.iterdir())
    return [str(number) for number in range(count or int((devices / "dxg").exists()))]


def gpus_needed(device: str, count: int = 1) -> int:
    """Number of GPUs for a task on ``device``: ``count``, or 0 on the CPU."""
    return 0 if device == "cpu" or not visible_gpus() else count


def gpu_resource() -> str:
    """Name of this machine's GPUs among Luigi's resources."""
    return f"gpu_{platform.node().lower()}"


@contextmanager
def hold_gpus(count: int) -> Iterator[None]:
    """Wait until ``count`` GPUs are free, and make only these visible to this process.

    For a process that runs one task and has not initialised CUDA. Each Slurm job has locks of its
    own, because its GPUs are its own.

    Raises:
        UserError: this process may use fewer GPUs than ``count``.
    """
    if count == 0:
        yield
        return
    names = visible_gpus()
    if count > len(names):
        raise UserError(
            f"expected {count} GPUs, found {len(names)} that this process may use"
            f"{f' ({VISIBLE}={os.environ[VISIBLE]})' if VISIBLE in os.environ else ''}. "
            "Use fewer, or run with --device cpu."
        )
    with ExitStack() as held:
        chosen = _take(names, count, held)
        before = os.environ.get(VISIBLE)
        os.environ[VISIBLE] = ",".join(chosen)
        try:
            yield
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _take(names: list[str], count: int, held: ExitStack) -> list[str]:
    """Wait for locks on ``count`` of the names, and return those names.

    It holds all of them or none, so that tasks that need several never block each other.
    """
    folder = slots_folder()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as attempt:
            locked: list[str] = []
            for name in names:
                if len(locked) < count and _try(folder / f"{_safe(name)}.lock", attempt):
                    locked.append(name)
            if len(locked) == count:
                held.enter_context(attempt.pop_all())
                return locked
        time.sleep(_WAIT)


def slots_folder() -> Path:
    """Folder of this user's locks on this machine, one for each Slurm job."""
    job = "-".join(os.environ[name] for name in _JOB if name in os.environ)
    name = "-".join(filter(None, ("mllm-for3d-places", str(os.getuid()), _safe(job))))
    return Path(tempfile.gettempdir()) / name


def _try(path: Path, held: ExitStack) -> bool:
    try:
        held.enter_context(FileLock(path, timeout=0))
    except Timeout:
        return False
    return True


def _safe(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name)


def teacher_resources(is_small: bool) -> dict[str, int]:
    """Luigi resources of a task that runs the teacher on a CPU.

    Big teachers run one at a time on a machine without GPUs, unless luigi.cfg allows more. A
    central scheduler does not know hosts; with it a task waits in ``teacher_slot`` instead.
    """
    return {} if is_small or process.is_central() else {_teacher_name(): 1}


@contextmanager
def teacher_slot(is_small: bool) -> Iterator[None]:
    """Wait for one of this machine's slots for a big teacher, and hold it.

    With the scheduler inside the process Luigi's resource has the same effect and nothing is held.
    """
    if is_small or not process.is_central():
        yield
        return
    resources = configuration.get_config().getintdict("resources")
    allowed = max(1, resources.get(_teacher_name(), 1))
    with ExitStack() as held:
        _take([f"{_teacher_name()}_{number}" for number in range(allowed)], 1, held)
        yield


def _teacher_name() -> str:
    return f"teacher_{platform.node().lower()}"
