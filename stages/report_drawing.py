"""Drawing a report's queries: which ones, from where, and as what bytes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, TypeVar

import numpy as np

from data.types import Array, Scene
from stages.dollhouse import Corner, draw_below, draw_corners
from stages.pictures import best_corner, webp


class Drawable(Protocol):
    """A scene with something to draw on it."""

    @property
    def scene(self) -> Scene:
        """The scan."""


class Asked(Protocol):
    """A query of one scene."""

    @property
    def scene_id(self) -> str:
        """The scan it is about."""


_Row = TypeVar("_Row", bound=Asked)
_Item = TypeVar("_Item", bound=Drawable)


def picture_height(width: int) -> int:
    """Height of a picture of that width, pixels."""
    return width * 5 // 6


def spread(rows: Sequence[_Row], count: int) -> list[_Row]:
    """At most ``count`` rows, evenly over all of them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in (np.arange(count) * len(rows) // max(count, 1)).tolist()]


@dataclass(frozen=True, eq=False)
class House:
    """A scene's four upper corners, and its view from below for what those do not show."""

    corners: list[Corner]
    below: Callable[[], list[Corner]]

    def viewpoint(self, masks: Sequence[Array]) -> tuple[Corner, str]:
        """The corner that shows most of the first mask, and what to know about it.

        Where that mask cannot be seen from any side, the corner is one that shows another.
        """
        wanted = [mask for mask in masks if mask.any()]
        corner, visible = best_corner(self.corners, wanted[:1])
        if not wanted or visible:
            return corner, ""
        corner, visible = best_corner(self.below(), wanted[:1])
        if visible:
            return corner, "Seen from below, through the floor."
        return best_corner(self.corners, wanted)[0], "Hidden from every side."


def with_houses(
    scenes: Callable[[], Iterable[_Item]], rows: Sequence[_Row], width: int
) -> Iterable[tuple[_Row, House, _Item]]:
    """Each row with its scene, which is drawn once for all its rows; no row, no scene."""
    if not rows:
        return
    size = width, picture_height(width)
    for item in scenes():
        mine = [row for row in rows if row.scene_id == item.scene.scene_id]
        corners = draw_corners(item.scene, *size) if mine else []
        if corners:
            house = House(corners, cache(partial(draw_below, item.scene, *size)))
            yield from ((row, house, item) for row in mine)


def data_uri(picture: Array) -> str:
    """An RGBA picture (H, W, 4) uint8 for a page that loads nothing."""
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode()
