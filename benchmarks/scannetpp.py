"""Estimated cost of ScanNet++, from the cost of one synthetic scene of its size on this machine.

    python -m benchmarks.scannetpp

Prints the table of benchmarks/README.md: 1,006 scenes of 1 M points and 100 views of 1752 x 1168,
20 queries a scene. The cost of a stage is a constant plus a cost per view, from a scene of few
views and a scene of more. GPU hours are not measured: they are LISA's floating point operations
divided by the throughput of a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import chain, training
from benchmarks.chain import Costs, Size
from benchmarks.harness import SCALES
from benchmarks.table import machine, markdown
from stages.configs import StudentConfig

SCENES, TRAIN_SCENES, VIEWS, QUERIES = 1006, 856, 100, 20
_POINTS, _HEIGHT, _WIDTH = 1_000_000, 1168, 1752
_FEW, _MORE = 2, 6
_VIEW_TFLOP, _QUERY_TFLOP, _SCRATCH_TFLOP = 10.0, 0.55, 51.0
"""LISA-7B: a view's towers and prefix; a query on it; a query as the published code asks."""
_GPU_TFLOPS, _USED = 312.0, 0.4
"""An A100's bfloat16 operations a second at most, and the share that is taken to be reached."""


@dataclass(frozen=True)
class Linear:
    """A cost of one scene: ``scene`` + ``view`` x views."""

    scene: float
    view: float

    @classmethod
    def through(cls, few: float, more: float) -> Linear:
        """Fit the costs of few views and of more views."""
        view = max((more - few) / (_MORE - _FEW), 0.0)
        return cls(max(few - _FEW * view, 0.0), view)

    @property
    def of_all(self) -> float:
        """Return the cost of all scenes."""
        return SCENES * (self.scene + VIEWS * self.view)

    def formula(self, unit: str) -> str:
        """Write the cost as a formula."""
        return f"{SCENES:,} x ({self.scene:.3g} + {VIEWS} x {self.view:.3g}) {unit}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scannetpp", description=__doc__)
    parser.parse_args(arguments)
    few, more = (_measured(views) for views in (_FEW, _MORE))
    rows = [("what", "formula", "in all"), *_cpu(few, more), _learning(), *_gpu()]
    print(f"{machine()}\n\n{markdown([*rows, *_disk(few, more)])}")
    return 0


def _measured(views: int) -> Costs:
    inputs = chain.make_inputs(Size(_POINTS, views, QUERIES, _HEIGHT, _WIDTH))
    with tempfile.TemporaryDirectory() as folder:
        chain.run(inputs, Path(folder) / "warm")
        return chain.run(inputs, Path(folder) / "timed")


def _cpu(few: Costs, more: Costs) -> list[tuple[str, str, str]]:
    rows, total = [], 0.0
    for stage, seconds in few.seconds.items():
        if stage == "training sample":
            continue  # Part of a training step.
        cost = Linear.through(seconds, more.seconds[stage])
        total += cost.of_all
        rows.append((f"{stage}: hours", f"{cost.formula('s')} / 3600", _hours(cost.of_all)))
    return [*rows, ("these stages: hours", "the sum", _hours(total))]


def _learning() -> tuple[str, str, str]:
    with tempfile.TemporaryDirectory() as folder:
        timed = training.run(SCALES["full"], Path(folder), 1)[0]
    step, epochs = timed.ours / training.STEPS, StudentConfig().epochs
    formula = f"{TRAIN_SCENES} scenes x {epochs} epochs x {step:.3g} s / 3600"
    name = "student on the CPU (minkunet14, 100 k voxels a scene): hours"
    return name, formula, _hours(TRAIN_SCENES * epochs * step)


def _gpu() -> list[tuple[str, str, str]]:
    rate = f"({_GPU_TFLOPS:g} x {_USED} TFLOP/s x 3600 s)"
    ours = SCENES * VIEWS * (_VIEW_TFLOP + _QUERY_TFLOP * QUERIES)
    theirs = SCENES * VIEWS * QUERIES * _SCRATCH_TFLOP
    asked = f"{SCENES:,} x {VIEWS} x ({_VIEW_TFLOP:g} + {_QUERY_TFLOP} x {QUERIES}) TFLOP / {rate}"
    scratch = f"{SCENES:,} x {VIEWS} x {QUERIES} x {_SCRATCH_TFLOP:g} TFLOP / {rate}"
    per_second = _GPU_TFLOPS * _USED
    return [
        ("teacher, LISA-7B: hours of one A100", asked, _hours(ours / per_second)),
        ("asked as published, from scratch: hours", scratch, _hours(theirs / per_second)),
    ]


def _disk(few: Costs, more: Costs) -> list[tuple[str, str, str]]:
    rows, total = [], 0.0
    for stage, count in few.written.items():
        cost = Linear.through(count / 1e6, more.written[stage] / 1e6)
        total += cost.of_all
        gigabytes = f"{cost.of_all / 1e3:.3g} GB"
        rows.append((f"{stage}: disk", f"{cost.formula('MB')} / 1000", gigabytes))
    return [*rows, ("all: disk", "the sum", f"{total / 1e3:.3g} GB")]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.3g} h"


if __name__ == "__main__":
    sys.exit(main())
