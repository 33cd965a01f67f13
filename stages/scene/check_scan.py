"""Check of one scan before hours are spent on it: do cameras, mesh and images belong together?

Every file has been read by then; what is left to find are poses of another frame, intrinsics of
another size, images of another scan. Each shows where points fall, or in their colours.
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
_LEAST_CONTRAST = 4.0  # grey levels: under it there is nothing to compare


@dataclass(frozen=True)
class ScanFacts:
    """What was found of a scan.

    Of ``checked`` views: ``seen_share`` of the points at least one of them sees, ``blind`` views
    that see almost none, ``links`` a view on average, ``pixels`` of one. ``agreement`` is the
    median correlation of the images' grey with the mesh's at the linked points, ``chance`` the
    same with the image of another view; None where there is no contrast to compare. ``seconds``
    went into rendering and linking one view.
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
    """Look at ``max_views`` views, evenly over all; DataError for an image that is damaged."""
    chosen = np.unique(np.linspace(0, len(scan.views) - 1, max_views).round().astype(int))
    views = [scan.views[index] for index in chosen.tolist()]
    caster = Raycaster(scan.cloud.points, scan.triangles)
    sight = Visibility(scan.cloud.points)
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    seen = np.zeros(len(scan.cloud), bool)
    linked: list[tuple[View, Array, Array]] = []
    start = time.monotonic()
    for view in views:
        depth, _ = caster.render(view.camera, view.world_to_camera)
        ids, uv = sight.visible_points(view.camera, view.world_to_camera, depth, tolerance)
        seen[ids] = True
        linked.append((view, scan.cloud.colors[ids], uv))
    seconds = (time.monotonic() - start) / len(views)
    shown = [link for link in linked if len(link[2]) >= _LEAST_LINKS]
    others = shown[1:] + shown[:1] if len(shown) > 1 else []
    return ScanFacts(
        scan.scene_id,
        len(scan.cloud),
        len(scan.views),
        len(views),
        float(seen.mean()),
        tuple(view.view_id for view, _, uv in linked if len(uv) < _LEAST_LINKS),
        sum(len(uv) for _, _, uv in linked) / len(views),
        views[0].camera.height * views[0].camera.width,
        _median(agreement(view, *link) for view, *link in shown),
        _median(agreement(view, *link) for (view, *_), (_, *link) in zip(others, shown)),
        seconds,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def agreement(view: View, colors: Array, uv: Array) -> float | None:
    """Correlation of the image's grey at pixels ``uv`` (L, 2) with that of ``colors`` (L, 3).

    Only pixels that show something count. None where either varies too little to compare, and
    for pixels of another view that this one does not have.
    """
    column, row = np.floor(uv).astype(np.int64).T
    inside = (column < view.camera.width) & (row < view.camera.height)
    column, row, colors = column[inside], row[inside], colors[inside]
    valid = read_valid(view)
    shown = np.ones(len(row), bool) if valid is None else valid[row, column]
    if np.count_nonzero(shown) < _LEAST_LINKS:
        return None
    image = read_image(view)[row[shown], column[shown]].mean(1)
    mesh = colors[shown].mean(1)
    if min(image.std(), mesh.std()) < _LEAST_CONTRAST:
        return None
    return float(np.corrcoef(image, mesh)[0, 1])
