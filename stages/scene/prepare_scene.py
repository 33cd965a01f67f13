"""Stage ``prepare_scene``: turn a scan into the scene that all later stages use.

It chooses views, computes superpoints and their neighbours, and renders a depth map per view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data.geometry.raycast import Raycaster
from data.geometry.superpoints import (
    REACH,
    Cutting,
    compact_segments,
    superpoints,
    touching_superpoints,
)
from data.geometry.visibility import Tolerance, Visibility
from data.parallel import mapped
from data.types import Array, GroundTruth, Neighbours, PointCloud, Progress, Scan, View, silent
from stages.configs import PrepareConfig


def cover_greedily(visible: Array, max_views: int) -> list[int]:
    """Return ascending indices of at most ``max_views`` rows of ``visible`` (V, N) bool.

    Each step chooses the view that sees most unseen points, the first of equals. When no view adds
    a point, all points count as unseen again, so that further views cover the scene a second time.
    A view that sees no point is chosen last.
    """
    num_views = len(visible)
    if num_views <= max_views:
        return list(range(num_views))
    total = np.count_nonzero(visible, axis=1)
    gains = total.copy()
    unseen = np.ones(visible.shape[1], bool)
    free = np.ones(num_views, bool)
    for _ in range(max_views):
        if gains[free].max() == 0:
            unseen[:] = True
            gains = total.copy()
        best = int(np.argmax(np.where(free, gains, -1)))
        free[best] = False
        newly = np.flatnonzero(unseen & visible[best])
        unseen[newly] = False
        gains -= np.count_nonzero(visible[:, newly], axis=1)
    return [int(index) for index in np.flatnonzero(~free)]


# A data set's segments are used as superpoints if they hold more points than this on average.
_REAL_SEGMENT = 1.5
# View selection uses small depth maps, a sample of points and a wide tolerance.
_SELECTION_WIDTH = 160
_SELECTION_POINTS = 50_000
_SELECTION_TOLERANCE = Tolerance(near=0.05, absolute=0.1, relative=0.04)


@dataclass(frozen=True, eq=False)
class PreparedScene:
    """The arguments of ``data.artifacts.scene.write_scene``, by name.

    ``depths`` can be iterated once: each view's depth (H, W) float32 metres, 0 = no surface,
    rendered on demand.
    """

    scene_id: str
    cloud: PointCloud
    triangles: Array
    superpoint_ids: Array
    views: tuple[View, ...]
    depths: Iterator[Array]
    truth: GroundTruth
    annotation_sha256: str
    neighbours: Neighbours


def run(scan: Scan, cfg: PrepareConfig, progress: Progress = silent) -> PreparedScene:
    """Choose views, compute superpoints and render depth.

    ``progress`` gets (depth maps rendered, views). ``cfg.camera`` is used by the reader only.
    """
    caster = Raycaster(scan.cloud.points, scan.triangles)
    views = _select(scan, caster, cfg.max_views)
    superpoint_ids = _superpoint_ids(scan, cfg)
    return PreparedScene(
        scan.scene_id,
        scan.cloud,
        scan.triangles,
        superpoint_ids,
        views,
        depth_maps(caster, views, progress),
        scan.truth,
        scan.annotation_sha256,
        touching_superpoints(scan.cloud, superpoint_ids, REACH),
    )


def _superpoint_ids(scan: Scan, cfg: PrepareConfig) -> Array:
    num_segments = len(np.unique(scan.segment_ids))
    if len(scan.cloud) > _REAL_SEGMENT * num_segments:
        return compact_segments(scan.segment_ids)
    cutting = Cutting(
        cfg.superpoint_threshold,
        cfg.superpoint_min_points,
        cfg.superpoint_color,
        cfg.superpoint_smoothing,
    )
    return superpoints(scan.cloud, scan.triangles, cutting)


def _select(scan: Scan, caster: Raycaster, max_views: int) -> tuple[View, ...]:
    """Choose views; they keep the order of the scan (by view id)."""
    if len(scan.views) <= max_views:
        return scan.views
    points = scan.cloud.points[:: max(1, len(scan.cloud) // _SELECTION_POINTS)]
    sight, tolerance = Visibility(points), _SELECTION_TOLERANCE
    visible = np.zeros((len(scan.views), len(points)), bool)
    for row, view in zip(visible, scan.views):
        width = min(_SELECTION_WIDTH, view.camera.width)
        height = max(1, round(view.camera.height * width / view.camera.width))
        camera = view.camera.scaled(height, width)
        depth, _ = caster.render(camera, view.world_to_camera)
        ids, _ = sight.visible_points(camera, view.world_to_camera, depth, tolerance)
        row[ids] = True
    return tuple(scan.views[index] for index in cover_greedily(visible, max_views))


def depth_maps(
    caster: Raycaster, views: tuple[View, ...], progress: Progress = silent
) -> Iterator[Array]:
    """Yield each view's depth (H, W) float32 metres, 0 = no surface; few are in memory."""

    def depth_of(view: View) -> Array:
        return caster.render(view.camera, view.world_to_camera)[0]

    # Open3D casts the rays of a fisheye in its own threads.
    own_threads = all(view.camera.model == "PINHOLE" for view in views)
    for index, depth in enumerate(mapped(depth_of, views, None if own_threads else 1)):
        progress(index + 1, len(views))
        yield depth
