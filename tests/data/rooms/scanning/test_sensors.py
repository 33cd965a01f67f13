"""Depth sensors: published formulas by hand and by the moments of many samples, and lost pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rooms.scanning.sensors import (
    SENSORS,
    angles_of_incidence,
    kinect_axial,
    kinect_lateral,
    kinect_quantised,
    measure,
    smooth_noise,
    stereo_rms,
)
from data.types import Array

SHAPE = (200, 260)


def measured(name: str, depth: float, angle: float = 0.0, seed: int = 0) -> Array:
    """What a sensor measures of a plane at one depth and angle; only what it measures."""
    rng = np.random.default_rng(seed)
    planes = np.full(SHAPE, depth, np.float32), np.full(SHAPE, angle, np.float32)
    result = measure(SENSORS[name], *planes, rng)
    return np.asarray(result[result > 0])


def test_formulas_by_hand() -> None:
    assert kinect_axial(0.4, 0.0) == pytest.approx(0.0012)
    assert kinect_axial(1.4, 0.0) == pytest.approx(0.0031)
    assert kinect_axial(1.0, np.pi / 4) == pytest.approx(0.0012 + 0.0019 * 0.36 + 0.0001)
    assert kinect_lateral(0.0) == pytest.approx(0.8)
    assert kinect_lateral(np.pi / 4) == pytest.approx(0.835)
    assert kinect_quantised(2.0) == pytest.approx(35.130 * 8 / 141)  # 140.52 eighths of a pixel.
    assert stereo_rms(2.12) == pytest.approx(2.12**2 * 0.08 / (424 * 0.05))


@pytest.mark.parametrize("depth, angle", [(0.8, 0.0), (1.5, 0.9), (3.0, 1.2)])
def test_kinect_noise_has_the_published_spread(depth: float, angle: float) -> None:
    """A plane has no lateral noise; rounding to steps adds the variance step^2 / 12."""
    found = measured("kinect", depth, angle)
    steps = 35.130 * 8 / found
    assert np.allclose(steps, np.rint(steps), atol=1e-3 * steps.max())
    step = depth**2 / (35.130 * 8)
    expected = np.hypot(kinect_axial(depth, angle), step / np.sqrt(12))
    assert found.std() == pytest.approx(expected, rel=0.06)
    assert found.mean() == pytest.approx(depth, abs=0.1 * expected)


def test_kinect_lateral_noise_moves_an_edge_by_the_published_spread() -> None:
    """Near and far half: a pixel shows the other half with the normal distribution's share."""
    depth = np.full(SHAPE, 1.0, np.float32)
    depth[:, 130:] = 1.2
    near_by_column = np.zeros(SHAPE[1])
    sensor = SENSORS["kinect"]
    for seed in range(20):
        result = sensor.noise(depth, np.zeros(SHAPE, np.float32), np.random.default_rng(seed))
        near_by_column += (result < 1.1).mean(axis=0) / 20
    # Pixels are drawn to whole columns; the spread is 0.8 pixels of 640 columns.
    spread = 0.8 * SHAPE[1] / 640
    beyond = 0.5 * (1 - _erf(0.5 / spread / np.sqrt(2)))
    assert near_by_column[129] == pytest.approx(1 - beyond, abs=0.02)
    assert near_by_column[130] == pytest.approx(beyond, abs=0.02)


def _erf(value: float) -> float:
    from math import erf

    return erf(value)


@pytest.mark.parametrize("depth", [1.0, 3.0])
def test_stereo_noise_grows_with_the_square_of_depth(depth: float) -> None:
    found = measured("stereo", depth)
    assert found.std() == pytest.approx(stereo_rms(depth), rel=0.05)


@pytest.mark.parametrize("depth", [0.8, 3.5])
def test_lidar_noise_is_about_a_hundredth_of_depth_and_smooth(depth: float) -> None:
    assert measured("lidar", depth).std() == pytest.approx(0.01 * depth, rel=0.15)
    noise = smooth_noise(SHAPE, 12, np.random.default_rng(1))
    assert noise.std() == pytest.approx(1, rel=0.1)
    assert np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1] > 0.95


@pytest.mark.parametrize(
    "name, nearest, farthest", [("kinect", 0.4, 4.5), ("stereo", 0.3, 5.0), ("lidar", 0.2, 5.0)]
)
def test_nothing_beyond_range_and_at_grazing_angles(
    name: str, nearest: float, farthest: float
) -> None:
    assert len(measured(name, 0.8 * nearest)) == 0
    assert len(measured(name, 1.15 * farthest)) == 0
    assert len(measured(name, 1.5, np.deg2rad(81))) == 0
    share = len(measured(name, 1.5, np.deg2rad(60))) / (SHAPE[0] * SHAPE[1])
    assert share == pytest.approx(1 - SENSORS[name].lost, abs=0.005)


def test_a_near_object_hides_a_strip_from_the_second_lens() -> None:
    """Disparities differ by f b (1 / 1 m - 1 / 2 m): so wide is the strip to the left."""
    depth = np.full(SHAPE, 2.0, np.float32)
    depth[:, 120:180] = 1.0
    sensor = SENSORS["stereo"]
    found = measure(sensor, depth, np.zeros(SHAPE, np.float32), np.random.default_rng(0))
    width = sensor.parallax * (1 - 1 / 2)  # 5.3 pixels.
    share = (found > 0).mean(axis=0)
    first = 120 - int(width)
    assert (share[first:118] == 0).all() and share[first - 3] > 0.9
    assert share[185] > 0.9
    single = measure(SENSORS["lidar"], depth, np.zeros(SHAPE, np.float32), np.random.default_rng(0))
    assert (single > 0).mean(axis=0)[first:118].min() > 0.5


def test_some_pixels_at_edges_fly_between_both_surfaces() -> None:
    depth = np.full(SHAPE, 2.0, np.float32)
    depth[:, :130] = 1.0
    found = measure(SENSORS["kinect"], depth, np.zeros(SHAPE, np.float32), np.random.default_rng(3))
    between = (found > 1.1) & (found < 1.9)
    assert 0.05 < between[:, 129].mean() < 0.2
    assert not between[:, :125].any() and not between[:, 135:].any()


def test_back_sides_return_nothing_and_angles_are_those_of_the_normals() -> None:
    ids = np.array([[0, 1, 2, -1]], np.int32)
    normals = np.array([[0, 0, -2.0], [0, 0, 1.0], [-1.0, 0, -1.0]])
    depth = np.ones((1, 4), np.float32)
    turned = np.array([[0, 1.0, 0], [0, 0, 1.0], [1.0, 0, 0]])  # World to camera.
    rays = np.zeros(4), np.zeros(1)
    angle = angles_of_incidence(ids, normals @ turned, turned, *rays, depth)
    assert depth.tolist() == [[1, 0, 1, 1]]
    assert angle[0].tolist() == pytest.approx([0, 0, np.pi / 4, 0])


@given(
    st.sampled_from(sorted(SENSORS)),
    st.lists(st.floats(0, 20, width=32), min_size=12, max_size=12),
    st.floats(0, 1.57),
    st.integers(0, 2**31),
)
def test_whatever_is_seen_is_measured_within_range_or_not_at_all(
    name: str, depths: list[float], angle: float, seed: int
) -> None:
    depth = np.array(depths, np.float32).reshape(3, 4)
    found = measure(
        SENSORS[name], depth, np.full((3, 4), angle, np.float32), np.random.default_rng(seed)
    )
    assert found.dtype == np.float32 and np.isfinite(found).all()
    is_measured = found > 0
    assert (found[is_measured] >= SENSORS[name].near - 1e-6).all()
    assert (found[is_measured] <= SENSORS[name].far + 1e-6).all()
    again = measure(
        SENSORS[name], depth, np.full((3, 4), angle, np.float32), np.random.default_rng(seed)
    )
    assert np.array_equal(found, again)
