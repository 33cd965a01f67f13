"""Functions that spawned processes of tests run; processes import them, so they are in a module."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from data.errors import DataError
from data.parallel import THREAD_VARIABLES
from data.types import Progress
from models.sparse.unet import SharedBatchNorm, count_rows
from stages.student import train_student
from tests.support.warm import forkserver
from tests.support.worlds.training_runs import CFG, Lazy

ROWS_OF_RANKS = {
    "unequal": ((5, True), (1, True), (7, True)),
    "one lent": ((4, True), (3, True), (2, False)),
    "one row in all": ((1, True), (1, False), (1, False)),
}
"""By case, of each of three processes: its rows, and whether they count."""
CHANNELS = 4
TRAINING = ("stages.student.train_student", "stages.nano.train")


def rows_of(case: str, rank: int) -> tuple[Tensor, Tensor]:
    """Return rows (N, C) of one process with a large mean, and weights of its output."""
    count, counts = ROWS_OF_RANKS[case][rank]
    rng = np.random.default_rng([sorted(ROWS_OF_RANKS).index(case), rank])
    rows = rng.normal(3.0, 2.0, (count, CHANNELS)).astype(np.float32)
    coefficients = rng.normal(size=(count, CHANNELS)).astype(np.float32) * counts
    return torch.from_numpy(rows), torch.from_numpy(coefficients)


def new_norm(norm: type[torch.nn.BatchNorm1d]) -> torch.nn.BatchNorm1d:
    """Return a layer with running statistics and weights other than 1 and 0."""
    layer = norm(CHANNELS)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        layer.bias.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    assert layer.running_mean is not None and layer.running_var is not None
    layer.running_mean.fill_(0.5)
    layer.running_var.fill_(1.5)
    return layer


def outcome_of(layer: torch.nn.BatchNorm1d, rows: Tensor, coefficients: Tensor) -> dict[str, Any]:
    """Return output, gradients of a weighted sum of it, and the layer's state afterwards."""
    rows = rows.clone().requires_grad_()
    output = layer(rows)
    (output * coefficients).sum().backward()
    return {
        "output": output.detach(),
        "rows": rows.grad,
        "weight": layer.weight.grad,
        "bias": layer.bias.grad,
        "state": layer.state_dict(),
    }


def normalise(fabric: Fabric, progress: Progress, folder: Path) -> None:
    """Run every case through the shared layer and write the results of each process."""
    fabric.launch()
    for case, ranks in ROWS_OF_RANKS.items():
        layer = new_norm(SharedBatchNorm)
        count_rows(torch.nn.Sequential(layer), ranks[fabric.global_rank][1])
        found = outcome_of(layer, *rows_of(case, fabric.global_rank))
        torch.save(found, folder / f"{case} {fabric.global_rank}.pt")


def warm_rank(
    rank: int, environment: dict[str, str], work: Callable[..., Any], *given: Any
) -> None:
    """Run ``work`` in a process of the fork server instead of a spawned process.

    Its parent is the fork server, which ends with the test process.
    """
    os.environ |= environment
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    with patch("stages.student.distributed.set_parent_death_signal", lambda: None):
        work(rank, *given)


def start_warm(
    work: Callable[..., Any], given: tuple[Any, ...], processes: int, join: bool, start_method: str
) -> Any:
    """Start processes like torch does, from the fork server."""
    assert start_method == "spawn"
    forkserver()
    # Importing spconv takes longer than such a training.
    multiprocessing.set_forkserver_preload(["tests.support.worlds.rank_imports", *TRAINING])
    told = {name: os.environ[name] for name in THREAD_VARIABLES}
    start: Any = start_processes
    return start(warm_rank, (told, work, *given), processes, join=join, start_method="forkserver")


def breaks(fabric: Fabric, progress: Progress) -> None:
    """Raise an error in one process while the other waits for it."""
    fabric.launch()
    if fabric.global_rank == 1:
        raise ZeroDivisionError("a bug of rank 1")
    fabric.barrier()


def tells_and_waits(fabric: Fabric, progress: Progress) -> None:
    """Report one step of progress, then run forever."""
    fabric.launch()
    progress(1, 2)
    time.sleep(600)


class Troubled(Lazy):
    """Scenes whose read fails in one process, by SIGKILL or as a damaged file."""

    def __init__(self, num: int, rank: int, read: int, killed: bool) -> None:
        super().__init__(num)
        self.rank, self.read, self.killed = rank, read, killed

    def __getitem__(self, index: Any) -> Any:
        scene = super().__getitem__(index)
        if os.environ.get("RANK") == str(self.rank) and self.reads == self.read:
            if self.killed:
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("scene.h5", "a scene", "half of one", "Run PrepareScene again.")
        return scene


class Endless(Lazy):
    """Scenes whose read writes a file named by the process and never ends."""

    def __init__(self, folder: Path) -> None:
        super().__init__(2)
        self.folder = folder

    def __getitem__(self, index: Any) -> Any:
        (self.folder / f"{os.getpid()}.pid").touch()
        time.sleep(600)


def train_endlessly(folder: Path) -> None:
    """Train in two processes that never end, forked from this one, which has imported all."""

    def forked(
        work: Callable[..., Any], given: Any, processes: int, join: bool, start_method: str
    ) -> Any:
        assert start_method == "spawn"
        start: Any = start_processes
        return start(work, given, processes, join=join, start_method="fork")

    with patch("stages.student.distributed.start_processes", forked):
        train_student.run(Endless(folder), CFG, folder, processes=2)
