"""Voxelise points, and pool values of points by group (voxel or superpoint)."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from data.types import Array


class Voxels(NamedTuple):
    """Occupied voxels: ``grid_coords`` (M, 3) int32 from 0, sorted by x, y, z.

    ``point_to_voxel`` (N,) int64 is the row of each point's voxel.
    """

    grid_coords: Array
    point_to_voxel: Array


def voxelise(points: Array, voxel_size: float) -> Voxels:
    """Find the occupied cells of a grid with cells [k, k + 1) * ``voxel_size`` on each axis.

    Args:
        points: (N, 3) floating point, metres.
        voxel_size: edge of a voxel, metres.

    Returns:
        The cells, relative to the smallest coordinates, in lexicographic order, and each
        point's cell.

    Raises:
        ValueError: no points, a value that is not finite, or an extent of 2**21 cells or more.
    """
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"points must be (N, 3) with N > 0, got {points.shape}")
    if not voxel_size > 0:
        raise ValueError(f"voxel_size must be positive, got {voxel_size}")
    keys = np.zeros(len(points), np.int64)
    sizes = []
    for axis in range(3):  # One column at a time: faster than rows of three.
        cell = np.floor(points[:, axis].astype(np.float64) / voxel_size)
        low, high = cell.min(), cell.max()
        if not np.isfinite(low + high) or high - low >= 2**21:
            raise ValueError(f"points must be finite and span under 2**21 voxels: {low} to {high}")
        sizes.append(int(high - low) + 1)
        keys = keys * sizes[axis] + (cell - low).astype(np.int64)
    return _from_keys(keys, sizes)


def _argsort(keys: Array, bound: int) -> tuple[Array, Array]:
    """Sort keys in [0, bound) stably: return the sorted keys and their row numbers."""
    bits = len(keys).bit_length()
    if bound.bit_length() + bits > 62:
        order = np.argsort(keys, kind="stable")
        return keys[order], order
    packed = (keys << bits) | np.arange(len(keys))  # A plain sort is much faster than argsort.
    packed.sort()
    return packed >> bits, packed & ((1 << bits) - 1)


def _from_keys(keys: Array, sizes: list[int]) -> Voxels:
    ordered, order = _argsort(keys, math.prod(sizes))
    first = np.empty(len(keys), bool)
    first[0] = True
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    point_to_voxel = np.empty(len(keys), np.int64)
    point_to_voxel[order] = np.cumsum(first) - 1
    cells = ordered[first]
    coords = np.empty((len(cells), 3), np.int32)
    for axis in (2, 1, 0):
        cells, coords[:, axis] = np.divmod(cells, sizes[axis])
    return Voxels(coords, point_to_voxel)


def sum_by_group(values: Array, groups: Array, num_groups: int) -> Array:
    """Sum the rows of ``values`` (N, C) by ``groups`` (N,): (num_groups, C) float64."""
    columns = [np.bincount(groups, column, num_groups) for column in values.T]
    return np.stack(columns, 1) if columns else np.zeros((num_groups, 0))


def mean_by_group(values: Array, groups: Array, num_groups: int) -> Array:
    """Average the rows of ``values`` (N, C) by ``groups`` (N,): (num_groups, C) float32.

    A group without a row gets 0. Rows are summed in their order, so every run gives the same
    bits.
    """
    counts = np.bincount(groups, minlength=num_groups)[:, None]
    return np.asarray(sum_by_group(values, groups, num_groups) / np.maximum(counts, 1), np.float32)
