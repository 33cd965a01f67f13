"""Voxelisation: unique rows of integer coordinates."""

from __future__ import annotations

import numpy as np

from data.types import Array


def voxelise(points: Array, voxel_size: float) -> tuple[Array, Array]:
    """Occupied cells (M, 3) from 0, sorted, and each point's cell (N,)."""
    cells = np.floor(points.astype(np.float64) / voxel_size).astype(np.int64)
    cells -= cells.min(axis=0)
    grid_coords, point_to_voxel = np.unique(cells, axis=0, return_inverse=True)
    return grid_coords, point_to_voxel.reshape(-1)
