"""Charts of ablations as numbers and classes that a template turns into SVG.

Bars carry their arm's name and figure, lines their name at the end and a dash of their own, so
that nothing is told by colour alone; the colours are Okabe and Ito's. The macros of
``chart_macros.html.jinja`` draw them, in a page or in files of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.charts import Tick
from stages.templates import templates

WIDTH = 760
_ROW, _TOP, _BOTTOM = 26, 10, 34
_LEFT, _RIGHT = 300, 64
_PANEL_LEFT, _PANEL_RIGHT, _PANEL_TOP, _PANEL_BOTTOM = 44, 40, 30, 44
_GAP = 13.0


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
    width: int = WIDTH
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    row: int = _ROW
    top: int = _TOP


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
    width: int = WIDTH


def arm_bars(arms: Mapping[str, Mapping[str, Any]], figure: str, title: str) -> BarChart:
    """One bar an arm with its 95 % interval, in percent; arms without a figure are left out."""
    known = {name: arm for name, arm in arms.items() if arm[figure]["mean"] is not None}
    high = max([arm[figure]["ci95"][1] for arm in known.values()], default=0.0)
    top = _round_up(high)
    scale = (WIDTH - _LEFT - _RIGHT) / top

    def at(value: float) -> float:
        return round(_LEFT + scale * value, 1)

    bars = tuple(
        Bar(
            f"{name}: {arm['title']}",
            _TOP + k * _ROW,
            at(arm[figure]["mean"]),
            at(arm[figure]["ci95"][0]),
            at(arm[figure]["ci95"][1]),
            f"{100 * arm[figure]['mean']:.1f}",
        )
        for k, (name, arm) in enumerate(known.items())
    )
    ticks = tuple(Tick(at(value), _percent(value)) for value in _steps(top))
    return BarChart(bars, ticks, _TOP + len(bars) * _ROW + _BOTTOM, title)


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
    width = WIDTH / max(len(panels), 1)
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
        lowest = max(y, lowest + _GAP)
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
