"""Histograms of IoU as numbers that ``chart_macros.html.jinja`` turns into SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.artifacts.evaluation import QueryRow
from stages.charts import Tick

BINS = 10
WIDTH, HEIGHT = 320, 170
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 16, 20, 36
_GAP = 2.0


@dataclass(frozen=True)
class Column:
    """One bin: its bar in SVG units, how many values it has, and which ones in words."""

    x: float
    y: float
    width: float
    height: float
    count: int
    label: str


@dataclass(frozen=True)
class Histogram:
    """Columns over [0, 1] in a ``width`` x ``height`` box; ``total`` values, ``mean`` of them."""

    title: str
    columns: tuple[Column, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    total: int
    mean: float
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def iou_histograms(rows: Sequence[QueryRow], sources: Mapping[str, str]) -> list[Histogram]:
    """The strict IoU of queries that have a target, one histogram a source, on one scale.

    ``sources`` are their names by key. None for no such query: an absent object's strict IoU is 0
    by definition and would tell nothing.
    """
    there = [row for row in rows if row.target_count != "zero"]
    if not there:
        return []
    values = {source: [row.scores[source].iou for row in there] for source in sources}
    counts = {source: binned(values[source]) for source in sources}
    highest = max(max(of_source) for of_source in counts.values())
    return [
        _histogram(sources[source], counts[source], highest, sum(values[source]) / len(there))
        for source in sources
    ]


def binned(values: Sequence[float]) -> list[int]:
    """How many of the values in [0, 1] fall into each tenth; 1 belongs to the last.

    A value a rounding error under a tenth counts as that tenth.
    """
    counts = [0] * BINS
    for value in values:
        counts[min(int(value * BINS + 1e-4), BINS - 1)] += 1
    return counts


def _histogram(name: str, counts: Sequence[int], highest: int, mean: float) -> Histogram:
    wide = (WIDTH - _LEFT - _RIGHT) / BINS
    tall = (HEIGHT - _TOP - _BOTTOM) / highest
    bottom = HEIGHT - _BOTTOM
    columns = tuple(
        Column(
            round(_LEFT + k * wide + _GAP / 2, 1),
            round(bottom - count * tall, 1),
            round(wide - _GAP, 1),
            round(count * tall, 1),
            count,
            f"{100 * k // BINS} to {100 * (k + 1) // BINS} %: {count}",
        )
        for k, count in enumerate(counts)
    )
    x_ticks = tuple(
        Tick(round(_LEFT + share / 100 * BINS * wide, 1), str(share))
        for share in (0, 25, 50, 75, 100)
    )
    y_ticks = tuple(
        Tick(round(bottom - value * tall, 1), str(value)) for value in dict.fromkeys((0, highest))
    )
    return Histogram(name, columns, x_ticks, y_ticks, sum(counts), mean)
