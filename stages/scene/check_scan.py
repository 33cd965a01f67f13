"""Check of one scan before a long run: do cameras, mesh and images belong together?

The readers have checked every file before. This check detects poses in another frame, intrinsics
for another image size, and images of another scan, from the points that views see and from their
colours.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from data.geometry.raycast import Raycaster
from data.geometry.visibility import Tolerance, Visibility
from data.types import Array, Scan, View
from stages.configs import LinkConfig
from stages.scene.view_images import read_image, read_valid

_LEAST_LINKS = 100
_LEAST_CONTRAST = 4.0  # grey levels; below this standard deviation a correlation is noise


@dataclass(frozen=True)
class ScanFacts:
    """Measurements of a scan.

    They are over ``checked`` views: ``seen_share`` is the share of points that at least one of
    them sees, ``blind`` the ids of views that see almost no point, ``links`` the mean number of
    points a view sees, ``pixels`` the pixels of a view. ``agreement`` is the median correlation
    between the images' grey and the mesh's grey at the linked points; ``chance`` is the same with
    the image of another view. Both are None where there is too little contrast. ``seconds`` is the
    mean time to render and link a view.
    """

    scene_id: str
    num_points: int
    num_views: int
    checked: int
    seen_share: float
    blind: tuple[str, ...]
    links: float
    pixels: int
    agreement: float | None
    chance: float | None
    seconds: float


def run(scan: Scan, cfg: LinkConfig, max_views: int) -> ScanFacts:
    """Check ``max_views`` views, evenly over all views; DataError for a damaged image."""
    chosen = np.unique(np.linspace(0, len(scan.views) - 1, max_views).round().astype(int))
    views = [scan.views[index] for index in chosen.tolist()]
    caster = Raycaster(scan.cloud.points, scan.triangles)
    sight = Visibility(scan.cloud.points)
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    is_seen = np.zeros(len(scan.cloud), bool)
    linked: list[tuple[View, Array, Array]] = []
    start = time.monotonic()
    for view in views:
        depth, _ = caster.render(view.camera, view.world_to_camera)
        ids, uv = sight.visible_points(view.camera, view.world_to_camera, depth, tolerance)
        is_seen[ids] = True
        linked.append((view, scan.cloud.colors[ids], uv))
    seconds = (time.monotonic() - start) / len(views)
    with_links = [link for link in linked if len(link[2]) >= _LEAST_LINKS]
    others = with_links[1:] + with_links[:1] if len(with_links) > 1 else []
    return ScanFacts(
        scan.scene_id,
        len(scan.cloud),
        len(scan.views),
        len(views),
        float(is_seen.mean()),
        tuple(view.view_id for view, _, uv in linked if len(uv) < _LEAST_LINKS),
        sum(len(uv) for _, _, uv in linked) / len(views),
        views[0].camera.height * views[0].camera.width,
        _median(agreement(view, *link) for view, *link in with_links),
        _median(agreement(view, *link) for (view, *_), (_, *link) in zip(others, with_links)),
        seconds,
    )


def _median(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.median(defined)) if defined else None


def agreement(view: View, colors: Array, uv: Array) -> float | None:
    """Correlate the image's grey at pixels ``uv`` (L, 2) with the grey of ``colors`` (L, 3).

    Only valid pixels within the image count. The result is None for too few pixels and for too
    little contrast in the image or in the colours.
    """
    column, row = np.floor(uv).astype(np.int64).T
    inside = (column < view.camera.width) & (row < view.camera.height)
    column, row, colors = column[inside], row[inside], colors[inside]
    valid = read_valid(view)
    is_valid = np.ones(len(row), bool) if valid is None else valid[row, column]
    if np.count_nonzero(is_valid) < _LEAST_LINKS:
        return None
    image = read_image(view)[row[is_valid], column[is_valid]].mean(1)
    mesh = colors[is_valid].mean(1)
    if min(image.std(), mesh.std()) < _LEAST_CONTRAST:
        return None
    return float(np.corrcoef(image, mesh)[0, 1])
