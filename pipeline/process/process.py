"""A worker process: parent-death signal, its share of the threads, its device."""

from __future__ import annotations

import os
import sys

import luigi

from data.parallel import THREAD_VARIABLES, die_with_parent

__all__ = (
    "die_with_parent",
    "is_central",
    "limit_threads",
    "num_cores",
    "prepare_imports",
    "resolved",
)

GRANTED = "SLURM_CPUS_PER_TASK"
"""Slurm's variable of a job that asked for a number of cores."""


def num_cores() -> int:
    """Cores that this process may use: those it may run on, and of these what Slurm granted.

    ``os.cpu_count`` knows of neither: on a shared node it counts other people's cores, too.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    granted = os.environ.get(GRANTED, "")
    return min(allowed, max(1, int(granted))) if granted.isdecimal() else allowed


def is_central() -> bool:
    """Whether this run asks a scheduler that serves other hosts, too.

    Such a one knows no hosts: a task has the resources that the last worker to announce it named.
    """
    return not luigi.interface.core().local_scheduler


def limit_threads(count: int) -> None:
    """Give numerical libraries ``count`` threads, unless the user chose.

    Libraries read their number from the environment when they are imported, and Numba when it
    compiles; torch is told, where the parent has imported it. OpenBLAS, where it has, keeps the
    number of ``prepare_imports``.
    """
    _keep_idle_threads_asleep()
    user_chose = "OMP_NUM_THREADS" in os.environ
    for variable in THREAD_VARIABLES:
        os.environ.setdefault(variable, str(count))
    if "torch" in sys.modules and not user_chose:
        sys.modules["torch"].set_num_threads(count)


def prepare_imports(num_workers: int) -> None:
    """Set what is fixed once libraries are imported, before workers are forked that have them.

    That is how idle threads wait, and how many threads OpenBLAS has in each of ``num_workers``.
    """
    _keep_idle_threads_asleep()
    share = max(1, num_cores() // max(1, num_workers))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(share))


def _keep_idle_threads_asleep() -> None:
    # Sparse convolutions are thousands of small matrix products: wherever another process wants
    # the same cores, OpenMP's spinning between them made a training step up to 50 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def resolved(device: str) -> str:
    """``auto`` as the device it means on this machine."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
