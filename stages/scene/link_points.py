"""Stage ``link_points``: find the points that each view sees, and their pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Protocol

import numpy as np

from data.artifacts.links import ViewLinks
from data.errors import DataError
from data.geometry.visibility import Tolerance, Visibility
from data.parallel import mapped
from data.types import Array, Camera, Progress, Scene, View, silent
from stages.configs import LinkConfig
from stages.scene.view_images import read_valid

_LEAST_SEEN = 0.001


class _Sight(Protocol):
    """The interface of ``Visibility`` and ``GpuVisibility``."""

    def visible_points(
        self,
        camera: Camera,
        world_to_camera: Array,
        depth: Array,
        tolerance: Tolerance,
        valid: Array | None = None,
    ) -> tuple[Array, Array]: ...


def links_of_view(
    sight: _Sight, view: View, depth: Array, cfg: LinkConfig, valid: Array | None = None
) -> ViewLinks:
    """Link one view to the points of ``sight``; ``depth`` (H, W) metres, 0 = no surface.

    Points on pixels where ``valid`` (H, W) bool is False are not linked.
    """
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    points_and_pixels = sight.visible_points(
        view.camera, view.world_to_camera, depth, tolerance, valid
    )
    return ViewLinks(view.view_id, *points_and_pixels)


def run(
    scene: Scene, cfg: LinkConfig, progress: Progress = silent, device: str = "cpu"
) -> Iterator[ViewLinks]:
    """Yield the links of every view of a scene, in the order of its views.

    On the CPU each thread works on a view, on a GPU one view is computed at a time; only these
    views are in memory.

    Raises:
        DataError: the mask of a view cannot be read; or, after all views, almost no point was seen,
            which means that poses and mesh are in different frames.
    """
    sight = _sight(scene.cloud.points, device)
    links_of = partial(_links_of, sight, scene, cfg)
    is_seen, is_enough = np.zeros(len(scene.cloud), bool), False
    threads = None if device == "cpu" else 1
    for index, links in enumerate(mapped(links_of, range(len(scene.views)), threads)):
        if not is_enough:
            is_seen[links.point_ids] = True
            is_enough = bool(is_seen.mean() >= _LEAST_SEEN)
        progress(index + 1, len(scene.views))
        yield links
    if not is_enough:
        raise DataError(
            f"scene {scene.scene_id}",
            f"views that see at least {_LEAST_SEEN:.1%} of the mesh",
            f"{float(is_seen.mean()):.2%} seen by {len(scene.views)} views",
            "Poses and mesh may be of different frames or units: python -m pipeline doctor tells"
            " more.",
        )


def _sight(points: Array, device: str) -> _Sight:
    if device == "cpu":
        return Visibility(points)
    # Imported here because importing torch takes longer than linking views on the CPU.
    from stages.scene.gpu_visibility import GpuVisibility

    return GpuVisibility(points, device)


def _links_of(sight: _Sight, scene: Scene, cfg: LinkConfig, index: int) -> ViewLinks:
    view = scene.views[index]
    valid = read_valid(view) if cfg.masks else None
    return links_of_view(sight, view, scene.depths[index], cfg, valid)
