"""Superpoints: against a plain-Python reference, by hand, and under permutations of faces."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.geometry import superpoints as module
from data.geometry.meshes import vertex_normals
from data.geometry.superpoints import (
    Cutting,
    _by_weight,
    _taken,
    averaged,
    color_weights,
    compact_segments,
    edge_weights,
    mesh_edges,
)
from data.types import Array, PointCloud
from tests.support.scans.tiny_scene import box_mesh, make_tiny_scene


def superpoints(
    points: Array, normals: Array, triangles: Array, threshold: float, min_points: int
) -> Array:
    """Superpoints of a mesh by its geometry alone."""
    cloud = PointCloud(points, np.zeros((len(points), 3), np.uint8), normals)
    return module.superpoints(cloud, triangles, Cutting(threshold, min_points))


def reference(
    points: Array,
    normals: Array,
    triangles: Array,
    k: float,
    smallest: int,
    more: Callable[[int, int], float] = lambda i, j: 0.0,
) -> list[int]:
    """The same rule on dicts and sets, one edge at a time; ``more`` is added to its weight."""
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
        weight = float(np.float32(max(weight, 0.0)) + np.float32(more(i, j)))
        weighted.append((weight, i, j))
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


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_edges_equal_those_of_a_set(data: st.DataObject) -> None:
    """Faces of any vertices, some of them twice; points that stand on one another; no faces."""
    count = data.draw(st.integers(1, 40))
    coordinate = st.sampled_from([0.0, -0.0, 1.0, 1e-40, 5e4, float("nan")])
    rows = st.lists(st.tuples(*[coordinate] * 3), min_size=count, max_size=count)
    points = np.array(data.draw(rows), np.float32)
    corner = st.integers(0, count - 1)
    faces = data.draw(st.lists(st.tuples(corner, corner, corner), max_size=150))
    expected = {
        (min(i, j), max(i, j)) for a, b, c in faces for i, j in ((a, b), (b, c), (c, a)) if i != j
    }
    standing: dict[tuple[float, ...], int] = {}
    for i, point in enumerate(points.tolist()):
        if not np.isnan(point).any():
            key = tuple(value + 0.0 for value in point)
            if key in standing:
                expected.add((standing[key], i))
            standing[key] = i
    edges = mesh_edges(points, np.array(faces, np.int32).reshape(-1, 3))
    assert [tuple(edge) for edge in edges.tolist()] == sorted(expected)


def test_a_vertex_of_many_edges() -> None:
    rng = np.random.default_rng(0)
    rim = rng.permutation(np.arange(1, 500))
    points = rng.random((500, 3)).astype(np.float32)
    fan = np.stack([np.zeros(499, int), rim, np.roll(rim, 1)], axis=1)
    edges = mesh_edges(points, np.concatenate([fan, fan]).astype(np.int32))
    sides = np.sort(np.concatenate([fan[:, [0, 1]], fan[:, [1, 2]]]), axis=1)
    np.testing.assert_array_equal(edges, np.unique(sides, axis=0))


def test_weights_have_the_bits_of_numpy() -> None:
    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(2, 3000, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    edges = rng.integers(0, 3000, (20_000, 2))
    a, b = edges.T
    expected = np.clip(1 - np.einsum("ij,ij->i", normals[a], normals[b]), 0, 2)
    convex = np.einsum("ij,ij->i", normals[b], points[b] - points[a]) > 0
    expected[convex] *= expected[convex]
    found = edge_weights(points, normals, edges)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_edges_are_taken_by_weight_and_number() -> None:
    rng = np.random.default_rng(1)
    weights = rng.choice(np.array([0, 1e-42, 1e-7, 0.3, 0.30000001, 2, np.nan], np.float32), 5000)
    weights[::3] = rng.random(len(weights[::3]), np.float32)
    edges = rng.integers(0, 100, (5000, 2)).astype(np.int32)
    order = np.argsort(weights, kind="stable")
    ends, costs = _taken(edges, _by_weight(weights))
    np.testing.assert_array_equal(ends, edges[order])
    np.testing.assert_array_equal(costs, weights[order])


def test_normals_that_are_nan_join_only_what_is_small() -> None:
    points, normals, triangles = bumpy_grid(4)
    normals[7] = np.nan
    ids = superpoints(points, normals, triangles, 10.0, 1)
    assert np.count_nonzero(ids == ids[7]) == 1 and ids.max() == 1
    assert superpoints(points, normals, triangles, 10.0, 2).max() == 0


@pytest.mark.parametrize("vertex", [-1, 3])
def test_a_vertex_that_is_not_there_is_refused(vertex: int) -> None:
    points = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match="3 points have vertices"):
        superpoints(points, points, np.array([[0, 1, vertex]], np.int32), 0.1, 1)


def test_nothing_gives_nothing() -> None:
    nothing = np.zeros((0, 3), np.float32)
    assert superpoints(nothing, nothing, np.zeros((0, 3), np.int32), 0.1, 5).shape == (0,)


def test_segments_are_numbered_by_their_first_point() -> None:
    ids = compact_segments(np.array([70, 70, 5, 900, 5]))
    assert ids.tolist() == [0, 0, 1, 2, 1] and ids.dtype == np.int32


@pytest.mark.parametrize("threshold", [1, 1.0])
def test_a_whole_threshold_is_no_integer_arithmetic(threshold: float) -> None:
    points, normals, triangles = bumpy_grid(1)
    expected = reference(points, normals, triangles, 1.0, 2)
    assert superpoints(points, normals, triangles, threshold, 2).tolist() == expected


def cielab(colors: Array) -> Array:
    """CIELAB (N, 3) of sRGB in 8 bits, by the definitions of IEC 61966-2-1 and CIE 15."""
    scaled = colors.astype(np.float64) / 255
    linear = np.where(scaled > 0.04045, ((scaled + 0.055) / 1.055) ** 2.4, scaled / 12.92)
    xyz = (
        linear
        @ np.array(
            [
                [0.4124564, 0.3575761, 0.1804375],
                [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041],
            ]
        ).T
        / np.array([0.95047, 1, 1.08883])
    )
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    a, b = 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])
    return np.stack([116 * f[:, 1] - 16, a, b], axis=1)


def plain_average(values: Array, edges: Array, rounds: int) -> Array:
    for _ in range(rounds):
        near = [[i] for i in range(len(values))]
        for a, b in edges.tolist():
            near[a].append(b)
            near[b].append(a)
        values = np.array([values[rows].mean(axis=0) for rows in near])
    return values


def test_colours_and_averages_equal_their_definitions() -> None:
    points, normals, triangles = bumpy_grid(3)
    edges = mesh_edges(points, triangles)
    colors = np.random.default_rng(3).integers(0, 256, (len(points), 3)).astype(np.uint8)
    found = averaged(normals, edges, 3)
    np.testing.assert_allclose(found, plain_average(normals, edges, 3), atol=1e-6)
    assert averaged(normals, edges, 0).tobytes() == normals.tobytes()
    lab = plain_average(cielab(colors), edges, 2)
    wanted = np.sum((lab[edges[:, 0]] - lab[edges[:, 1]]) ** 2, axis=1)
    # OpenCV's conversion is exact to a few hundredths.
    np.testing.assert_allclose(color_weights(colors, edges), wanted, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("seed", range(5))
def test_colour_and_smoothing_equal_the_reference(seed: int) -> None:
    points, normals, triangles = bumpy_grid(seed)
    edges = mesh_edges(points, triangles)
    colors = np.random.default_rng(seed).integers(0, 256, (len(points), 3)).astype(np.uint8)
    smooth = averaged(normals, edges, 1)
    smooth = (smooth / np.linalg.norm(smooth, axis=1, keepdims=True)).astype(np.float32)
    steps = np.float32(0.001) * color_weights(colors, edges)
    by_edge = {tuple(edge): step for edge, step in zip(edges.tolist(), steps, strict=True)}
    wanted = reference(points, smooth, triangles, 0.1, 1, lambda i, j: by_edge[i, j])
    cloud = PointCloud(points, colors, normals)
    found = module.superpoints(cloud, triangles, Cutting(0.1, 1, 0.001, 1))
    assert found.tolist() == wanted and 1 < found.max() < len(points) - 1


def test_a_picture_on_a_wall_is_a_piece_of_its_own_by_its_colour_alone() -> None:
    x, y = np.meshgrid(np.arange(20), np.arange(20), indexing="ij")
    points = np.stack([x, y, 0 * x], axis=-1).reshape(-1, 3).astype(np.float32) * np.float32(0.03)
    index = np.arange(400).reshape(20, 20)
    corners = [index[:-1, :-1], index[1:, :-1], index[1:, 1:]]
    others = [index[:-1, :-1], index[1:, 1:], index[:-1, 1:]]
    triangles = np.concatenate(
        [np.stack([c.ravel() for c in three], 1) for three in (corners, others)]
    ).astype(np.int32)
    picture = ((x >= 5) & (x < 14) & (y >= 6) & (y < 15)).ravel()
    colors = np.where(picture[:, None], [150, 60, 50], [220, 215, 205]).astype(np.uint8)
    cloud = PointCloud(points, colors, np.tile(np.array([0, 0, 1], np.float32), (400, 1)))
    assert module.superpoints(cloud, triangles, Cutting(0.05, 20)).max() == 0
    ids = module.superpoints(cloud, triangles, Cutting(0.05, 8, 0.004))
    inside = [np.bincount(ids[part], minlength=ids.max() + 1) for part in (picture, ~picture)]
    best = inside[0] > inside[1]  # The best union of pieces, nearly the picture.
    overlap = inside[0][best].sum() / (picture.sum() + inside[1][best].sum())
    assert overlap > 0.7


def test_smoothing_makes_fewer_pieces_of_a_noisy_plane() -> None:
    points, _, triangles = bumpy_grid(0, size=20)
    points[:, 2] = np.random.default_rng(0).normal(0, 0.4, len(points))
    cloud = PointCloud(points, np.zeros((400, 3), np.uint8), vertex_normals(points, triangles))
    pieces = [
        module.superpoints(cloud, triangles, Cutting(0.02, 1, 0, rounds)).max() + 1
        for rounds in (0, 2, 6)
    ]
    assert pieces[0] > pieces[1] > pieces[2]
