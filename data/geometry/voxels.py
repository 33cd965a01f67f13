"""Points to voxels and back."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from data.types import Array


class Voxels(NamedTuple):
    """``grid_coords`` (M, 3) int32 from 0, sorted by x, y, z; ``point_to_voxel`` (N,) int64."""

    grid_coords: Array
    point_to_voxel: Array


def voxelise(points: Array, voxel_size: float) -> Voxels:
    """The occupied cells of a grid whose cells are [k, k + 1) * ``voxel_size`` on each axis.

    Args:
        points: (N, 3) floating point, metres.
        voxel_size: edge of a voxel, metres.

    Returns:
        Cells relative to the smallest one, in lexicographic order, and each point's cell.

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
    """Sorted keys in [0, bound) and their order, equal keys in order of their rows."""
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
    """(num_groups, C) float64: sums of the rows of ``values`` (N, C) by ``groups`` (N,)."""
    columns = [np.bincount(groups, column, num_groups) for column in values.T]
    return np.stack(columns, 1) if columns else np.zeros((num_groups, 0))


def mean_by_group(values: Array, groups: Array, num_groups: int) -> Array:
    """(num_groups, C) float32: means by group; 0 for a group without a row.

    Used to pool points into voxels and superpoints; the order of summation is the order of
    the rows, so the result is the same bits on every run.
    """
    counts = np.bincount(groups, minlength=num_groups)[:, None]
    return np.asarray(sum_by_group(values, groups, num_groups) / np.maximum(counts, 1), np.float32)
