"""Voxelisation against numpy's own unique, hand-computed cells and bad inputs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data.geometry.voxels import mean_by_group, voxelise
from data.types import Array


def test_hand_computed_cells() -> None:
    points = np.array([[0.0, 0, 0], [0.09, 0, 0], [0.1, 0, 0], [-0.01, 0.25, 0]], np.float32)
    voxels = voxelise(points, 0.1)
    assert voxels.grid_coords.tolist() == [[0, 2, 0], [1, 0, 0], [2, 0, 0]]
    assert voxels.point_to_voxel.tolist() == [1, 1, 2, 0]
    assert voxels.grid_coords.dtype == np.int32 and voxels.point_to_voxel.dtype == np.int64
    assert voxels.grid_coords.flags.c_contiguous


@given(
    arrays(np.float32, (40, 3), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([0.02, 0.05, 1.0, 7.0]),
)
def test_equals_unique(points: Array, voxel_size: float) -> None:
    cells = np.floor(points.astype(np.float64) / voxel_size).astype(np.int64)
    unique, inverse = np.unique(cells - cells.min(0), axis=0, return_inverse=True)
    voxels = voxelise(points, voxel_size)
    assert np.array_equal(voxels.grid_coords, unique)
    assert np.array_equal(voxels.point_to_voxel, inverse.ravel())


def test_huge_extent_takes_the_other_sort_and_agrees() -> None:
    points = np.random.default_rng(0).uniform(0, 2e6, (1000, 3))
    unique, inverse = np.unique(np.floor(points).astype(int), axis=0, return_inverse=True)
    voxels = voxelise(points, 1.0)
    assert np.array_equal(voxels.grid_coords, unique - np.floor(points.min(0)).astype(int))
    assert np.array_equal(voxels.point_to_voxel, inverse.ravel())


def test_order_of_points_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 3)).astype(np.float32)
    order = rng.permutation(500)
    a, b = voxelise(points, 0.3), voxelise(points[order], 0.3)
    assert np.array_equal(a.grid_coords, b.grid_coords)
    assert np.array_equal(a.point_to_voxel[order], b.point_to_voxel)


@pytest.mark.parametrize(
    "points", [np.zeros((0, 3)), np.zeros((5, 2)), np.full((2, 3), np.nan), np.eye(3) * np.inf,
               np.array([[0.0, 0, 0], [1e9, 0, 0]])],
)  # fmt: skip
def test_bad_points_are_refused(points: Array) -> None:
    with pytest.raises(ValueError, match="points must be"):
        voxelise(points.astype(np.float32), 0.05)


def test_bad_size_is_refused() -> None:
    with pytest.raises(ValueError, match="voxel_size"):
        voxelise(np.zeros((1, 3)), 0.0)


def test_means() -> None:
    values = np.array([[1.0, 0], [3, 2], [5, 7]])
    means = mean_by_group(values, np.array([0, 0, 2]), 3)
    assert means.tolist() == [[2, 1], [0, 0], [5, 7]] and means.dtype == np.float32
    assert mean_by_group(np.zeros((3, 0)), np.array([0, 0, 1]), 2).shape == (2, 0)


def test_a_million_points_take_little_time() -> None:
    points = np.random.default_rng(0).uniform(0, 6, (1_000_000, 3)).astype(np.float32)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        voxelise(points, 0.02)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # About 0.1 s alone; other tests may share the machine.
