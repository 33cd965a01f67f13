"""Stage ``link_points``: which points each view sees, and at which pixel."""

from __future__ import annotations

from collections.abc import Iterator

from data.artifacts.links import ViewLinks
from data.progress import Progress, silent
from data.types import Array, Scene, View
from data.visibility import Tolerance, visible_points
from stages.configs import LinkConfig


def links_of_view(points: Array, view: View, depth: Array, cfg: LinkConfig) -> ViewLinks:
    """Links of one view: ``points`` (N, 3) metres world, ``depth`` (H, W) metres, 0 = none."""
    tolerance = Tolerance(cfg.near, cfg.depth_tolerance, cfg.depth_tolerance_relative)
    point_ids, uv = visible_points(points, view.camera, view.world_to_camera, depth, tolerance)
    return ViewLinks(view.view_id, point_ids, uv)


def run(scene: Scene, cfg: LinkConfig, progress: Progress = silent) -> Iterator[ViewLinks]:
    """Links of every view of a scene, in the order of its views, one at a time."""
    for index, view in enumerate(scene.views):
        links = links_of_view(scene.cloud.points, view, scene.depths[index], cfg)
        progress(index + 1, len(scene.views))
        yield links
