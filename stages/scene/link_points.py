"""Stage ``link_points``: which points each view sees, and at which pixel."""

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
    """``Visibility``, or the same on a GPU."""

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
    """Links of one view to the points of ``sight``; ``depth`` (H, W) metres, 0 = none.

    Points on a pixel that ``valid`` (H, W) bool says shows something else are not linked.
    """
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    found = sight.visible_points(view.camera, view.world_to_camera, depth, tolerance, valid)
    return ViewLinks(view.view_id, *found)


def run(
    scene: Scene, cfg: LinkConfig, progress: Progress = silent, device: str = "cpu"
) -> Iterator[ViewLinks]:
    """Links of every view of a scene, in the order of its views.

    On the CPU as many views at a time as there are threads, on a GPU one; no more are in memory.

    Raises:
        DataError: a view's mask cannot be read, or, once all views are linked, next to no point
            was seen: poses and mesh are of different frames.
    """
    sight = _sight(scene.cloud.points, device)
    links_of = partial(_links_of, sight, scene, cfg)
    seen, is_enough = np.zeros(len(scene.cloud), bool), False
    threads = None if device == "cpu" else 1
    for index, links in enumerate(mapped(links_of, range(len(scene.views)), threads)):
        if not is_enough:
            seen[links.point_ids] = True
            is_enough = bool(seen.mean() >= _LEAST_SEEN)
        progress(index + 1, len(scene.views))
        yield links
    if not is_enough:
        raise DataError(
            f"scene {scene.scene_id}",
            f"views that see at least {_LEAST_SEEN:.1%} of the mesh",
            f"{float(seen.mean()):.2%} seen by {len(scene.views)} views",
            "Poses and mesh may be of different frames or units: python -m pipeline doctor tells"
            " more.",
        )


def _sight(points: Array, device: str) -> _Sight:
    if device == "cpu":
        return Visibility(points)
    # Imported where it is needed: on a machine without a GPU, torch takes longer than the links.
    from stages.scene.gpu_visibility import GpuVisibility

    return GpuVisibility(points, device)


def _links_of(sight: _Sight, scene: Scene, cfg: LinkConfig, index: int) -> ViewLinks:
    view = scene.views[index]
    valid = read_valid(view) if cfg.masks else None
    return links_of_view(sight, view, scene.depths[index], cfg, valid)
