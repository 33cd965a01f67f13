"""Charts as numbers that templates turn into SVG: lines, bars, histograms, scatter plots.

Marks differ in shape as well as in colour, so that nothing is told by colour alone.

Bars carry their arm's name and figure, lines their name at the end and a dash of their own, so
that nothing is told by colour alone; the colours are Okabe and Ito's. The macros of
``chart_macros.html.jinja`` draw them, in a page or in files of their own.
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
    """A label and where it stands along its axis, in SVG units."""

    at: float
    label: str


@dataclass(frozen=True)
class LineChart:
    """One polyline in a ``WIDTH`` x ``HEIGHT`` box: SVG ``points`` and the axes' ticks."""

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
    """Chart of finite (x, y) pairs in the order given; None for fewer than two."""
    if len(values) < 2:
        return None
    stride = -(-len(values) // _MAX_POINTS)
    kept = [*values[:-1:stride], values[-1]]
    xs, ys = [x for x, _ in kept], [y for _, y in kept]
    low_x, span_x = min(xs), (max(xs) - min(xs)) or 1.0
    low_y, high_y = min(0.0, *ys), max(ys)
    span_y = (high_y - low_y) or 1.0

    def place_x(x: float) -> float:
        return round(_LINE_LEFT + (x - low_x) / span_x * (LINE_WIDTH - _LINE_LEFT - _LINE_RIGHT), 1)

    def place_y(y: float) -> float:
        return round(
            LINE_HEIGHT
            - _LINE_BOTTOM
            - (y - low_y) / span_y * (LINE_HEIGHT - _LINE_TOP - _LINE_BOTTOM),
            1,
        )

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

    The axes are drawn from ``left`` to ``right`` and at ``bottom``. ``mean`` is the mean of the
    values, None where it is not shown.
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
    bottom: int
    mean: float | None = None

    @property
    def total(self) -> int:
        """The number of values in all columns."""
        return sum(column.count for column in self.columns)


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
        bottom,
        mean,
    )


_CHANGE_SIZE, _CHANGE_LEFT, _CHANGE_TOP, _CHANGE_BOTTOM, _CHANGE_RIGHT = 340, 36, 28, 44, 16
_MARK = 4.5
_CHANGE_WIDE = 520
_CHANGE_AXIS = _CHANGE_SIZE - _CHANGE_LEFT - _CHANGE_RIGHT + _CHANGE_TOP
"""SVG units from the top of a box to the axis at its bottom."""
_CHANGE_BINS = 10
"""On either side of the bin in the middle, which is for changes under half a bin."""


@dataclass(frozen=True)
class Mark:
    """One query: an SVG path, and what to tell when it is pointed at."""

    kind: Kind
    path: str
    label: str


@dataclass(frozen=True)
class Scatter:
    """Marks in a square from 0 to 1 on both axes, in SVG units."""

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
    """Whether a query was gained or lost; the same only without any change."""
    return "gained" if change > 0 else "lost" if change < 0 else "same"


def _signed(points: int) -> str:
    return f"{points:+d}".replace("-", "\N{MINUS SIGN}") if points else "0"


def scatter(first: Array, second: Array, told: Sequence[str], names: tuple[str, str]) -> Scatter:
    """Marks of the IoU (Q,) in [0, 1] of each query in two runs; ``told`` names the queries.

    Above the diagonal the second run is the better one. ``names`` are those of the runs.
    """
    span = _CHANGE_SIZE - _CHANGE_LEFT - _CHANGE_RIGHT

    def at(x: float, y: float) -> tuple[float, float]:
        return round(_CHANGE_LEFT + x * span, 1), round(_CHANGE_TOP + (1 - y) * span, 1)

    marks = []
    for x, y, name in zip(first.tolist(), second.tolist(), told, strict=True):
        kind = kind_of(y - x)
        text = f"{name}: {100 * x:.0f} to {100 * y:.0f} ({100 * (y - x):+.0f})"
        marks.append(Mark(kind, _mark_path(kind, *at(x, y)), text))
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
    """How many of (Q,) changes of IoU, in [-1, 1], fall into each tenth."""
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
        _CHANGE_AXIS,
    )


ARMS_WIDTH = 760
_BAR_ROW, _BAR_TOP, _BAR_BOTTOM = 26, 10, 34
_BAR_LEFT, _BAR_RIGHT = 300, 64
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 44, 40, 30, 44
_NAME_GAP = 13.0


@dataclass(frozen=True)
class Bar:
    """A bar from the axis to ``end``, a whisker from ``low`` to ``high``, all SVG units."""

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
    """One named polyline: SVG ``points``, each of them also as ``dots``; its name at ``name_y``."""

    name: str
    number: int
    points: str
    dots: tuple[tuple[float, float], ...]
    name_x: float
    name_y: float


@dataclass(frozen=True)
class Panel:
    """Lines over common axes; ``left`` to ``right`` and ``top`` to ``bottom`` are the axes'."""

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


def arm_bars(arms: Mapping[str, Mapping[str, Any]], figure: str, title: str) -> BarChart:
    """One bar an arm with its 95 % interval, in percent; arms without a figure are left out."""
    known = {name: arm for name, arm in arms.items() if arm[figure]["mean"] is not None}
    high = max([arm[figure]["ci95"][1] for arm in known.values()], default=0.0)
    top = _round_up(high)
    scale = (ARMS_WIDTH - _BAR_LEFT - _BAR_RIGHT) / top

    def at(value: float) -> float:
        return round(_BAR_LEFT + scale * value, 1)

    bars = tuple(
        Bar(
            f"{name}: {arm['title']}",
            _BAR_TOP + k * _BAR_ROW,
            at(arm[figure]["mean"]),
            at(arm[figure]["ci95"][0]),
            at(arm[figure]["ci95"][1]),
            f"{100 * arm[figure]['mean']:.1f}",
        )
        for k, (name, arm) in enumerate(known.items())
    )
    ticks = tuple(Tick(at(value), _percent(value)) for value in _steps(top))
    return BarChart(bars, ticks, _BAR_TOP + len(bars) * _BAR_ROW + _BAR_BOTTOM, title)


def _round_up(value: float) -> float:
    """The next tenth; 0.1 for nothing."""
    return max(1, -int(-value * 10 // 1)) / 10


def _steps(top: float) -> list[float]:
    """Round values from 0 to ``top``, a number of tenths."""
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
    """Panels (title, (x, y) pairs by line) on common axes from 0, all values fractions."""
    pairs = [pair for _, lines in panels for line in lines.values() for pair in line]
    top_x, top_y = (_round_up(max([p[axis] for p in pairs], default=0.0)) for axis in (0, 1))
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    width = ARMS_WIDTH / max(len(panels), 1)
    made = []
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
        made.append(Panel(panel_title, x_label, drawn, x_ticks, y_ticks, left, right, top, bottom))
    return LineCharts(tuple(made), title, y_label, height)


def _lines(
    placed: Mapping[str, tuple[tuple[float, float], ...]], names: Sequence[str]
) -> tuple[Line, ...]:
    """Lines in the order given, their names beside their last points and apart from each other."""
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
    """The chart as an SVG file of its own, for light and dark pages."""
    kind = "bars" if isinstance(chart, BarChart) else "lines"
    return templates().get_template("chart.svg.jinja").render(chart=chart, kind=kind)
