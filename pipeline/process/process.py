"""A worker process: parent-death signal, number of threads, device."""

from __future__ import annotations

import os
import sys

import luigi

from data.parallel import THREAD_VARIABLES, set_parent_death_signal

__all__ = (
    "set_parent_death_signal",
    "is_central",
    "limit_threads",
    "num_cores",
    "prepare_imports",
    "resolved",
)

GRANTED = "SLURM_CPUS_PER_TASK"
"""Slurm's variable with the number of cores that a job asked for."""


def num_cores() -> int:
    """Number of cores that this process may use, by its CPU affinity and by Slurm's grant.

    ``os.cpu_count`` also counts cores of a shared node that belong to other jobs.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    granted = os.environ.get(GRANTED, "")
    return min(allowed, max(1, int(granted))) if granted.isdecimal() else allowed


def is_central() -> bool:
    """Whether this run uses a central scheduler, which serves other hosts, too.

    A central scheduler does not know hosts: resources are those that the last worker announced.
    """
    return not luigi.interface.core().local_scheduler


def limit_threads(count: int) -> None:
    """Give numerical libraries ``count`` threads, unless the user set OMP_NUM_THREADS.

    Libraries read the environment when they are imported, and Numba when it compiles. An already
    imported torch is set directly; an already imported OpenBLAS keeps ``prepare_imports``' number.
    """
    _keep_idle_threads_asleep()
    user_chose = "OMP_NUM_THREADS" in os.environ
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(count))
    if "torch" in sys.modules and not user_chose:
        sys.modules["torch"].set_num_threads(count)


def prepare_imports(num_workers: int) -> None:
    """Set what libraries fix at import, before the worker imports them and forks tasks.

    That is how idle OpenMP threads wait, and OpenBLAS' number of threads with ``num_workers``.
    """
    _keep_idle_threads_asleep()
    share = max(1, num_cores() // max(1, num_workers))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(share))


def _keep_idle_threads_asleep() -> None:
    # Sparse convolutions are thousands of small matrix products. OpenMP's busy waiting between
    # them made a training step up to 50 times slower where other processes used the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def resolved(device: str) -> str:
    """The device for "auto": "cuda" where PyTorch finds a GPU, else "cpu"."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
