"""Stage: do a scan's points fall where its pictures show them? To look at, and as figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.artifacts.links import Links, ViewLinks
from data.cameras import transform
from data.types import Array, Scene
from stages.panels import Panel, cell_width, pale, resized, scale, sheet, viridis
from stages.view_images import read_image

ROWS = 6
"""Views on a sheet."""
_LARGEST_DOT = 3
_CONTRAST = 100.0
"""Levels of difference at the bright end of the scale."""


@dataclass(frozen=True)
class Agreement:
    """How one view's linked points fit its picture.

    ``covered`` is the share of pixels that hold a point. ``difference`` is the mean absolute
    difference of a point's colour from that of its pixel, in levels of 0 to 255, all channels
    taken together, and ``chance`` the same where points are dealt to those pixels at random:
    what a picture of the same colours would give whose camera is anywhere. Both are NaN where
    the view sees no point.
    """

    view_id: str
    points: int
    covered: float
    difference: float
    chance: float


def agreement(colors: Array, image: Array, links: ViewLinks) -> Agreement:
    """Measure one view: ``colors`` (N, 3) uint8 of all points, ``image`` (H, W, 3) uint8."""
    if not len(links.point_ids):
        return Agreement(links.view_id, 0, 0.0, float("nan"), float("nan"))
    column, row = np.floor(links.uv).astype(np.int64).T
    own, seen = colors[links.point_ids].astype(np.int64), image[row, column].astype(np.int64)
    dealt = np.random.default_rng(0).permutation(own)
    pixels = len(np.unique(row * image.shape[1] + column))
    return Agreement(
        links.view_id,
        len(links.point_ids),
        pixels / (image.shape[0] * image.shape[1]),
        float(np.abs(own - seen).mean()),
        float(np.abs(dealt - seen).mean()),
    )


def run(
    scene: Scene, links: Links, chosen: Sequence[int]
) -> Iterator[tuple[str, Image.Image, list[Agreement]]]:
    """Sheets ``links_1`` and on, of the views of those indices, with what was measured of each.

    Raises DataError for a picture that cannot be read.
    """
    pages = [chosen[start : start + ROWS] for start in range(0, len(chosen), ROWS)]
    for number, page in enumerate(pages, 1):
        panels: list[Panel] = []
        measured = []
        for index in page:
            made, figures = _view_panels(scene, links.view(index), index)
            panels += made
            measured.append(figures)
        told = "Difference of colours (depth: dark is near)"
        key = scale(0, _CONTRAST, "levels", told, "no point", pale(64, 64))
        heading = f"Scene {scene.scene_id}: points over pictures"
        about = (
            "Where camera and scan fit, the third picture looks like the first. Difference: of a "
            "point's colour from its pixel's, mean over points and channels, of 255 levels; "
            f"chance: the same with points dealt at random. Page {number} of {len(pages)}."
        )
        yield f"links_{number}", sheet(heading, about, panels, 4, key), measured


def _view_panels(scene: Scene, links: ViewLinks, index: int) -> tuple[list[Panel], Agreement]:
    view, width = scene.views[index], cell_width(4)
    image = read_image(view)
    told = agreement(scene.cloud.colors, image, links)
    points = scene.cloud.points[links.point_ids].astype(np.float64)
    depth = transform(view.world_to_camera, points)[:, 2]
    small = resized(image, width)
    uv = links.uv * (width / view.camera.width)
    colors = scene.cloud.colors[links.point_ids]
    radius = dot_radius(small.shape[0] * width, len(points))
    over, _ = dots(small, uv, viridis(depth, *_span(depth)), depth, max(0, radius - 1))
    empty = pale(*small.shape[:2])
    own, held = dots(empty, uv, colors, depth, radius)
    gaps = np.abs(own.astype(np.int64) - small).mean(axis=2)
    apart = np.where(held[..., None], viridis(gaps, 0, _CONTRAST), empty).astype(np.uint8)
    near, far = _span(depth)
    panels = [
        Panel(f"{index + 1}. {view.view_id}", small),
        Panel("points by depth", over, (f"{told.points} points, {near:.2f} to {far:.2f} m",)),
        Panel("points in their own colours", own, (f"on {told.covered:.1%} of pixels",)),
        Panel("difference", apart, (f"{told.difference:.1f} levels; chance {told.chance:.1f}",)),
    ]
    return panels, told


def _span(depth: Array) -> tuple[float, float]:
    return (float(depth.min()), float(depth.max())) if len(depth) else (0.0, 0.0)


def dot_radius(pixels: int, points: int) -> int:
    """Pixels to draw around each of so many points, so that surfaces close without blurring."""
    return min(_LARGEST_DOT, int(np.sqrt(pixels / max(points, 1)) / 2))


def dots(
    picture: Array, uv: Array, colors: Array, depth: Array, radius: int
) -> tuple[Array, Array]:
    """``picture`` (h, w, 3) uint8 with points on it, and (h, w) bool, where one was drawn.

    ``uv`` (L, 2) are their pixels (that of a point is ``floor(uv)``), ``colors`` (L, 3) uint8,
    ``depth`` (L,) metres: the nearer is in front. Each is a square that reaches ``radius``
    pixels from its own.
    """
    drawn, (height, width) = picture.copy(), picture.shape[:2]
    far_first = np.argsort(-depth, kind="stable")
    column, row = np.floor(uv[far_first]).astype(np.int64).T
    nearest = np.full((height, width), -1, np.int64)
    reach = range(-radius, radius + 1)
    for dv in reach:
        for du in reach:
            v, u = row + dv, column + du
            inside = (v >= 0) & (v < height) & (u >= 0) & (u < width)
            np.maximum.at(nearest, (v[inside], u[inside]), np.flatnonzero(inside))
    held = nearest >= 0
    if len(colors):
        drawn[held] = colors[far_first][nearest[held]]
    return drawn, held
