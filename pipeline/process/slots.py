"""Places of this machine that tasks wait for: GPUs, and big teachers on a CPU."""

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
    """The GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    What that variable says, else one number for each device file of NVIDIA's driver, of which a
    container has those that were given to it; under Windows' Linux there is one.
    """
    told = os.environ.get(VISIBLE)
    if told is not None:
        names = [name.strip() for name in told.split(",")]
        # CUDA stops at the first that it does not know, such as -1.
        until = next((i for i, name in enumerate(names) if not name or name == "-1"), len(names))
        return names[:until]
    count = sum(_DEVICE.fullmatch(path.name) is not None for path in devices.iterdir())
    return [str(number) for number in range(count or int((devices / "dxg").exists()))]


def gpus_needed(device: str, count: int = 1) -> int:
    """How many GPUs a task asked to run on ``device`` takes: ``count``, or none on the CPU."""
    return 0 if device == "cpu" or not visible_gpus() else count


def gpu_resource() -> str:
    """What this machine's GPUs are called among Luigi's resources."""
    return f"gpu_{platform.node().lower()}"


@contextmanager
def hold_gpus(count: int) -> Iterator[None]:
    """Wait until ``count`` GPUs are free, and let this process see these alone.

    For a process that works on one task and has not begun to use CUDA. Locks lie in the
    machine's folder for temporary files, apart for each Slurm job, whose GPUs are its own; the
    kernel frees them however the process dies.

    Raises:
        UserError: there are not as many.
    """
    if count == 0:
        yield
        return
    names = visible_gpus()
    if count > len(names):
        raise UserError(
            f"{count} GPUs were asked for, but this process may use {len(names)}"
            f"{f' ({VISIBLE}={os.environ[VISIBLE]})' if VISIBLE in os.environ else ''}. "
            "Ask for fewer, or run with --device cpu."
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
    """Wait for locks on ``count`` of the names; which they are.

    All or none are held, so that tasks that need several never wait for each other.
    """
    folder = slots_folder()
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        with ExitStack() as trying:
            got: list[str] = []
            for name in names:
                if len(got) < count and _try(folder / f"{_safe(name)}.lock", trying):
                    got.append(name)
            if len(got) == count:
                held.enter_context(trying.pop_all())
                return got
        time.sleep(_WAIT)


def slots_folder() -> Path:
    """Where this user's locks on this machine's places lie, apart for each Slurm job."""
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
    """What a task that asks a teacher on the CPU takes of Luigi's resources.

    Big teachers work one at a time on a machine without GPUs, unless luigi.cfg allows it more. A
    central scheduler knows no hosts: there a task waits in ``teacher_slot`` instead.
    """
    return {} if is_small or process.is_central() else {_teacher_name(): 1}


@contextmanager
def teacher_slot(is_small: bool) -> Iterator[None]:
    """Hold one of this machine's places for a big teacher; waits until there is one.

    With the scheduler inside the process Luigi's resource does the same, and nothing is held.
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
