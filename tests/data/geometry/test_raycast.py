"""The room that imports Open3D: hits computed by hand, and what a bare machine is told."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from data.errors import UserError
from data.geometry import raycast
from data.geometry.raycast import open3d
from data.types import Camera

SQUARE = np.array([[-1.0, -1, 2], [1, -1, 2], [1, 1, 2], [-1, 1, 2]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])


def test_distances_count_in_units_of_the_direction() -> None:
    caster = raycast.Raycaster(SQUARE, TRIANGLES)
    directions = np.array([[0.1, -0.05, 1.0], [0.1, -0.05, 0.5], [0, 0, -1.0], [3.0, 0, 1.0]])
    distance, triangle = caster.cast(np.zeros(3), directions)
    np.testing.assert_allclose(distance[:2], [2, 4], rtol=1e-6)
    assert triangle[0] == 0 and (triangle[2:] == -1).all()
    assert np.isinf(distance[2:]).all()


def test_occlusion_ends_at_far() -> None:
    caster = raycast.Raycaster(SQUARE, TRIANGLES)
    ray = np.array([[0.1, -0.05, 1.0]])
    assert not caster.occluded(np.zeros(3), ray, far=1.9)[0]
    assert caster.occluded(np.zeros(3), ray, far=2.1)[0]


def test_rendered_depth_is_z_not_distance() -> None:
    camera = Camera("PINHOLE", np.array([[4.0, 0, 4], [0, 4, 4], [0, 0, 1]]), 8, 8)
    depth, triangle = raycast.Raycaster(SQUARE, TRIANGLES).render(camera, np.eye(4))
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True  # x / z = (u - 4) / 4 stays within 1 / 2 for u of 2 to 6.
    np.testing.assert_allclose(depth[inside], 2, rtol=1e-6)
    assert (depth[~inside] == 0).all() and (triangle[~inside] == -1).all()


def test_a_fisheye_sees_the_same_square() -> None:
    """Without distortion its rays within the image are those of angles: r = theta * focal."""
    camera = Camera(
        "OPENCV_FISHEYE",
        np.diag([8.0, 8, 1]) + [[0, 0, 8], [0, 0, 8], [0, 0, 0]],
        16,
        16,
        (0, 0, 0, 0),
    )
    depth, triangle = raycast.Raycaster(SQUARE, TRIANGLES).render(camera, np.eye(4))
    v, u = np.mgrid[:16, :16] + 0.5 - 8
    theta = np.hypot(u, v) / 8
    radius = 2 * np.tan(theta) / np.hypot(u, v)
    inside = (theta < np.pi / 2) & (np.abs(u * radius) < 1) & (np.abs(v * radius) < 1)
    assert 20 < inside.sum() < 200 and triangle.dtype == np.int32
    np.testing.assert_allclose(depth, np.where(inside, 2, 0), rtol=1e-6)
    np.testing.assert_array_equal(triangle >= 0, inside)


def test_a_missing_system_library_is_named_with_its_apt_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "open3d", None)
    open3d.cache_clear()
    caster, ray = raycast.Raycaster(SQUARE, TRIANGLES), np.array([[0.1, -0.05, 1.0]])
    with pytest.raises(UserError, match="apt-get install .*libgl1"):
        caster.cast(np.zeros(3), ray)
    monkeypatch.undo()
    open3d.cache_clear()
    assert caster.cast(np.zeros(3), ray)[1].tolist() == [0]
