"""Voxelisation of a cloud."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, require
from benchmarks.reference import voxels as reference
from benchmarks.rooms import scanned_room
from data.geometry import voxels
from data.types import Array

_VOXEL_SIZE = 0.02


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time voxelisation; cells and inverse map must be equal."""
    points = scanned_room(scale.points)[0].points
    return compare(
        f"voxels, {amount(len(points))} points at 2 cm",
        lambda: [voxels.voxelise(points, _VOXEL_SIZE)],
        lambda: [reference.voxelise(points, _VOXEL_SIZE)],
        _check,
        target=10,
        repeats=repeats,
    )


def _check(mine: voxels.Voxels, theirs: tuple[Array, Array]) -> None:
    require(np.array_equal(mine.grid_coords, theirs[0]), "other cells")
    require(np.array_equal(mine.point_to_voxel, theirs[1]), "points in other cells")
