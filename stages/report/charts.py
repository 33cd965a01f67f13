"""Charts as numbers that templates turn into SVG: lines, bars, histograms, scatter plots.

Marks differ in shape as well as in colour, bars carry their name and value, and lines have a
name at their end and a dash pattern, so no chart depends on colour alone. The colours are those
of Okabe and Ito. The macros of ``chart_macros.html.jinja`` and ``compare_charts.html.jinja`` draw
the charts, within a page or as SVG files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.artifacts.evaluation import QueryRow
from data.types import Array
from stages.report.html import templates

LINE_WIDTH, LINE_HEIGHT = 640, 200
_LINE_LEFT, _LINE_RIGHT, _LINE_TOP, _LINE_BOTTOM = 56, 12, 12, 28
_MAX_POINTS = 600


@dataclass(frozen=True)
class Tick:
    """A label and its position along an axis, in SVG units."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One polyline in a ``width`` x ``height`` box: SVG ``points`` and the ticks of both axes.

    ``first`` and ``last`` are the y values at both ends.
    """

    points: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    first: float
    last: float
    width: int = LINE_WIDTH
    height: int = LINE_HEIGHT
    left: int = _LINE_LEFT
    right: int = LINE_WIDTH - _LINE_RIGHT
    bottom: int = LINE_HEIGHT - _LINE_BOTTOM


def line_chart(values: Sequence[tuple[float, float]]) -> LineChart | None:
    """Make a chart of finite (x, y) pairs in the order given; None for fewer than two."""
    if len(values) < 2:
        return None
    stride = -(-len(values) // _MAX_POINTS)
    kept = [*values[:-1:stride], values[-1]]
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    low_x, span_x = min(xs), (max(xs) - min(xs)) or 1.0
    low_y, high_y = min(0.0, *ys), max(ys)
    span_y = (high_y - low_y) or 1.0
    bottom = LINE_HEIGHT - _LINE_BOTTOM

    def place_x(x: float) -> float:
        return round(_LINE_LEFT + (x - low_x) / span_x * (LINE_WIDTH - _LINE_LEFT - _LINE_RIGHT), 1)

    def place_y(y: float) -> float:
        return round(bottom - (y - low_y) / span_y * (bottom - _LINE_TOP), 1)

    return LineChart(
        " ".join(f"{place_x(x)},{place_y(y)}" for x, y in kept),
        tuple(Tick(place_x(x), f"{x:g}") for x in (min(xs), max(xs))),
        tuple(Tick(place_y(y), f"{y:.3g}") for y in (low_y, (low_y + high_y) / 2, high_y)),
        values[0][1],
        values[-1][1],
    )


BINS = 10
HISTOGRAM_WIDTH, HISTOGRAM_HEIGHT = 320, 170
_HISTOGRAM_LEFT, _HISTOGRAM_RIGHT, _HISTOGRAM_TOP, _HISTOGRAM_BOTTOM = 34, 16, 20, 36
_COLUMN_GAP = 2.0


Kind = Literal["gained", "lost", "same"]


@dataclass(frozen=True)
class Column:
    """One bin of a histogram: its bar in SVG units, its number of values, and a label.

    ``kind`` is "" where the bins are not about changes.
    """

    x: float
    y: float
    width: float
    height: float
    count: int
    label: str
    kind: Kind | Literal[""] = ""


@dataclass(frozen=True)
class Histogram:
    """Columns in a ``width`` x ``height`` box of SVG units, with their axes.

    The columns lie between ``left`` and ``right``, ``top`` and ``bottom``. ``mean`` is the mean of
    the values, None where it is not shown.
    """

    title: str
    columns: tuple[Column, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    mean: float | None = None

    @property
    def total(self) -> int:
        """The number of values in all columns."""
        return sum(column.count for column in self.columns)


def iou_histograms(rows: Sequence[QueryRow], sources: Mapping[str, str]) -> list[Histogram]:
    """Make a histogram of strict IoU for each source, all on one scale.

    ``sources`` holds the titles by key. Only queries that have a target count, because the strict
    IoU of an absent object is 0 by definition. The list is empty where no query has a target.
    """
    with_target = [row for row in rows if row.target_count != "zero"]
    if not with_target:
        return []
    values = {source: [row.scores[source].iou for row in with_target] for source in sources}
    counts = {source: binned(values[source]) for source in sources}
    highest = max(max(of_source) for of_source in counts.values())
    return [
        _histogram(sources[source], counts[source], highest, sum(values[source]) / len(with_target))
        for source in sources
    ]


def binned(values: Sequence[float]) -> list[int]:
    """Count the values in [0, 1] by tenths; 1 belongs to the last tenth.

    A value that lies a rounding error under a tenth counts as that tenth.
    """
    counts = [0] * BINS
    for value in values:
        counts[min(int(value * BINS + 1e-4), BINS - 1)] += 1
    return counts


def _histogram(name: str, counts: Sequence[int], highest: int, mean: float) -> Histogram:
    wide = (HISTOGRAM_WIDTH - _HISTOGRAM_LEFT - _HISTOGRAM_RIGHT) / BINS
    tall = (HISTOGRAM_HEIGHT - _HISTOGRAM_TOP - _HISTOGRAM_BOTTOM) / highest
    bottom = HISTOGRAM_HEIGHT - _HISTOGRAM_BOTTOM
    columns = tuple(
        Column(
            round(_HISTOGRAM_LEFT + k * wide + _COLUMN_GAP / 2, 1),
            round(bottom - count * tall, 1),
            round(wide - _COLUMN_GAP, 1),
            round(count * tall, 1),
            count,
            f"{100 * k // BINS} to {100 * (k + 1) // BINS} %: {count}",
        )
        for k, count in enumerate(counts)
    )
    x_ticks = tuple(
        Tick(round(_HISTOGRAM_LEFT + share / 100 * BINS * wide, 1), str(share))
        for share in (0, 25, 50, 75, 100)
    )
    y_ticks = tuple(
        Tick(round(bottom - value * tall, 1), str(value)) for value in dict.fromkeys((0, highest))
    )
    return Histogram(
        name,
        columns,
        x_ticks,
        y_ticks,
        "IoU, percent",
        HISTOGRAM_WIDTH,
        HISTOGRAM_HEIGHT,
        _HISTOGRAM_LEFT,
        HISTOGRAM_WIDTH - _HISTOGRAM_RIGHT,
        _HISTOGRAM_TOP,
        bottom,
        mean,
    )


_CHANGE_SIZE, _CHANGE_LEFT, _CHANGE_TOP, _CHANGE_BOTTOM, _CHANGE_RIGHT = 340, 36, 28, 44, 16
_MARK = 4.5
_CHANGE_WIDE = 520
_CHANGE_AXIS = _CHANGE_SIZE - _CHANGE_LEFT - _CHANGE_RIGHT + _CHANGE_TOP
"""SVG units from the top of a box to the axis at its bottom."""
_CHANGE_BINS = 10
"""Bins on either side of the middle bin, which holds changes under half a bin."""


@dataclass(frozen=True)
class Mark:
    """One query of a scatter plot: an SVG path and the label shown when it is pointed at."""

    kind: Kind
    path: str
    label: str


@dataclass(frozen=True)
class Scatter:
    """A scatter plot: marks in a square from 0 to 1 on both axes, in SVG units."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    x_label: str
    y_label: str
    title: str
    width: int = _CHANGE_SIZE
    height: int = _CHANGE_AXIS + _CHANGE_BOTTOM
    left: int = _CHANGE_LEFT
    right: int = _CHANGE_SIZE - _CHANGE_RIGHT
    top: int = _CHANGE_TOP
    bottom: int = _CHANGE_AXIS


def kind_of(change: float) -> Kind:
    """Return "gained" or "lost" by the sign of a change, "same" for exactly 0."""
    return "gained" if change > 0 else "lost" if change < 0 else "same"


def _signed(points: int) -> str:
    return f"{points:+d}".replace("-", "\N{MINUS SIGN}") if points else "0"


def scatter(first: Array, second: Array, labels: Sequence[str], names: tuple[str, str]) -> Scatter:
    """Plot the IoU (Q,) in [0, 1] of each query in two runs.

    ``labels`` are the names of the queries, ``names`` those of the runs. Marks above the diagonal
    are queries on which the second run is better.
    """
    span = _CHANGE_SIZE - _CHANGE_LEFT - _CHANGE_RIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return round(_CHANGE_LEFT + x * span, 1), round(_CHANGE_TOP + (1 - y) * span, 1)

    marks = []
    for x, y, name in zip(first.tolist(), second.tolist(), labels, strict=True):
        kind = kind_of(y - x)
        label = f"{name}: {100 * x:.0f} to {100 * y:.0f} ({100 * (y - x):+.0f})"
        marks.append(Mark(kind, _mark_path(kind, *at(x, y)), label))
    values = (0.0, 0.25, 0.5, 0.75, 1.0)
    return Scatter(
        tuple(marks),
        tuple(Tick(at(value, 0)[0], f"{100 * value:g}") for value in values),
        tuple(Tick(at(0, value)[1], f"{100 * value:g}") for value in values),
        f"IoU, {names[0]}, %",
        f"IoU, {names[1]}, %",
        f"IoU of {len(marks)} queries: {names[1]} against {names[0]}, in percent",
    )


def _mark_path(kind: Kind, x: float, y: float) -> str:
    if kind == "gained":
        return f"M{x - _MARK} {y + _MARK}h{2 * _MARK}l-{_MARK} -{2 * _MARK}z"
    if kind == "lost":
        return f"M{x - _MARK} {y - _MARK}h{2 * _MARK}l-{_MARK} {2 * _MARK}z"
    half = f"a{_MARK} {_MARK} 0 1 0"
    return f"M{x - _MARK} {y}{half} {2 * _MARK} 0{half} -{2 * _MARK} 0z"


def changes_histogram(changes: Array, names: tuple[str, str]) -> Histogram:
    """Make a histogram of changes of IoU (Q,) in [-1, 1], with bins of a tenth."""
    # Rounding halves to even treats gains and losses alike, so swapped runs give a mirror image.
    tenths = np.rint(changes * _CHANGE_BINS).astype(int)
    counts = np.bincount(tenths + _CHANGE_BINS, minlength=2 * _CHANGE_BINS + 1)
    low, high = _CHANGE_TOP, _CHANGE_AXIS
    top = int(counts.max(initial=1))
    step = (_CHANGE_WIDE - _CHANGE_LEFT - _CHANGE_RIGHT) / len(counts)
    columns = []
    for k, count in enumerate(counts.tolist()):
        height = round(count / top * (high - low), 1)
        middle = (k - _CHANGE_BINS) / _CHANGE_BINS
        kind = kind_of(k - _CHANGE_BINS)
        label = f"changed by about {_signed(round(100 * middle))}: {count}"
        x = round(_CHANGE_LEFT + k * step + 1, 1)
        columns.append(
            Column(x, round(high - height, 1), round(step - 2, 1), height, count, label, kind)
        )
    centre = [_CHANGE_LEFT + (k + 0.5) * step for k in range(len(counts))]
    ticks = (k for k in range(0, len(counts), _CHANGE_BINS // 2))
    title = (
        f"Changes of IoU from {names[0]} to {names[1]}: {int((changes > 0).sum())} queries gained, "
        f"{int((changes < 0).sum())} lost, {int((changes == 0).sum())} as before"
    )
    return Histogram(
        title,
        tuple(columns),
        tuple(Tick(round(centre[k], 1), _signed(10 * (k - _CHANGE_BINS))) for k in ticks),
        tuple(
            Tick(round(high - s / top * (high - low), 1), str(s))
            for s in sorted({0, top // 2, top})
        ),
        f"change of IoU from {names[0]} to {names[1]}, points",
        _CHANGE_WIDE,
        _CHANGE_AXIS + _CHANGE_BOTTOM,
        _CHANGE_LEFT,
        _CHANGE_WIDE - _CHANGE_RIGHT,
        _CHANGE_TOP,
        _CHANGE_AXIS,
    )


ARMS_WIDTH = 760
_BAR_ROW, _BAR_TOP, _BAR_BOTTOM = 26, 10, 34
_BAR_LEFT, _BAR_RIGHT = 300, 64
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 44, 40, 30, 44
_NAME_GAP = 13.0


@dataclass(frozen=True)
class Bar:
    """A bar from the axis to ``end`` and a whisker from ``low`` to ``high``, in SVG units."""

    label: str
    y: float
    end: float
    low: float
    high: float
    value: str


@dataclass(frozen=True)
class BarChart:
    """Bars from top to bottom in a ``width`` x ``height`` box."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    height: int
    title: str
    width: int = ARMS_WIDTH
    left: int = _BAR_LEFT
    right: int = ARMS_WIDTH - _BAR_RIGHT
    row: int = _BAR_ROW
    top: int = _BAR_TOP


@dataclass(frozen=True)
class Line:
    """One named polyline: SVG ``points``, the same as ``dots``, and the position of its name."""

    name: str
    number: int
    points: str
    dots: tuple[tuple[float, float], ...]
    name_x: float
    name_y: float


@dataclass(frozen=True)
class Panel:
    """Lines over common axes, which span ``left`` to ``right`` and ``top`` to ``bottom``."""

    title: str
    x_label: str
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class LineCharts:
    """Panels side by side in a ``width`` x ``height`` box."""

    panels: tuple[Panel, ...]
    title: str
    y_label: str
    height: int
    width: int = ARMS_WIDTH


def arm_bars(arms: Mapping[str, Mapping[str, Any]], metric: str, title: str) -> BarChart:
    """Make one bar in percent with its 95 % interval for each arm.

    ``metric`` is a key of the arms' entries; arms whose mean is None are left out.
    """
    with_mean = {name: arm for name, arm in arms.items() if arm[metric]["mean"] is not None}
    high = max([arm[metric]["ci95"][1] for arm in with_mean.values()], default=0.0)
    top = _round_up(high)
    scale = (ARMS_WIDTH - _BAR_LEFT - _BAR_RIGHT) / top

    def at(value: float) -> float:
        return round(_BAR_LEFT + scale * value, 1)

    bars = tuple(
        Bar(
            f"{name}: {arm['title']}",
            _BAR_TOP + k * _BAR_ROW,
            at(arm[metric]["mean"]),
            at(arm[metric]["ci95"][0]),
            at(arm[metric]["ci95"][1]),
            f"{100 * arm[metric]['mean']:.1f}",
        )
        for k, (name, arm) in enumerate(with_mean.items())
    )
    ticks = tuple(Tick(at(value), _percent(value)) for value in _steps(top))
    return BarChart(bars, ticks, _BAR_TOP + len(bars) * _BAR_ROW + _BAR_BOTTOM, title)


def _round_up(value: float) -> float:
    """Round up to the next tenth; 0.1 for 0."""
    return max(1, -int(-value * 10 // 1)) / 10


def _steps(top: float) -> list[float]:
    """Return round values from 0 to ``top``, a multiple of a tenth."""
    step = 1 if top < 0.55 else 2
    return [tenths / 10 for tenths in range(0, round(10 * top) + 1, step)]


def _percent(value: float) -> str:
    return f"{100 * value:g}"


def line_panels(
    panels: Sequence[tuple[str, Mapping[str, Sequence[tuple[float, float]]]]],
    title: str,
    x_label: str,
    y_label: str,
    height: int = 280,
) -> LineCharts:
    """Plot panels of (title, (x, y) pairs by line name) on common axes from 0.

    All values are fractions. ``height`` is that of the box, in SVG units.
    """
    pairs = [pair for _, lines in panels for line in lines.values() for pair in line]
    top_x, top_y = (_round_up(max([p[axis] for p in pairs], default=0.0)) for axis in (0, 1))
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    width = ARMS_WIDTH / max(len(panels), 1)
    finished = []
    for k, (panel_title, lines) in enumerate(panels):
        left, right = k * width + _PANEL_LEFT, (k + 1) * width - _PANEL_RIGHT
        top, bottom = float(_PANEL_TOP), float(height - _PANEL_BOTTOM)

        def place(
            x: float, y: float, left: float = left, right: float = right
        ) -> tuple[float, float]:
            at_x = left + x / top_x * (right - left)
            return round(at_x, 1), round(bottom - y / top_y * (bottom - top), 1)

        placed = {n: tuple(place(*pair) for pair in lines[n]) for n in names if lines.get(n)}
        drawn = _lines(placed, names)
        x_ticks = tuple(Tick(place(value, 0)[0], _percent(value)) for value in _steps(top_x))
        y_ticks = tuple(Tick(place(0, value)[1], _percent(value)) for value in _steps(top_y))
        finished.append(
            Panel(panel_title, x_label, drawn, x_ticks, y_ticks, left, right, top, bottom)
        )
    return LineCharts(tuple(finished), title, y_label, height)


def _lines(
    placed: Mapping[str, tuple[tuple[float, float], ...]], names: Sequence[str]
) -> tuple[Line, ...]:
    """Make lines in the order given. Names stand beside the last points and do not overlap."""
    ends = sorted((dots[-1][1], name) for name, dots in placed.items())
    name_y: dict[str, float] = {}
    lowest = float("-inf")
    for y, name in ends:
        lowest = max(y, lowest + _NAME_GAP)
        name_y[name] = round(lowest + 4, 1)
    return tuple(
        Line(
            name,
            names.index(name),
            " ".join(f"{x},{y}" for x, y in dots),
            dots,
            dots[-1][0] + 7,
            name_y[name],
        )
        for name, dots in placed.items()
    )


def drawn(chart: BarChart | LineCharts) -> str:
    """Render a chart as the text of an SVG file with styles for light and dark pages."""
    kind = "bars" if isinstance(chart, BarChart) else "lines"
    return templates().get_template("chart.svg.jinja").render(chart=chart, kind=kind)
