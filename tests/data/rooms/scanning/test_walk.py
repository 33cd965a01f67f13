"""The walk of a hand-held camera: drift by its own statistics, motion, and order of poses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.rooms.scan import look_at
from data.rooms.scanning.walk import (
    Walk,
    center,
    drifted,
    random_walk,
    rotation_matrix,
    rotation_vector,
    tour,
)
from data.types import Array


def poses_along_x(count: int) -> Array:
    """Cameras a centimetre apart along x that look along y."""
    eyes = np.array([[0.01 * k, 0.0, 1.0] for k in range(count)])
    return look_at(eyes, eyes + [0, 1.0, 0])


def test_a_random_walk_has_mean_0_and_on_average_mean_square_1() -> None:
    rng = np.random.default_rng(0)
    for count in (2, 7, 60):
        walks = np.stack([random_walk(count, 3, rng) for _ in range(1500)])
        assert np.abs(walks.mean(axis=1)).max() < 1e-12
        assert (walks**2).mean() == pytest.approx(1, rel=0.06)
    steps = np.diff(walks, axis=1)  # Independent steps: no walk back, no smoothness.
    assert abs((steps[:, 1:] * steps[:, :-1]).mean() / (steps**2).mean()) < 0.02
    assert (random_walk(1, 2, rng) == 0).all()


def test_drift_has_the_root_mean_square_that_is_asked_for() -> None:
    rng, true = np.random.default_rng(1), poses_along_x(40)
    squares, angles = [], []
    for _ in range(120):
        believed = drifted(true, 0.008, 0.3, rng)
        for one, other in zip(true, believed):
            squares.append(((center(one) - center(other)) ** 2).sum())
            angles.append(np.sum(rotation_vector(one[:3, :3] @ other[:3, :3].T) ** 2))
            assert np.allclose(other[:3, :3] @ other[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.sqrt(np.mean(squares)) == pytest.approx(0.008, rel=0.1)
    assert np.rad2deg(np.sqrt(np.mean(angles))) == pytest.approx(0.3, rel=0.1)
    assert np.allclose(drifted(true, 0.0, 0.0, rng), true, atol=1e-12)


@given(st.lists(st.floats(-1.8, 1.8), min_size=3, max_size=3))
def test_rotation_vectors_and_matrices_are_inverse(values: list[float]) -> None:
    vector = np.array(values)
    matrix = rotation_matrix(vector)
    assert np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    if np.linalg.norm(vector) < 3.1:
        assert np.allclose(rotation_vector(matrix), vector, atol=1e-6)


def test_a_quarter_turn_by_hand() -> None:
    turned = rotation_matrix(np.array([0, 0, np.pi / 2])) @ [1.0, 0, 0]
    assert np.allclose(turned, [0, 1, 0], atol=1e-12)


def test_motion_is_the_derivative_of_the_poses() -> None:
    """A camera that moves 1 cm a pose to its right: points move 1 cm to its left."""
    true = poses_along_x(5)
    rows = np.arange(5)
    walk = Walk(true, true, rows, rows)
    for index in rows:
        turn, shift = walk.motion(int(index))
        assert np.allclose(turn, 0, atol=1e-9) and np.allclose(shift, [-0.01, 0, 0], atol=1e-12)
    turn = np.array([0.0, 0.02, 0.0])
    pose, turning = np.eye(4), []
    for k in range(3):
        pose[:3, :3] = rotation_matrix(k * turn)
        turning.append(pose.copy())
    found = Walk(np.stack(turning), np.stack(turning), rows, rows).motion(1)
    assert np.allclose(found, [turn, np.zeros(3)], atol=1e-9)
    alone = Walk(true[:1], true[:1], rows[:1], rows[:1])
    assert (alone.motion(0) == 0).all()


def test_no_hand_moves_faster_than_half_a_metre_a_second() -> None:
    eyes = np.array([[0.0, 0, 1], [3.0, 0, 1]])
    true = look_at(eyes[:2], np.stack([eyes[0] + [1.0, 0, 0], eyes[0]]))
    turn, shift = Walk(true, true, np.arange(2), np.arange(2)).motion(0)
    assert np.linalg.norm(shift) == pytest.approx(0.5)
    assert np.rad2deg(np.linalg.norm(turn)) <= 40 + 1e-9


def test_a_tour_visits_every_pose_once_and_the_near_ones_first() -> None:
    true = poses_along_x(6)
    shuffled = true[[0, 5, 3, 1, 4, 2]]
    assert tour(shuffled).tolist() == [0, 3, 5, 2, 4, 1]
    assert tour(true[:1]).tolist() == [0]
