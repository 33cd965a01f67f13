"""Depth maps of a scanned mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, require
from benchmarks.reference import depth as reference
from benchmarks.rooms import room_views, scanned_room
from data.geometry.raycast import Raycaster
from data.types import Array
from stages.scene.prepare_scene import depth_maps

# Of all pixels, how many may differ: those whose ray passes by an edge within a rounding.
_MOST_APART = 1e-4
_TOLERANCE = 1e-4


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time depth maps of all views; Open3D's ray tree is built before, this project needs none."""
    cloud, triangles = scanned_room(scale.faces // 2)
    views = room_views(scale.views, scale.height, scale.width)
    tree = reference.RayCasting(cloud.points, triangles)

    def ours() -> Iterator[Array]:
        return depth_maps(Raycaster(cloud.points, triangles), views)

    def theirs() -> Iterator[Array]:
        for view in views:
            yield tree.view(view.camera.K, view.world_to_camera, scale.height, scale.width)

    size = f"{len(views)} views of {scale.width}x{scale.height}"
    name = f"depth, {amount(len(triangles))} triangles x {size}"
    return compare(name, ours, theirs, _check, target=1.5, repeats=repeats)


def _check(mine: Array, theirs: Array) -> None:
    require(mine.shape == theirs.shape, f"depth maps of {mine.shape} and {theirs.shape}")
    require(bool((theirs > 0).any()), "no surface is visible")
    apart = np.count_nonzero(np.abs(mine - theirs) > _TOLERANCE * theirs)
    require(bool(apart <= _MOST_APART * theirs.size), f"{apart} of {theirs.size} pixels differ")
