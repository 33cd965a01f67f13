"""Drawing a report's queries: which ones, from where, and what a scan has to show of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Protocol, TypeVar

import numpy as np

from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import TeacherCache
from data.threads import mapped
from data.types import Array, Scene
from stages.cloud3d import PackedCloud, pack_cloud
from stages.configs import ReportConfig
from stages.dollhouse import Corner, draw_below, draw_corners
from stages.pictures import best_corner
from stages.view_shots import Shots, view_shots


class Drawable(Protocol):
    """A scene with something to draw on it."""

    @property
    def scene(self) -> Scene:
        """The scan."""

    @property
    def teacher(self) -> TeacherCache | None:
        """What the teacher answered on its views."""

    @property
    def labels(self) -> PseudoLabels | None:
        """What fusion made of that."""


class Asked(Protocol):
    """A query of one scene."""

    @property
    def scene_id(self) -> str:
        """The scan it is about."""

    @property
    def prompt_id(self) -> str:
        """Its name."""


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
    """A scene's four upper corners, and its view from below for what those do not show.

    ``cloud`` are its points in 3D, None for a page without; ``shots`` its views by prompt id.
    """

    corners: list[Corner]
    below: Callable[[], list[Corner]]
    cloud: PackedCloud | None = None
    shots: Mapping[str, Shots] = field(default_factory=dict)

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
    scenes: Callable[[], Iterable[_Item]], rows: Sequence[_Row], cfg: ReportConfig
) -> Iterable[tuple[_Row, House, _Item]]:
    """Each row with its scene, which is drawn once for all its rows; no row, no scene.

    The next scenes are drawn in threads while rows of one are in use.
    """
    if not rows:
        return

    def drawn(item: _Item) -> tuple[list[_Row], House | None, _Item]:
        mine = [row for row in rows if row.scene_id == item.scene.scene_id]
        return mine, _house(item, [row.prompt_id for row in mine], cfg), item

    for mine, house, item in mapped(drawn, scenes()):
        if house is not None:
            yield from ((row, house, item) for row in mine)


def _house(item: Drawable, prompt_ids: Sequence[str], cfg: ReportConfig) -> House | None:
    """A scene drawn for these queries; None without any, or without a surface to draw."""
    size = cfg.picture_width, picture_height(cfg.picture_width)
    corners = draw_corners(item.scene, *size) if prompt_ids else []
    if not corners:
        return None
    below = cache(partial(draw_below, item.scene, *size))
    cloud = pack_cloud(item.scene, cfg.points) if cfg.points else None
    return House(corners, below, cloud, _shots(item, prompt_ids, cfg))


def _shots(item: Drawable, prompt_ids: Sequence[str], cfg: ReportConfig) -> dict[str, Shots]:
    if item.teacher is None or item.labels is None or not cfg.views + cfg.dropped_views:
        return {}
    return view_shots(item.scene, item.teacher, item.labels, prompt_ids, cfg)
