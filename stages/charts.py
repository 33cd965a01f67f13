"""Small line charts as numbers a template can put into SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 640, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 28
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
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


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
        return round(_LEFT + (x - low_x) / span_x * (WIDTH - _LEFT - _RIGHT), 1)

    def place_y(y: float) -> float:
        return round(HEIGHT - _BOTTOM - (y - low_y) / span_y * (HEIGHT - _TOP - _BOTTOM), 1)

    return LineChart(
        " ".join(f"{place_x(x)},{place_y(y)}" for x, y in kept),
        tuple(Tick(place_x(x), f"{x:g}") for x in (min(xs), max(xs))),
        tuple(Tick(place_y(y), f"{y:.3g}") for y in (low_y, (low_y + high_y) / 2, high_y)),
        values[0][1],
        values[-1][1],
    )
