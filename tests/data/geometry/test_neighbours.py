"""Which superpoints touch and how much, by hand and against a search over all pairs."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from data.geometry import superpoints
from data.geometry.superpoints import affinity_matrix, neighbours_of, touching_superpoints
from data.types import Array, Neighbours, PointCloud, Scene

REACH = 0.1


def _cloud(points: Array, normals: Array, colors: Array | None = None) -> PointCloud:
    paint = np.full(points.shape, 120, np.uint8) if colors is None else colors.astype(np.uint8)
    return PointCloud(points.astype(np.float32), paint, normals.astype(np.float32))


def _random_cloud(seed: int, num: int = 60) -> tuple[PointCloud, Array]:
    """Points near a bumpy sheet, in five superpoints of different colours."""
    rng = np.random.default_rng(seed)
    points = rng.random((num, 3)) * (0.5, 0.5, 0.1)
    normals = rng.normal(size=(num, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    ids = np.argmin(((points[:, None] - points[None, :5]) ** 2).sum(axis=2), axis=1)
    return _cloud(points, normals, rng.integers(0, 256, (num, 3))), ids.astype(np.int32)


def _all_pairs(cloud: PointCloud, ids: Array) -> dict[tuple[int, int], float]:
    """Affinities from every pair of points, one at a time."""
    points, normals = cloud.points.astype(float), cloud.normals.astype(float)
    creases: dict[tuple[int, int], list[float]] = {}
    for i in range(len(points)):
        distance = np.linalg.norm(points - points[i], axis=1)
        for j in np.argsort(distance)[:9]:
            if distance[j] >= REACH or ids[i] == ids[j]:
                continue
            step = (points[j] - points[i]) / distance[j]
            concave = normals[i] @ step - normals[j] @ step > 0
            crease = min(max(1 - normals[i] @ normals[j], 0), 1) if concave else 0.0
            pair = (int(min(ids[i], ids[j])), int(max(ids[i], ids[j])))
            creases.setdefault(pair, []).append(crease)
    found = {}
    for (a, b), values in creases.items():
        color = cloud.colors[ids == a].mean(axis=0) - cloud.colors[ids == b].mean(axis=0)
        affinity = np.exp(-4 * np.mean(values) - np.linalg.norm(color) / 40)
        found[a, b] = float(affinity * len(values) / (len(values) + 4))
    return found


def _found(near: Neighbours) -> dict[tuple[int, int], float]:
    values = near.affinity.tolist()
    return {(int(a), int(b)): v for (a, b), v in zip(near.pairs, values, strict=True)}


@pytest.mark.parametrize("seed", range(5))
def test_equals_a_search_over_all_pairs(seed: int) -> None:
    cloud, ids = _random_cloud(seed)
    near, wanted = touching_superpoints(cloud, ids, REACH), _all_pairs(cloud, ids)
    assert len(wanted) > 3 and list(_found(near)) == sorted(wanted)
    assert _found(near) == pytest.approx(wanted, abs=1e-4)


def _sheet(rows: int = 12) -> Array:
    """A grid in x and y, 5 cm apart."""
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(rows), indexing="ij"), axis=-1)
    return np.asarray(np.pad(grid.reshape(-1, 2) * 0.05, ((0, 0), (0, 1))))


def _angle(outward: bool) -> tuple[PointCloud, Array]:
    """Two sheets that meet at a right angle: a wall on a floor, or the edge of a box."""
    floor = _sheet() + (0.025, 0, 0)
    wall = _sheet()[:, [2, 1, 0]] + (0, 0, 0.025)
    normals = np.repeat(np.array([[0, 0, 1.0], [1, 0, 0]]), len(floor), axis=0)
    ids = np.repeat([0, 1], len(floor)).astype(np.int32)
    return _cloud(np.concatenate([floor, wall]), normals * (-1 if outward else 1)), ids


def _strip(second: int = 120) -> tuple[PointCloud, Array]:
    """A flat strip in two halves, the second of this grey."""
    points = _sheet()
    ids = (points[:, 0] > 0.27).astype(np.int32)
    colors = np.where(ids[:, None] == 1, second, 120) * np.ones(3)
    return _cloud(points, np.tile([0.0, 0, 1], (len(points), 1)), colors), ids


def test_creases_and_colours_part_what_a_flat_strip_joins() -> None:
    def affinity(case: tuple[PointCloud, Array]) -> float:
        near = touching_superpoints(*case, REACH)
        np.testing.assert_array_equal(near.pairs, [[0, 1]])
        return float(near.affinity[0])

    flat, edge = affinity(_strip()), affinity(_angle(outward=True))
    assert flat > 0.85 and edge > 0.8, "many contacts, no concave crease"
    assert affinity(_angle(outward=False)) == pytest.approx(edge * np.exp(-4), rel=1e-5)
    assert affinity(_strip(160)) == pytest.approx(flat * np.exp(-np.sqrt(3)), rel=1e-5)


def test_a_box_on_a_floor_is_parted_from_it_and_two_boxes_in_contact() -> None:
    """Boxes side by side: their tops lie in one plane, each side is a crease with the floor."""
    top, floor = _sheet() + (0, 0, 0.6), _sheet() + (0.625, 0, 0)
    side = _sheet()[:, [2, 1, 0]] + (0.575, 0, 0.025)
    points = np.concatenate([top, top - (0.6, 0, 0), side, floor])
    normals = np.repeat([[0, 0, 1.0], [0, 0, 1], [1, 0, 0], [0, 0, 1]], 144, axis=0)
    ids = np.repeat(np.arange(4), 144).astype(np.int32)
    ties = affinity_matrix(touching_superpoints(_cloud(points, normals), ids, REACH)).toarray()
    assert ties[0, 1] > 0.8, "tops in one plane"
    assert ties[0, 2] > 0.8, "a convex edge of the box"
    assert 0 < ties[2, 3] < 0.05, "where it stands"
    assert ties[0, 3] == ties[1, 2] == ties[1, 3] == 0


def test_the_matrix_is_symmetric_and_pairs_are_sorted() -> None:
    cloud, ids = _random_cloud(7)
    near = touching_superpoints(cloud, ids, REACH)
    dense = affinity_matrix(near).toarray()
    assert dense.shape == (5, 5) and not dense.diagonal().any()
    np.testing.assert_array_equal(dense, dense.T)
    np.testing.assert_array_equal(dense[near.pairs[:, 0], near.pairs[:, 1]], near.affinity)
    assert np.count_nonzero(dense) == 2 * len(near.pairs)
    assert np.all(near.pairs[:, 0] < near.pairs[:, 1])
    assert near.pairs.dtype == np.int32 and near.affinity.dtype == np.float32
    assert np.all((near.affinity > 0) & (near.affinity <= 1))


@pytest.mark.parametrize("num", [0, 1, 30])
def test_one_superpoint_touches_nothing(num: int) -> None:
    cloud, _ = _random_cloud(0)
    some = PointCloud(cloud.points[:num], cloud.colors[:num], cloud.normals[:num])
    near = touching_superpoints(some, np.zeros(num, np.int32), REACH)
    assert near.pairs.shape == (0, 2) and near.affinity.shape == (0,)
    assert affinity_matrix(near).shape == (min(num, 1),) * 2
    assert affinity_matrix(near).nnz == 0


def test_far_points_do_not_touch() -> None:
    points, up = np.array([[0, 0, 0], [0.11, 0, 0], [0.2, 0, 0]]), np.tile([0.0, 0, 1], (3, 1))
    near = touching_superpoints(_cloud(points, up), np.arange(3, dtype=np.int32), REACH)
    np.testing.assert_array_equal(near.pairs, [[1, 2]])
    assert near.num_superpoints == 3


@pytest.mark.parametrize("seed", range(3))
def test_rotation_and_order_of_points_change_nothing(seed: int) -> None:
    cloud, ids = _random_cloud(seed)
    wanted = _found(touching_superpoints(cloud, ids, REACH))
    turn = Rotation.random(rng=seed).as_matrix().T
    turned = _cloud(cloud.points @ turn + 1, cloud.normals @ turn, cloud.colors)
    assert _found(touching_superpoints(turned, ids, REACH)) == pytest.approx(wanted, abs=1e-4)
    order = np.random.default_rng(seed).permutation(len(ids))
    mixed = _cloud(cloud.points[order], cloud.normals[order], cloud.colors[order])
    found = _found(touching_superpoints(mixed, ids[order], REACH))
    assert found == pytest.approx(wanted, abs=1e-6)


def test_a_scene_s_neighbours_are_those_found_before_or_else_found_now() -> None:
    cloud, ids = _random_cloud(7, 300)
    scene = Scene("two", cloud, np.zeros((0, 3), np.int32), ids, (), [])
    now, wanted = neighbours_of(scene), touching_superpoints(cloud, ids, REACH)
    assert np.array_equal(now.pairs, wanted.pairs) and len(now.pairs)
    assert np.array_equal(now.affinity, wanted.affinity)
    before = Neighbours(np.array([[0, 1]], np.int32), np.array([0.25], np.float32), 2)
    assert neighbours_of(replace(scene, neighbours=before)) is before


def test_any_number_of_threads_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cloud, ids = _random_cloud(7, 300)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(superpoints, "num_threads", partial(int, threads))
        found.append(touching_superpoints(cloud, ids, REACH))
    assert np.array_equal(found[0].pairs, found[1].pairs) and len(found[0].pairs)
    assert np.array_equal(found[0].affinity, found[1].affinity)
