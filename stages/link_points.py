"""Stage ``link_points``: which points each view sees, and at which pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.artifacts.links import ViewLinks
from data.errors import DataError
from data.progress import Progress, silent
from data.types import Array, Scene, View
from data.visibility import Tolerance, visible_points
from stages.configs import LinkConfig
from stages.view_images import read_valid

_LEAST_SEEN = 0.001


def links_of_view(
    points: Array, view: View, depth: Array, cfg: LinkConfig, valid: Array | None = None
) -> ViewLinks:
    """Links of one view: ``points`` (N, 3) metres world, ``depth`` (H, W) metres, 0 = none.

    Points on a pixel that ``valid`` (H, W) bool says shows something else are not linked.
    """
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    point_ids, uv = visible_points(points, view.camera, view.world_to_camera, depth, tolerance)
    if valid is not None:
        column, row = np.floor(uv).astype(np.int64).T
        shown = valid[row, column]
        point_ids, uv = point_ids[shown], uv[shown]
    return ViewLinks(view.view_id, point_ids, uv)


def run(scene: Scene, cfg: LinkConfig, progress: Progress = silent) -> Iterator[ViewLinks]:
    """Links of every view of a scene, in the order of its views, one at a time.

    Raises:
        DataError: a view's mask cannot be read, or, once all views are linked, next to no point
            was seen: poses and mesh are of different frames.
    """
    seen = np.zeros(len(scene.cloud), bool)
    for index, view in enumerate(scene.views):
        depth, valid = scene.depths[index], read_valid(view) if cfg.masks else None
        links = links_of_view(scene.cloud.points, view, depth, cfg, valid)
        seen[links.point_ids] = True
        progress(index + 1, len(scene.views))
        yield links
    share = float(seen.mean())
    if share < _LEAST_SEEN:
        raise DataError(
            f"scene {scene.scene_id}",
            f"views that see at least {_LEAST_SEEN:.1%} of the mesh",
            f"{share:.2%} seen by {len(scene.views)} views",
            "Poses and mesh may be of different frames or units: python -m pipeline doctor tells"
            " more.",
        )
