"""Cameras: the closed formulas, OpenCV's own fisheye, and the way back from pixel to ray."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.geometry.cameras import pixel_centers, project, transform, unproject
from data.types import Array, Camera, View

K = np.array([[400.0, 0, 310.0], [0, 420.0, 250.0], [0, 0, 1]])
PINHOLE = Camera("PINHOLE", K, 480, 640)
FISHEYE = Camera("OPENCV_FISHEYE", K, 480, 640, (0.04, -0.01, 0.003, -0.0005))
# theta - theta^3 / 3 turns back at theta = 1, where it reaches 2 / 3.
TURNING = Camera("OPENCV_FISHEYE", K, 480, 640, (-1 / 3, 0.0, 0.0, 0.0))


def points_in_front(count: int = 200) -> Array:
    rng = np.random.default_rng(0)
    points = rng.uniform(-2, 2, (count, 3))
    points[:, 2] = rng.uniform(0.1, 5, count)
    return np.asarray(points)


def test_a_pinhole_by_hand() -> None:
    uv = project(PINHOLE, np.array([[0.0, 0, 1], [1, 2, 4], [-1, 0.5, 2]]))
    np.testing.assert_allclose(uv, [[310, 250], [410, 460], [110, 355]])


def test_a_fisheye_by_hand() -> None:
    lens = Camera("OPENCV_FISHEYE", K, 480, 640, (0.1, 0.0, 0.0, 0.0))
    uv = project(lens, np.array([[1.0, 0, 1], [0, 0, 3]]))
    angle = np.pi / 4
    np.testing.assert_allclose(uv[0], [310 + 400 * angle * (1 + 0.1 * angle**2), 250])
    np.testing.assert_allclose(uv[1], [310, 250])


def test_fisheye_equals_opencv_whose_pixel_centres_are_half_a_pixel_lower() -> None:
    points = points_in_front()
    half = K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    theirs, _ = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), half, np.array(FISHEYE.distortion)
    )
    np.testing.assert_allclose(project(FISHEYE, points), theirs[:, 0] + 0.5, atol=1e-9)


def test_pinhole_equals_opencv() -> None:
    points = points_in_front()
    theirs, _ = cv2.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, np.zeros(4))
    np.testing.assert_allclose(project(PINHOLE, points), theirs[:, 0], atol=1e-9)


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
def test_unproject_undoes_project(camera: Camera) -> None:
    points = points_in_front()
    rays = unproject(camera, project(camera, points))
    np.testing.assert_allclose(rays * points[:, 2:], points, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
def test_project_undoes_unproject_at_every_pixel(camera: Camera) -> None:
    pixels = pixel_centers(camera.height, camera.width)
    np.testing.assert_allclose(project(camera, unproject(camera, pixels)), pixels, atol=1e-9)


@pytest.mark.parametrize("camera", [PINHOLE, FISHEYE], ids=["pinhole", "fisheye"])
def test_points_behind_the_camera_have_no_pixel(camera: Camera) -> None:
    assert np.isnan(project(camera, np.array([[0.1, 0.1, -1.0], [0.0, 0.0, 0.0]]))).all()


def test_points_beyond_the_end_of_the_lens_have_no_pixel() -> None:
    angles = np.array([0.5, 0.99, 1.01, 1.4])
    uv = project(TURNING, np.stack([np.tan(angles), 0 * angles, 1 + 0 * angles], axis=1))
    np.testing.assert_allclose(uv[:2, 0], 310 + 400 * (angles - angles**3 / 3)[:2])
    assert np.isnan(uv[2:]).all()


def test_pixels_beyond_the_end_of_the_lens_have_no_ray() -> None:
    radius = 400 * np.array([0.3, 0.66, 0.67, 0.7])
    rays = unproject(TURNING, np.stack([310 + radius, np.full(4, 250.0)], axis=1))
    assert np.isfinite(rays).all(axis=1).tolist() == [True, True, False, False]
    np.testing.assert_allclose(project(TURNING, rays[:2])[:, 0], 310 + radius[:2], atol=1e-6)


def test_a_pixel_at_ninety_degrees_has_no_ray() -> None:
    lens = Camera("OPENCV_FISHEYE", K, 480, 640, (0.0, 0.0, 0.0, 0.0))
    rays = unproject(lens, np.array([[310 + 400 * 1.57, 250], [310 + 400 * 1.58, 250]]))
    assert np.isfinite(rays[0]).all() and np.isnan(rays[1]).any()


def test_pixel_centres_are_at_a_half_in_row_major_order() -> None:
    centers = pixel_centers(2, 3)
    assert centers.tolist() == [
        [0.5, 0.5],
        [1.5, 0.5],
        [2.5, 0.5],
        [0.5, 1.5],
        [1.5, 1.5],
        [2.5, 1.5],
    ]


@given(st.integers(1, 2000), st.integers(1, 2000))
def test_a_scaled_camera_sees_the_same_at_scaled_pixels(height: int, width: int) -> None:
    for camera in (PINHOLE, FISHEYE):
        small = camera.scaled(height, width)
        points = points_in_front(10)
        scale = np.array([width / 640, height / 480])
        np.testing.assert_allclose(project(small, points), project(camera, points) * scale)
        assert (small.height, small.width) == (height, width)


def test_transform_keeps_the_precision_it_is_given() -> None:
    pose = np.array([[0.0, -1, 0, 1], [1, 0, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    moved = transform(pose, np.array([[1, 2, 3]], np.float32))
    assert moved.dtype == np.float32
    assert moved.tolist() == [[-1, 3, 6]]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "OPENCV"},
        {"K": np.eye(4)},
        {"K": np.diag([np.nan, 1, 1])},
        {"K": np.diag([0.0, 1, 1])},
        {"height": 0},
        {"distortion": (0.1,)},
    ],
)
def test_impossible_cameras_are_refused(change: dict[str, object]) -> None:
    good: dict[str, object] = {"model": "PINHOLE", "K": K, "height": 4, "width": 4}
    with pytest.raises(ValueError):
        Camera(**{**good, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("pose", [np.eye(3), 2 * np.eye(4), np.full((4, 4), np.nan)])
def test_impossible_poses_are_refused(pose: Array, tmp_path: object) -> None:
    with pytest.raises(ValueError, match="v0"):
        View("v0", PINHOLE, pose, None)  # type: ignore[arg-type]
