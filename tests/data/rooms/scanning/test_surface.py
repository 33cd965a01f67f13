"""Truth of a scan's vertices, its error and its coverage, against brute force and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rooms.room import Mesh
from data.rooms.scanning.surface import (
    COVERED,
    covered_shares,
    nearest_surface,
    surface_errors,
)
from data.rooms.shapes import Surface, box, merge, rectangle
from data.types import Array


def mesh_of(surfaces: list[Surface]) -> Mesh:
    """A mesh whose objects are surfaces."""
    whole = merge(surfaces)
    owners = np.repeat(np.arange(len(surfaces)), [len(s.vertices) for s in surfaces])
    nothing = np.zeros((len(whole.vertices), 3))
    return Mesh(
        whole.vertices, whole.normals, whole.triangles, owners, np.zeros_like(owners), nothing
    )


def square_distances(point: Array, mesh: Mesh, steps: int = 60) -> Array:
    """Squared distances to dense samples of each triangle: at most a little too large."""
    s, t = np.meshgrid(np.linspace(0, 1, steps), np.linspace(0, 1, steps))
    inside = (s + t) <= 1 + 1e-12
    a, b, c = np.swapaxes(mesh.vertices[mesh.triangles], 0, 1)
    samples = (
        a[:, None]
        + s[inside][None, :, None] * (b - a)[:, None]
        + t[inside][None, :, None] * (c - a)[:, None]
    )
    return np.asarray(((samples - point) ** 2).sum(axis=2).min(axis=1))


@given(
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
    st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3),
)
def test_distance_to_a_triangle_is_that_of_its_nearest_sample(
    corners: list[float], at: list[float]
) -> None:
    vertices = np.array(corners).reshape(3, 3)
    sides = vertices[[1, 2, 0]] - vertices
    if np.linalg.norm(np.cross(sides[0], sides[1])) < 1e-3:
        return
    mesh = mesh_of([Surface(vertices, np.zeros((3, 3)), np.array([[0, 1, 2]]))])
    near = nearest_surface(np.array([at]), mesh, 4.0)
    sampled = np.sqrt(square_distances(np.array(at), mesh)[0])
    spacing = np.abs(sides).max() / 59
    assert sampled - 2 * spacing <= near.distance[0] <= sampled + 1e-9
    assert near.owner[0] == 0


def test_the_nearest_object_is_taken_within_reach_and_none_beyond() -> None:
    floor = rectangle((0, 0, 0), (2, 0, 0), (0, 2, 0), 0.1)
    block = box((0.5, 0.5, 0.0), (1.0, 1.0, 0.4), 0.1)
    points = np.array(
        [
            [1.5, 1.5, 0.02],
            [0.75, 0.75, 0.45],
            [1.03, 0.75, 0.2],
            [0.75, 0.75, 0.2],
            [1.5, 1.5, 0.2],
        ]
    )
    near = nearest_surface(points, mesh_of([floor, block]), 0.06)
    assert near.owner.tolist() == [0, 1, 1, -1, -1]
    assert near.distance[:3].tolist() == pytest.approx([0.02, 0.05, 0.03])
    assert np.isinf(near.distance[3:]).all()
    rng = np.random.default_rng(0)
    scattered = rng.uniform(-0.1, 2.1, size=(200, 3)) * [1, 1, 0.3]
    found = nearest_surface(scattered, mesh_of([floor, block]), 0.06)
    mesh = mesh_of([floor, block])
    face_owner = mesh.vertex_objects[mesh.triangles[:, 0]]
    for point, distance, owner in zip(scattered, *found):
        squares = square_distances(point, mesh, 12)
        if np.sqrt(squares.min()) < 0.05:
            assert owner == face_owner[squares.argmin()] or distance == pytest.approx(
                np.sqrt(squares.min()), abs=0.01
            )
        elif np.sqrt(squares.min()) > 0.08:
            assert owner == -1


def test_of_surfaces_at_one_place_the_last_object_is_taken() -> None:
    """A sheet of paper on a table: the paper comes after the table."""
    table = rectangle((0, 0, 0), (1, 0, 0), (0, 1, 0), 0.1)
    paper = rectangle((0.4, 0.4, 0), (0.2, 0, 0), (0, 0.2, 0), 0.1)
    points = np.array([[0.5, 0.5, 0.01], [0.2, 0.2, 0.01]])
    assert nearest_surface(points, mesh_of([table, paper]), 0.06).owner.tolist() == [1, 0]
    assert nearest_surface(points, mesh_of([paper, table]), 0.06).owner.tolist() == [1, 1]


def test_errors_beyond_reach_are_measured_too() -> None:
    mesh = mesh_of([rectangle((0, 0, 0), (1, 0, 0), (0, 1, 0), 0.1)])
    points = np.array([[0.52, 0.5, 0.01], [0.5, 0.5, 0.3]])
    near = nearest_surface(points, mesh, 0.06)
    assert surface_errors(points, near, mesh).tolist() == pytest.approx([0.01, 0.3])


def test_coverage_is_a_share_of_area() -> None:
    """Half of a square metre is scanned, and nothing of a second object of the same size."""
    first = rectangle((0, 0, 0), (1, 0, 0), (0, 1, 0), 0.02)
    second = rectangle((0, 0, 1), (1, 0, 0), (0, 1, 0), 0.1)
    x, y = np.meshgrid(np.arange(0, 0.5, 0.02), np.arange(0, 1.01, 0.02))
    scan = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
    shares = covered_shares(scan, mesh_of([first, second]), 3)
    expected = 0.48 + COVERED
    assert shares[:2].tolist() == pytest.approx([expected, 0.0], abs=0.03)
    assert np.isnan(shares[2]) and shares[3] == pytest.approx(expected / 2, abs=0.02)
    assert covered_shares(np.zeros((0, 3)), mesh_of([first]), 1).tolist() == [0, 0]
