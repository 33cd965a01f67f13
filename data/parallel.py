"""Threads with a fixed order of results, parent-death signals of processes, and malloc."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Of the environment; numerical libraries read them once, when they are imported."""
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however it dies (Linux).

    Without it a killed run leaves workers behind that race the next run for its files. Ctrl-C,
    which a terminal sends to every process, is left to the parent, and SIGTERM ends this one.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # Tasks that run in the parent itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # It died before the kernel was told.
            os.kill(os.getpid(), signal.SIGKILL)


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def num_threads() -> int:
    """Threads this process may use: what its environment grants it, else the cores it may run on.

    The pipeline grants each of its workers a share of the machine (``THREAD_VARIABLES``).
    """
    for variable in THREAD_VARIABLES:
        granted = os.environ.get(variable, "")
        if granted.isdecimal() and int(granted) > 0:
            return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mapped(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> Iterator[_Result]:
    """Yield ``function(item)`` in the order of the items, ``num_threads()`` at once by default.

    No more than that many results exist before they are asked for. What a call raises is raised
    at its turn; calls begun by then are waited for.
    """
    threads = num_threads() if threads is None else threads
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[_Result]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) >= threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()


# Numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_EVERYTHING = 2**31 - 1
# What glibc itself comes to in a process that has freed large arrays.
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Do not give memory back to the system meanwhile, only after; without glibc nothing changes.

    A large array is otherwise new pages of the system each time, which it clears one by one at
    first touch: a tenth of the time of a step of training, whose arrays are those of the step
    before.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _EVERYTHING)
    try:
        yield
    finally:
        for option, value in _USUAL:
            libc.mallopt(option, value)
        libc.malloc_trim(0)
