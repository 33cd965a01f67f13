"""A comparison's pictures of queries, as numbers a template turns into SVG.

Marks differ in shape as well as in colour, so that nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.types import Array
from stages.charts import Tick

Kind = Literal["gained", "lost", "same"]
_SIZE, _LEFT, _TOP, _BOTTOM, _RIGHT = 340, 36, 28, 44, 16
_MARK = 4.5
_WIDE = 520
_BINS = 10
"""On either side of the bin in the middle, which is for changes under half a bin."""


@dataclass(frozen=True)
class Mark:
    """One query: an SVG path, and what to tell when it is pointed at."""

    kind: Kind
    path: str
    told: str


@dataclass(frozen=True)
class Scatter:
    """Marks in a square from 0 to 1 on both axes, in SVG units."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    title: str
    width: int = _SIZE
    height: int = _SIZE - _LEFT - _RIGHT + _TOP + _BOTTOM
    left: int = _LEFT
    right: int = _SIZE - _RIGHT
    top: int = _TOP
    bottom: int = _SIZE - _LEFT - _RIGHT + _TOP


@dataclass(frozen=True)
class Column:
    """A bar of a histogram, and how many queries it stands for."""

    kind: Kind
    x: float
    y: float
    width: float
    height: float
    count: int
    told: str


@dataclass(frozen=True)
class Histogram:
    """Bars over changes from -1 to 1; the one in the middle is for no change to speak of."""

    columns: tuple[Column, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    title: str
    width: int = _WIDE
    height: int = _SIZE - _LEFT - _RIGHT + _TOP + _BOTTOM
    left: int = _LEFT
    right: int = _WIDE - _RIGHT
    top: int = _TOP
    bottom: int = _SIZE - _LEFT - _RIGHT + _TOP


def kind_of(change: float) -> Kind:
    """Whether a query was gained or lost; the same only without any change."""
    return "gained" if change > 0 else "lost" if change < 0 else "same"


def _signed(points: int) -> str:
    return f"{points:+d}".replace("-", "\N{MINUS SIGN}") if points else "0"


def scatter(first: Array, second: Array, told: Sequence[str], names: tuple[str, str]) -> Scatter:
    """Marks of the IoU (Q,) in [0, 1] of each query in two runs; ``told`` names the queries.

    Above the diagonal the second run is the better one. ``names`` are those of the runs.
    """
    span = _SIZE - _LEFT - _RIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + x * span, 1), round(_TOP + (1 - y) * span, 1)

    marks = []
    for x, y, name in zip(first.tolist(), second.tolist(), told, strict=True):
        kind = kind_of(y - x)
        text = f"{name}: {100 * x:.0f} to {100 * y:.0f} ({100 * (y - x):+.0f})"
        marks.append(Mark(kind, _path(kind, *at(x, y)), text))
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Scatter(
        tuple(marks),
        tuple(Tick(at(value, 0)[0], f"{100 * value:g}") for value in values),
        tuple(Tick(at(0, value)[1], f"{100 * value:g}") for value in values),
        f"IoU, {names[0]}, %",
        f"IoU, {names[1]}, %",
        f"IoU of {len(marks)} queries: {names[1]} against {names[0]}, in percent",
    )


def _path(kind: Kind, x: float, y: float) -> str:
    if kind == "gained":
        return f"M{x - _MARK} {y + _MARK}h{2 * _MARK}l-{_MARK} -{2 * _MARK}z"
    if kind == "lost":
        return f"M{x - _MARK} {y - _MARK}h{2 * _MARK}l-{_MARK} {2 * _MARK}z"
    half = f"a{_MARK} {_MARK} 0 1 0"
    return f"M{x - _MARK} {y}{half} {2 * _MARK} 0{half} -{2 * _MARK} 0z"


def changes_histogram(changes: Array, names: tuple[str, str]) -> Histogram:
    """How many of (Q,) changes of IoU, in [-1, 1], fall into each tenth."""
    # Rounding halves to even treats gains and losses alike, so swapped runs give a mirror image.
    tenths = np.rint(changes * _BINS).astype(int)
    counts = np.bincount(tenths + _BINS, minlength=2 * _BINS + 1)
    low, high = _TOP, _SIZE - _LEFT - _RIGHT + _TOP
    top = int(counts.max(initial=1))
    step = (_WIDE - _LEFT - _RIGHT) / len(counts)
    columns = []
    for k, count in enumerate(counts.tolist()):
        height = round(count / top * (high - low), 1)
        middle = (k - _BINS) / _BINS
        kind = kind_of(k - _BINS)
        told = f"changed by about {_signed(round(100 * middle))}: {count}"
        x = round(_LEFT + k * step + 1, 1)
        columns.append(
            Column(kind, x, round(high - height, 1), round(step - 2, 1), height, count, told)
        )
    centre = [_LEFT + (k + 0.5) * step for k in range(len(counts))]
    ticks = (k for k in range(0, len(counts), _BINS // 2))
    return Histogram(
        tuple(columns),
        tuple(Tick(round(centre[k], 1), _signed(10 * (k - _BINS))) for k in ticks),
        tuple(
            Tick(round(high - s / top * (high - low), 1), str(s))
            for s in sorted({0, top // 2, top})
        ),
        f"change of IoU from {names[0]} to {names[1]}, points",
        f"Changes of IoU from {names[0]} to {names[1]}: {int((changes > 0).sum())} queries gained, "
        f"{int((changes < 0).sum())} lost, {int((changes == 0).sum())} as before",
    )
