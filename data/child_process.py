"""What processes that others start have in common: a leash, and where threads are counted."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys

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
