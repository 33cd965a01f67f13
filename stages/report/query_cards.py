"""Cards of queries on a page: pictures of the scan, thumbnails of views, masks in 3D.

Of the views that fusion kept, those of largest weight are shown, and beside them some views that
fusion dropped: those on which the teacher was most confident.
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
from data.types import Array, Progress, Scene
from stages.configs import ReportConfig
from stages.report.pictures import best_viewpoint, webp, webp_uri
from stages.report.points3d import Modes, PackedCloud, pack_cloud, pack_masks
from stages.report.scan_renderer import Viewpoint, render_from_below, render_upper_corners
from stages.scene.view_images import read_image

TINT = (204, 121, 167)
"""Reddish purple of Okabe and Ito, the colour of masks that are not compared with a truth."""
_SHARE = 0.5


@dataclass(frozen=True)
class ViewThumbnail:
    """One view of one query.

    ``weight`` is the view's share of the fused label, 0 for a dropped view, and ``reason`` tells
    why it was dropped. ``answer`` holds the teacher's words; ``mask`` is "answered" for a mask of
    the answer, "withheld" for the mask of an answer without [SEG], "" for none. ``picture`` is a
    WebP, empty where the image cannot be read (``missing``) or where the page's limit is reached.
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
        """The picture as a data URI; empty without a picture."""
        return webp_uri(self.picture) if self.picture else ""


@dataclass(frozen=True)
class ViewThumbnails:
    """The views shown of a query, and the numbers of views kept and of all views."""

    views: tuple[ViewThumbnail, ...]
    num_kept: int
    num_views: int


def view_thumbnails(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    prompt_ids: Sequence[str],
    cfg: ReportConfig,
) -> dict[str, ViewThumbnails]:
    """Make thumbnails by prompt id for the queries that the teacher was asked on this scene.

    Every view's image and masks are read once for all queries.
    """
    asked_ids = [name for name in prompt_ids if name in labels.prompt_ids]
    chosen = {name: _chosen(labels, labels.prompt_ids.index(name), cfg) for name in asked_ids}
    thumbnails: dict[tuple[str, int], ViewThumbnail] = {}
    for view in sorted({view for views in chosen.values() for view in views}):
        names = [name for name in asked_ids if view in chosen[name]]
        thumbnails |= {
            (n, view): thumbnail
            for n, thumbnail in _thumbnails_of_view(scene, teacher, labels, names, view, cfg)
        }
    kept = np.count_nonzero(labels.view_weights > 0, axis=1)
    return {
        name: ViewThumbnails(
            tuple(thumbnails[name, view] for view in chosen[name]),
            int(kept[labels.prompt_ids.index(name)]),
            len(labels.view_ids),
        )
        for name in asked_ids
    }


def _chosen(labels: PseudoLabels, query: int, cfg: ReportConfig) -> list[int]:
    """Choose the views of a query: kept views by weight, then dropped views by confidence."""
    weights, confidences = labels.view_weights[query], labels.view_confidences[query]
    by_weight = np.argsort(-weights, kind="stable")
    kept = [int(view) for view in by_weight if weights[view] > 0][: cfg.views]
    by_confidence = np.argsort(-confidences, kind="stable")
    dropped = [int(view) for view in by_confidence if weights[view] == 0][: cfg.dropped_views]
    return kept + dropped


def _thumbnails_of_view(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    names: Sequence[str],
    view: int,
    cfg: ReportConfig,
) -> list[tuple[str, ViewThumbnail]]:
    """Make the thumbnails of one view for several queries."""
    view_id = labels.view_ids[view]
    column = teacher.view_ids.index(view_id)
    image = _small(scene, view_id, cfg.view_width)
    logits = teacher.mask_logits(column)
    thumbnails = []
    for name in names:
        query, row = teacher.prompt_ids.index(name), labels.prompt_ids.index(name)
        drawn = bool(teacher.drawn[column, query])
        has_mask = teacher.status[column, query] == MASK
        answer = teacher.answers[column][query]
        failed = teacher.status[column, query] == FAILED
        thumbnail = ViewThumbnail(
            view_id,
            float(labels.view_weights[row, view]),
            labels.drop_reasons[row][view],
            f"failed: {answer}" if failed else answer,
            ("answered" if has_mask else "withheld") if drawn else "",
            missing=image is None,
        )
        if image is not None:
            mask = None
            if drawn:
                extent = (float(teacher.mask_extent[0]), float(teacher.mask_extent[1]))
                mask = cells_to_pixels(logits[query : query + 1], extent, image.shape[:2])[0] > 0
            thumbnail = replace(thumbnail, picture=_webp(_overlaid(image, mask)))
        thumbnails.append((name, thumbnail))
    return thumbnails


def _small(scene: Scene, view_id: str, width: int) -> Array | None:
    """Read a view's image at (h, width, 3) uint8; None where the file cannot be read."""
    view = next(view for view in scene.views if view.view_id == view_id)
    try:
        image = Image.fromarray(read_image(view))
    except DataError:
        return None
    height = max(1, round(image.height * width / image.width))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _overlaid(image: Array, mask: Array | None) -> Array:
    """Tint and outline a mask, so that it shows on any colour."""
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


def within_budget(
    thumbnails: Mapping[str, ViewThumbnails], most: float
) -> dict[str, ViewThumbnails]:
    """Keep at most ``most`` bytes of pictures: the first of each query, then the second, ...

    Views that lose their picture keep their words.
    """
    bytes_left = most
    kept: set[tuple[str, int]] = set()
    for rank in range(max((len(of_query.views) for of_query in thumbnails.values()), default=0)):
        for name, of_query in thumbnails.items():
            size = len(of_query.views[rank].picture) if rank < len(of_query.views) else 0
            if 0 < size <= bytes_left:
                bytes_left -= size
                kept.add((name, rank))
    return {
        name: replace(
            of_query,
            views=tuple(
                view if (name, rank) in kept else replace(view, picture=b"")
                for rank, view in enumerate(of_query.views)
            ),
        )
        for name, of_query in thumbnails.items()
    }


class Drawable(Protocol):
    """A scene that cards are drawn of."""

    @property
    def scene(self) -> Scene:
        """The scan."""

    @property
    def teacher(self) -> TeacherCache | None:
        """The teacher's answers on its views, None where they are not shown."""

    @property
    def labels(self) -> PseudoLabels | None:
        """The labels that fusion made from these answers."""


class SceneRow(Protocol):
    """A query of one scene."""

    @property
    def scene_id(self) -> str:
        """The id of its scene."""

    @property
    def prompt_id(self) -> str:
        """The id of the query."""


_Row = TypeVar("_Row", bound=SceneRow)
_Item = TypeVar("_Item", bound=Drawable)


def picture_height(width: int) -> int:
    """Return the height of a picture ``width`` pixels wide, pixels."""
    return width * 5 // 6


def spread(rows: Sequence[_Row], count: int) -> list[_Row]:
    """Choose at most ``count`` rows, evenly over all rows."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in (np.arange(count) * len(rows) // max(count, 1)).tolist()]


@dataclass(frozen=True, eq=False)
class RenderedScan:
    """A scan rendered from its four upper corners, and from below where those do not suffice.

    ``below`` renders the scan from below, once, when it is called. ``cloud`` holds the points of
    the 3D view, None for a page without one. ``thumbnails`` holds the teacher's views by prompt id.
    """

    viewpoints: list[Viewpoint]
    below: Callable[[], list[Viewpoint]]
    cloud: PackedCloud | None = None
    thumbnails: Mapping[str, ViewThumbnails] = field(default_factory=dict)

    def choose_viewpoint(self, masks: Sequence[Array]) -> tuple[Viewpoint, str]:
        """Return the viewpoint that shows most of the first mask that is not empty, and a note.

        Where no viewpoint shows that mask, the viewpoint is one that shows another mask. The note
        is a sentence for the reader of the page, "" for an upper corner that shows the mask.
        """
        drawn = [mask for mask in masks if mask.any()]
        viewpoint, is_visible = best_viewpoint(self.viewpoints, drawn[:1])
        if not drawn or is_visible:
            return viewpoint, ""
        viewpoint, is_visible = best_viewpoint(self.below(), drawn[:1])
        if is_visible:
            return viewpoint, "Seen from below, through the floor."
        return best_viewpoint(self.viewpoints, drawn)[0], "Hidden from every side."


def with_rendered_scans(
    scenes: Callable[[], Iterable[_Item]], rows: Sequence[_Row], cfg: ReportConfig
) -> Iterable[tuple[_Row, RenderedScan, _Item]]:
    """Yield each row with its rendered scan and its scene.

    A scan is rendered once for all its rows, and not at all without a row. Threads render the
    next scans while the caller uses the rows of one scan.
    """
    if not rows:
        return

    def rendered_rows(item: _Item) -> tuple[list[_Row], RenderedScan | None, _Item]:
        of_scene = [row for row in rows if row.scene_id == item.scene.scene_id]
        return of_scene, _render_scan(item, [row.prompt_id for row in of_scene], cfg), item

    for of_scene, rendered, item in mapped(rendered_rows, scenes()):
        if rendered is not None:
            yield from ((row, rendered, item) for row in of_scene)


def _render_scan(
    item: Drawable, prompt_ids: Sequence[str], cfg: ReportConfig
) -> RenderedScan | None:
    """Render a scene for these queries; None without a query, or without a triangle to draw."""
    size = cfg.picture_width, picture_height(cfg.picture_width)
    viewpoints = render_upper_corners(item.scene, *size) if prompt_ids else []
    if not viewpoints:
        return None
    below = cache(partial(render_from_below, item.scene, *size))
    cloud = pack_cloud(item.scene, cfg.points) if cfg.points else None
    return RenderedScan(viewpoints, below, cloud, _thumbnails(item, prompt_ids, cfg))


def _thumbnails(
    item: Drawable, prompt_ids: Sequence[str], cfg: ReportConfig
) -> dict[str, ViewThumbnails]:
    if item.teacher is None or item.labels is None or not cfg.views + cfg.dropped_views:
        return {}
    return view_thumbnails(item.scene, item.teacher, item.labels, prompt_ids, cfg)


_BASE64 = 4 / 3
"""Characters of base64 text for each byte."""


@dataclass(frozen=True)
class Card:
    """One query of a page: its pictures as data URIs by name, and a note on the viewpoint.

    ``cloud`` is the id of the element with the scan's points, "" without a 3D view. ``mask`` holds
    the query's layers as text (``stages.report.points3d``). ``outward`` holds three numbers: the
    direction from the scan to the viewpoint. ``thumbnails`` are the teacher's views, None where
    the teacher was not asked.
    """

    pictures: Mapping[str, str]
    note: str
    cloud: str = ""
    mask: str = ""
    outward: str = ""
    thumbnails: ViewThumbnails | None = None


@dataclass(frozen=True, eq=False)
class DrawnQuery:
    """The content of a card: RGBA pictures (H, W, 4) uint8 by name, seen from ``viewpoint``.

    ``note`` is a sentence about the viewpoint. ``layers`` are masks (N,) bool over the scan's
    points, by the names of the page's layers.
    """

    viewpoint: Viewpoint
    note: str
    pictures: Mapping[str, Array]
    layers: Mapping[str, Array]


class Album:
    """The cards of a page by prompt id, and the point clouds they share by element id."""

    def __init__(self, modes: Modes) -> None:
        self.modes = modes
        self.cards: dict[str, Card] = {}
        self.clouds: dict[str, PackedCloud] = {}

    def add(self, prompt_id: str, rendered: RenderedScan, drawn: DrawnQuery) -> None:
        """Add the card of one query on a rendered scan."""
        uris = {name: webp_uri(webp(picture)) for name, picture in drawn.pictures.items()}
        card = Card(uris, drawn.note, thumbnails=rendered.thumbnails.get(prompt_id))
        if rendered.cloud is not None:
            card = replace(
                card,
                cloud=self._element(rendered.cloud),
                mask=pack_masks(self.modes.layers, drawn.layers, rendered.cloud),
                outward=" ".join(f"{value:.3f}" for value in drawn.viewpoint.outward),
            )
        self.cards[prompt_id] = card

    def _element(self, cloud: PackedCloud) -> str:
        for name, added in self.clouds.items():
            if added.scene_id == cloud.scene_id:
                return name
        name = f"cloud{len(self.clouds)}"
        self.clouds[name] = cloud
        return name

    def limit_thumbnails(self, view_megabytes: float) -> None:
        """Remove pictures of views beyond ``view_megabytes`` MB (1e6 bytes) of base64 text."""
        thumbnails = {
            name: card.thumbnails
            for name, card in self.cards.items()
            if card.thumbnails is not None
        }
        for name, kept in within_budget(thumbnails, view_megabytes * 1e6 / _BASE64).items():
            self.cards[name] = replace(self.cards[name], thumbnails=kept)


def make_album(
    modes: Modes,
    scenes: Callable[[], Iterable[_Item]],
    rows: Sequence[_Row],
    cfg: ReportConfig,
    draw: Callable[[_Row, RenderedScan, _Item], DrawnQuery | None],
    progress: Progress,
) -> Album:
    """Make the cards of ``rows`` with ``draw``, which returns None for a row without a card.

    ``progress`` gets (cards made, rows).
    """
    album = Album(modes)
    for row, rendered, item in with_rendered_scans(scenes, rows, cfg):
        drawn = draw(row, rendered, item)
        if drawn is not None:
            album.add(row.prompt_id, rendered, drawn)
        progress(len(album.cards), len(rows))
    album.limit_thumbnails(cfg.view_megabytes)
    return album
