"""Superpoints: against a plain-Python reference, by hand, and under permutations of faces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.meshio import vertex_normals
from data.superpoints import (
    compact_segments,
    edge_weights,
    mesh_edges,
    superpoint_pairs,
    superpoints,
)
from data.types import Array
from tests.tiny_scene import box_mesh, make_tiny_scene


def reference(
    points: Array, normals: Array, triangles: Array, k: float, smallest: int
) -> list[int]:
    """The same rule on dicts and sets, one edge at a time."""
    edges = set()
    for a, b, c in triangles.tolist():
        for i, j in ((a, b), (b, c), (c, a)):
            if i != j:
                edges.add((min(i, j), max(i, j)))
    standing: dict[tuple[float, ...], list[int]] = {}
    for i, point in enumerate(points.tolist()):
        standing.setdefault(tuple(point), []).append(i)
    for group in standing.values():
        edges.update(zip(group, group[1:]))
    weighted = []
    for i, j in sorted(edges):
        weight = float(np.float32(1) - np.float32(normals[i] @ normals[j]))
        if normals[j] @ (points[j] - points[i]) > 0:
            weight = float(np.float32(weight) * np.float32(weight))
        weighted.append((max(weight, 0.0), i, j))
    weighted.sort()
    pieces = {i: {i} for i in range(len(points))}
    limit = {i: k for i in range(len(points))}
    for merge_small in (False, True):
        for weight, i, j in weighted:
            a, b = (min(next(p for p in pieces.values() if x in p)) for x in (i, j))
            if a == b:
                continue
            small = min(len(pieces[a]), len(pieces[b])) < smallest
            fits = weight <= limit[a] and weight <= limit[b]
            if small if merge_small else fits:
                low, high = min(a, b), max(a, b)
                pieces[low] |= pieces.pop(high)
                limit[low] = weight + k / len(pieces[low])
    ids = [0] * len(points)
    for number, low in enumerate(sorted(pieces)):
        for i in pieces[low]:
            ids[i] = number
    return ids


def bumpy_grid(seed: int, size: int = 6) -> tuple[Array, Array, Array]:
    """A height field with steps, so that some edges are sharp."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    z = rng.choice([0.0, 0.1, 2.0], (size, size)) + 0.05 * rng.random((size, size))
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3).astype(np.float32)
    index = np.arange(size * size).reshape(size, size)
    a, b, c, d = (
        p.ravel() for p in (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    )
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)
    return points, vertex_normals(points, triangles), triangles


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.1, 0.5]), st.integers(1, 8))
def test_equals_the_reference(seed: int, threshold: float, min_points: int) -> None:
    points, normals, triangles = bumpy_grid(seed)
    found = superpoints(points, normals, triangles, threshold, min_points)
    assert found.tolist() == reference(points, normals, triangles, threshold, min_points)


def test_the_order_of_faces_does_not_matter() -> None:
    points, normals, triangles = bumpy_grid(3, 12)
    expected = superpoints(points, normals, triangles, 0.1, 4)
    mixed = np.random.default_rng(0).permutation(triangles)[:, [1, 2, 0]]
    np.testing.assert_array_equal(superpoints(points, normals, mixed, 0.1, 4), expected)
    assert expected.dtype == np.int32 and expected[0] == 0


def test_a_box_falls_into_its_faces() -> None:
    points, triangles, normals = box_mesh(np.zeros(3), np.array([1.0, 1, 1]), 0.1, False)
    points, normals = points.astype(np.float32), normals.astype(np.float32)
    ids = superpoints(points, normals, triangles, 0.05, 5)
    assert ids.max() == 5
    for number in range(6):
        assert len(np.unique(normals[ids == number], axis=0)) == 1


def test_small_pieces_join_across_coincident_vertices() -> None:
    # Faces of 4 vertices that share none: only standing on each other joins them.
    points, triangles, normals = box_mesh(np.zeros(3), np.array([1.0, 1, 1]), 1.0, False)
    points, normals = points.astype(np.float32), normals.astype(np.float32)
    assert superpoints(points, normals, triangles, 0.05, 4).max() == 5
    assert superpoints(points, normals, triangles, 0.05, 25).max() == 0


def test_superpoints_do_not_cross_objects_of_the_room() -> None:
    scene, truth = make_tiny_scene()
    cloud = scene.cloud
    ids = superpoints(cloud.points, cloud.normals, scene.triangles, 0.05, 10)
    assert 24 <= ids.max() + 1 <= 30
    for object_id in truth.object_ids:
        mask = truth.mask([object_id])
        assert not set(ids[mask].tolist()) & set(ids[~mask].tolist())


def test_min_points_holds_wherever_there_is_a_neighbour() -> None:
    points, normals, triangles = bumpy_grid(5, 20)
    assert np.bincount(superpoints(points, normals, triangles, 0.01, 12)).min() >= 12


def test_a_mesh_without_edges_gives_one_superpoint_a_point() -> None:
    points = np.arange(9, dtype=np.float32).reshape(3, 3)
    normals = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    assert superpoints(points, normals, np.zeros((0, 3), np.int32), 0.1, 5).tolist() == [0, 1, 2]


def test_edges_and_weights_by_hand() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    triangles = np.array([[0, 1, 2], [2, 2, 0]])
    edges = mesh_edges(points, triangles)
    assert edges.tolist() == [[0, 1], [0, 2], [1, 2], [1, 3]]
    half = np.sqrt(0.5)
    normals = np.array([[0, 0, 1], [half, 0, half], [0, -half, half], [0, 0, 1]], np.float32)
    bend = 1 - half
    expected = [bend**2, bend, 0.5, bend]  # 0-1 convex; 0-2 concave; 1-2 concave; 1-3 coincident
    np.testing.assert_allclose(edge_weights(points, normals, edges), expected, atol=1e-6)


def test_segments_are_numbered_by_their_first_point() -> None:
    ids = compact_segments(np.array([70, 70, 5, 900, 5]))
    assert ids.tolist() == [0, 0, 1, 2, 1] and ids.dtype == np.int32


def test_neighbouring_superpoints() -> None:
    triangles = np.array([[0, 1, 2], [2, 3, 4]])
    pairs = superpoint_pairs(np.array([0, 0, 2, 2, 1], np.int32), triangles)
    assert pairs.tolist() == [[0, 2], [1, 2]]
    assert superpoint_pairs(np.zeros(5, np.int32), triangles).shape == (0, 2)


@pytest.mark.parametrize("threshold", [1, 1.0])
def test_a_whole_threshold_is_no_integer_arithmetic(threshold: float) -> None:
    points, normals, triangles = bumpy_grid(1)
    expected = reference(points, normals, triangles, 1.0, 2)
    assert superpoints(points, normals, triangles, threshold, 2).tolist() == expected
