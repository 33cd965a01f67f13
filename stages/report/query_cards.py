"""Cards of queries on a page: pictures of the scan, thumbnails of views, masks in 3D.

Of the views that fusion kept, the heaviest are shown, and beside them some that it dropped: first
those whose mask the teacher believed most, for they are where the gate mattered.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, TeacherCache
from data.errors import DataError
from data.images import cells_to_pixels
from data.parallel import mapped
from data.types import Array, Scene
from stages.configs import ReportConfig
from stages.report.pictures import best_corner, webp, webp_uri
from stages.report.points3d import Modes, PackedCloud, pack_cloud, pack_masks
from stages.report.scan_renderer import Corner, draw_below, draw_corners
from stages.scene.view_images import read_image

TINT = (204, 121, 167)
"""Okabe and Ito's reddish purple: what a mask is shown in where nothing is said to be true."""
_SHARE = 0.5


@dataclass(frozen=True)
class ViewShot:
    """One view of one query.

    ``weight`` is its share of the fused label, 0 for a view that was dropped, and ``reason`` why;
    ``answer`` are the teacher's words; ``mask`` tells whether one is drawn: "said", "held back"
    or "". ``picture`` is a WebP, empty where the image cannot be read (``missing``) or where the
    page has no room for it.
    """

    view_id: str
    weight: float
    reason: str
    answer: str
    mask: str
    picture: bytes = b""
    missing: bool = False

    @property
    def uri(self) -> str:
        """The picture for a page that loads nothing; empty where there is none."""
        return webp_uri(self.picture) if self.picture else ""


@dataclass(frozen=True)
class Shots:
    """The views shown of a query, and how many were kept of how many."""

    views: tuple[ViewShot, ...]
    num_kept: int
    num_views: int


def view_shots(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    prompt_ids: Sequence[str],
    cfg: ReportConfig,
) -> dict[str, Shots]:
    """Shots by prompt id, of the queries that the teacher was asked of this scene.

    Every view's image and masks are read once, whatever the number of queries it is shown for.
    """
    asked = [name for name in prompt_ids if name in labels.prompt_ids]
    chosen = {name: _chosen(labels, labels.prompt_ids.index(name), cfg) for name in asked}
    told: dict[tuple[str, int], ViewShot] = {}
    for view in sorted({view for views in chosen.values() for view in views}):
        names = [name for name in asked if view in chosen[name]]
        told |= {(n, view): shot for n, shot in _shots(scene, teacher, labels, names, view, cfg)}
    kept = np.count_nonzero(labels.view_weights > 0, axis=1)
    return {
        name: Shots(
            tuple(told[name, view] for view in chosen[name]),
            int(kept[labels.prompt_ids.index(name)]),
            len(labels.view_ids),
        )
        for name in asked
    }


def _chosen(labels: PseudoLabels, query: int, cfg: ReportConfig) -> list[int]:
    """Views of a query to show: kept ones by weight, then dropped ones by belief."""
    weights, beliefs = labels.view_weights[query], labels.view_confidences[query]
    by_weight = np.argsort(-weights, kind="stable")
    kept = [int(view) for view in by_weight if weights[view] > 0][: cfg.views]
    by_belief = np.argsort(-beliefs, kind="stable")
    dropped = [int(view) for view in by_belief if weights[view] == 0][: cfg.dropped_views]
    return kept + dropped


def _shots(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    names: Sequence[str],
    view: int,
    cfg: ReportConfig,
) -> list[tuple[str, ViewShot]]:
    """What one view has to show of several queries."""
    view_id = labels.view_ids[view]
    column = teacher.view_ids.index(view_id)
    image = _small(scene, view_id, cfg.view_width)
    logits = teacher.mask_logits(column)
    shots = []
    for name in names:
        query, row = teacher.prompt_ids.index(name), labels.prompt_ids.index(name)
        drawn = bool(teacher.drawn[column, query])
        said = teacher.status[column, query] == MASK
        answer = teacher.answers[column][query]
        failed = teacher.status[column, query] == FAILED
        shot = ViewShot(
            view_id,
            float(labels.view_weights[row, view]),
            labels.drop_reasons[row][view],
            f"failed: {answer}" if failed else answer,
            ("said" if said else "held back") if drawn else "",
            missing=image is None,
        )
        if image is not None:
            mask = None
            if drawn:
                extent = (float(teacher.mask_extent[0]), float(teacher.mask_extent[1]))
                mask = cells_to_pixels(logits[query : query + 1], extent, image.shape[:2])[0] > 0
            shot = replace(shot, picture=_webp(_overlaid(image, mask)))
        shots.append((name, shot))
    return shots


def _small(scene: Scene, view_id: str, width: int) -> Array | None:
    """A view's image, (h, width, 3) uint8; None where it cannot be read, as after a move."""
    view = next(view for view in scene.views if view.view_id == view_id)
    try:
        image = Image.fromarray(read_image(view))
    except DataError:
        return None
    height = max(1, round(image.height * width / image.width))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _overlaid(image: Array, mask: Array | None) -> Array:
    """The image with a mask tinted and outlined, so that it shows on any colour."""
    if mask is None or not mask.any():
        return image
    picture = image.astype(np.float32)
    picture[mask] = (1 - _SHARE) * picture[mask] + _SHARE * np.array(TINT, np.float32)
    picture[mask & ~binary_erosion(mask)] = TINT
    return np.rint(picture).astype(np.uint8)


def _webp(picture: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=60, method=4)
    return stream.getvalue()


def within_budget(shots: Mapping[str, Shots], most: float) -> dict[str, Shots]:
    """The same with at most ``most`` bytes of pictures: the first of each query, then the second.

    Views whose picture there is no room for keep their words.
    """
    left = most
    kept: set[tuple[str, int]] = set()
    for rank in range(max((len(one.views) for one in shots.values()), default=0)):
        for name, one in shots.items():
            size = len(one.views[rank].picture) if rank < len(one.views) else 0
            if 0 < size <= left:
                left -= size
                kept.add((name, rank))
    return {
        name: replace(
            one,
            views=tuple(
                view if (name, rank) in kept else replace(view, picture=b"")
                for rank, view in enumerate(one.views)
            ),
        )
        for name, one in shots.items()
    }


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
    return House(corners, below, cloud, _shots_of_query(item, prompt_ids, cfg))


def _shots_of_query(
    item: Drawable, prompt_ids: Sequence[str], cfg: ReportConfig
) -> dict[str, Shots]:
    if item.teacher is None or item.labels is None or not cfg.views + cfg.dropped_views:
        return {}
    return view_shots(item.scene, item.teacher, item.labels, prompt_ids, cfg)


_BASE64 = 4 / 3


@dataclass(frozen=True)
class Card:
    """One query: pictures as data URIs by name, and what to know about the viewpoint.

    ``cloud`` is the element with the scan's points, "" without 3D; ``mask`` this query's layers
    (``stages.report.points3d``); ``outward`` where the pictures are seen from, three numbers of a
    direction. ``shots`` are the teacher's views, None where it was not asked.
    """

    pictures: Mapping[str, str]
    note: str
    cloud: str = ""
    mask: str = ""
    outward: str = ""
    shots: Shots | None = None


class Album:
    """Cards by prompt id as they are made, and by their elements' ids the clouds they share."""

    def __init__(self, modes: Modes) -> None:
        self.modes = modes
        self.cards: dict[str, Card] = {}
        self.clouds: dict[str, PackedCloud] = {}

    def add(
        self,
        prompt_id: str,
        house: House,
        viewpoint: tuple[Corner, str],
        pictures: Mapping[str, Array],
        layers: Mapping[str, Array],
    ) -> None:
        """A card; ``layers`` are masks (N,) bool over the scan's points."""
        corner, note = viewpoint
        uris = {name: webp_uri(webp(picture)) for name, picture in pictures.items()}
        card = Card(uris, note, shots=house.shots.get(prompt_id))
        if house.cloud is not None:
            card = replace(
                card,
                cloud=self._element(house.cloud),
                mask=pack_masks(self.modes.layers, layers, house.cloud),
                outward=" ".join(f"{value:.3f}" for value in corner.outward),
            )
        self.cards[prompt_id] = card

    def _element(self, cloud: PackedCloud) -> str:
        for name, known in self.clouds.items():
            if known.scene_id == cloud.scene_id:
                return name
        name = f"cloud{len(self.clouds)}"
        self.clouds[name] = cloud
        return name

    def close(self, view_megabytes: float) -> None:
        """Leave out pictures of views that the page has no room for."""
        shots = {name: card.shots for name, card in self.cards.items() if card.shots is not None}
        for name, kept in within_budget(shots, view_megabytes * 1e6 / _BASE64).items():
            self.cards[name] = replace(self.cards[name], shots=kept)
