"""How many big teachers work at once on a machine: one, unless ``[resources]`` allows it more.

With the scheduler inside the process this is a resource of Luigi's. A central scheduler knows no
hosts: a task has the resources that the last worker to announce it named, so that all hosts
together would run one teacher. There a task waits for a lock of its machine instead.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from luigi import configuration

from pipeline import process
from pipeline.plan import Plan

_POLL = 0.5  # Seconds.


def resources(plan: Plan) -> dict[str, int]:
    """What a task of the plan's teacher takes of Luigi's resources."""
    return {} if _is_small(plan) or process.is_central() else {_name(): 1}


@contextmanager
def slot(plan: Plan) -> Iterator[None]:
    """Hold one of this machine's places for a big teacher; waits until there is one.

    The kernel frees it however the holder dies. Each user has their own.
    """
    if _is_small(plan) or not process.is_central():
        yield
        return
    lock = _free_lock()
    try:
        yield
    finally:
        lock.release()


def _free_lock() -> FileLock:
    allowed = configuration.get_config().getintdict("resources").get(_name(), 1)
    folder = Path(tempfile.gettempdir())
    names = [f"mllm3d_{os.getuid()}_{_name()}_{number}.lock" for number in range(max(1, allowed))]
    while True:
        for name in names:
            lock = FileLock(folder / name)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            return lock
        time.sleep(_POLL)


def _is_small(plan: Plan) -> bool:
    return plan.experiment.teacher.name in ("oracle", "lisa_nano")


def _name() -> str:
    return f"teacher_{platform.node().lower()}"
