"""Run functions in threads, end workers with their parent process, and tune malloc."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
"""Environment variables for the number of threads; libraries read them when they are imported."""
_PR_SET_PDEATHSIG = 1


def set_parent_death_signal() -> None:
    """Set the parent-death signal: the kernel kills this process when its parent dies (Linux).

    Without it a killed run leaves workers behind that compete with the next run for its files.
    Ctrl-C, which a terminal sends to every process, is ignored here and handled by the parent;
    SIGTERM ends this process.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return  # This process is the parent: its tasks run in it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent.pid:  # The parent died before the signal was set.
            os.kill(os.getpid(), signal.SIGKILL)


_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def num_threads() -> int:
    """Return the number of threads to use: from ``THREAD_VARIABLES``, else the usable cores.

    The pipeline sets these variables to each worker's share of the machine.
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

    At most that many results exist before they are consumed. An error of a call is raised when
    its result is due, after the calls that have started have ended. A single item is computed in
    the caller's thread.
    """
    threads = num_threads() if threads is None else threads
    if threads <= 1 or (isinstance(items, Sized) and len(items) <= 1):
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        futures: deque[Future[_Result]] = deque()
        for item in items:
            futures.append(pool.submit(function, item))
            if len(futures) >= threads:
                yield futures.popleft().result()
        while futures:
            yield futures.popleft().result()


# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_EVERYTHING = 2**31 - 1
# The values that glibc's automatic tuning reaches after large arrays were freed.
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Tune glibc malloc so that large freed arrays are reused instead of returned to the OS.

    Otherwise each large array gets new pages, which the OS clears at first use: a tenth of the
    time of a training step. At the end the memory is returned. Without glibc nothing changes.
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
