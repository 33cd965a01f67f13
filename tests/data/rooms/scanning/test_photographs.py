"""Degraded pictures: gains, noise and motion blur against what the formulas say."""

from __future__ import annotations

import numpy as np
import pytest

from data.rooms.render import fisheye_camera
from data.rooms.scanning.photographs import (
    BALANCE_WALK,
    EXPOSURE_TIME,
    EXPOSURE_WALK,
    READ,
    SHOT,
    Photographer,
    exposures,
)
from data.types import Array, Camera

CAMERA = Camera("PINHOLE", np.array([[100.0, 0, 48], [0, 100.0, 32], [0, 0, 1]]), 64, 96)
STILL, EVEN = np.zeros((2, 3)), np.ones(3)


def take(
    image: Array, motion: Array = STILL, gains: Array = EVEN, depth: float = 2.0, seed: int = 0
) -> Array:
    depths = np.full(image.shape[:2], depth, np.float32)
    return Photographer(CAMERA)(image, depths, motion, gains, np.random.default_rng(seed))


def plain(value: int) -> Array:
    return np.full((64, 96, 3), value, np.uint8)


@pytest.mark.parametrize("value", [0, 40, 128, 220])
def test_noise_has_a_part_that_grows_with_light_and_one_that_does_not(value: int) -> None:
    spread = 255 * np.sqrt(value / 255 * SHOT + READ**2)
    found = take(plain(value)).astype(float)
    if value:
        assert found.mean() == pytest.approx(value, abs=0.1)
        assert found.std() == pytest.approx(np.hypot(spread, 1 / np.sqrt(12)), rel=0.05)
    else:
        assert found.max() < 6 * spread


def test_exposure_and_white_balance_multiply_the_channels() -> None:
    found = take(plain(100), gains=np.array([1.2, 1.0, 0.5])).reshape(-1, 3).mean(axis=0)
    assert found.tolist() == pytest.approx([120, 100, 50], abs=0.3)
    assert take(plain(200), gains=np.full(3, 2.0)).min() == 255


def test_exposures_walk_with_their_root_mean_squares() -> None:
    rng = np.random.default_rng(0)
    gains = np.stack([exposures(30, rng) for _ in range(300)])
    assert np.log2(gains[..., 1]).std() == pytest.approx(EXPOSURE_WALK, rel=0.08)
    assert np.log(gains[..., 0] / gains[..., 1]).std() == pytest.approx(BALANCE_WALK, rel=0.08)
    assert np.log(gains[..., 2] / gains[..., 1]).std() == pytest.approx(BALANCE_WALK, rel=0.08)


def test_flow_is_the_derivative_of_the_projection() -> None:
    """At depth z a shift by v moves pixels by f v / z; a turn about z turns about the centre."""
    photographer = Photographer(CAMERA)
    depth = np.full((64, 96), 2.0, np.float32)
    sideways = photographer.flow(depth, np.array([[0, 0, 0], [0.5, 0.2, 0]]))
    assert np.allclose(sideways[..., 0], 100 * 0.5 / 2 * EXPOSURE_TIME, atol=1e-5)
    assert np.allclose(sideways[..., 1], 100 * 0.2 / 2 * EXPOSURE_TIME, atol=1e-5)
    turn = photographer.flow(depth, np.array([[0, 0, 1.0], [0, 0, 0]]))
    x, y = 16.5 - 48, 32.5 - 32  # The grid's place (2, 1).
    assert turn[2, 1].tolist() == pytest.approx([-y * EXPOSURE_TIME, x * EXPOSURE_TIME], rel=1e-3)
    wide = Photographer(fisheye_camera(64, 96, (1, 2, 3)))
    assert np.isfinite(wide.flow(depth, np.array([[0.3, 0.2, 0.1], [0.5, 0, 0]]))).all()


def test_motion_spreads_an_edge_along_the_way_only() -> None:
    """A line one pixel wide becomes as wide as the way and keeps its light."""
    image = plain(0)
    image[:, 48] = 250
    speed = 6.0 * 2 / 100 / EXPOSURE_TIME  # Six pixels at two metres.
    found = take(image, np.array([[0, 0, 0], [speed, 0, 0]])).astype(float).mean(axis=(0, 2))
    lit = np.flatnonzero(found > 10)
    assert 5 <= len(lit) <= 7 and abs(lit.mean() - 48) <= 1
    assert found[lit].sum() == pytest.approx(250, rel=0.1)
    along = take(image, np.array([[0, 0, 0], [0, speed, 0]])).astype(float).mean(axis=(0, 2))
    assert along[48] == pytest.approx(250, abs=1) and along[47] < 3


def test_the_same_seed_gives_the_same_picture() -> None:
    assert np.array_equal(take(plain(90)), take(plain(90)))
    assert not np.array_equal(take(plain(90)), take(plain(90), seed=1))
