"""Superpoints, those they touch and rivals, against dense numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.types import Array, Neighbours
from stages.configs import FuseConfig
from stages.fusion.fuse_masks import diffuse, halve_contested_labels, smooth_superpoints


def random_neighbours(seed: int, num: int, share: float = 0.4) -> tuple[Neighbours, Array]:
    """Random ties of ``num`` superpoints, and the same as a dense symmetric matrix."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((num, num)) * (rng.random((num, num)) < share), 1)
    dense = (upper + upper.T).astype(np.float32)
    pairs = np.argwhere(upper > 0).astype(np.int32)
    return Neighbours(pairs, dense[pairs[:, 0], pairs[:, 1]], num), dense


def test_superpoints_keep_what_is_constant_and_fill_what_is_unseen() -> None:
    ids = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    soft = np.array([[0.2, 0.2, 0.2, 0.9, 0.1, 0.8, 0.0, 0.0]], np.float32)
    confidence = np.array([[0.5, 0.5, 0.5, 0.6, 0.2, 0.6, 0.0, 0.0]], np.float32)
    smooth, shared = smooth_superpoints(soft, confidence, ids)
    np.testing.assert_allclose(smooth[0, :3], 0.2, atol=1e-6)
    np.testing.assert_allclose(shared[0, :3], 0.5, atol=1e-6)
    np.testing.assert_allclose(smooth[0, 3:5], 0.7, atol=1e-6)  # (0.6 * 0.9 + 0.2 * 0.1) / 0.8
    np.testing.assert_allclose(shared[0, 3:5], [0.6, 0.4], atol=1e-6)
    np.testing.assert_allclose(smooth[0, 5:], 0.8, atol=1e-6)
    np.testing.assert_allclose(shared[0, 5:], [0.6, 0.2, 0.2], atol=1e-6)
    again = smooth_superpoints(smooth, shared, ids)
    np.testing.assert_allclose(again[0], smooth, atol=1e-6)


def test_superpoints_equal_plain_loops() -> None:
    rng = np.random.default_rng(0)
    ids, soft = rng.integers(0, 6, 40), rng.random((3, 40), np.float32)
    confidence = (rng.random((3, 40)) * (ids < 5)).astype(np.float32)
    smooth, shared = smooth_superpoints(soft, confidence, ids)
    for query, point in np.ndindex(3, 40):
        mates = ids == ids[point]
        if ids[point] == 5:
            assert smooth[query, point] == shared[query, point] == 0, "seen nowhere"
            continue
        mean = np.average(soft[query, mates], weights=confidence[query, mates])
        assert smooth[query, point] == pytest.approx(mean, abs=1e-6)
        least = confidence[query, mates].mean()
        wanted = max(confidence[query, point], least)
        assert shared[query, point] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("share", "rounds", "strength"), [(0.0, 5, 0.3), (0.5, 5, 0.3), (1.0, 5, 0.3), (0.9, 20, 0.1)]
)
def test_rounds_of_a_dense_solve(share: float, rounds: int, strength: float) -> None:
    near, dense = random_neighbours(1, 12)
    labels = np.random.default_rng(2).random((12, 3)).astype(np.float32)
    total = dense.sum(axis=1, dtype=np.float64)
    pull = share * total / (total + strength)
    wanted = labels.astype(np.float64)
    for _ in range(rounds):
        mean = np.zeros((12, 3))
        for row in np.flatnonzero(total):
            mean[row] = np.average(wanted, axis=0, weights=dense[row])
        wanted = (1 - pull)[:, None] * labels + pull[:, None] * mean
    cfg = FuseConfig(neighbours=share, neighbour_rounds=rounds, neighbour_strength=strength)
    np.testing.assert_allclose(diffuse(labels, near, cfg), wanted, atol=1e-5)


def test_two_that_touch_by_hand() -> None:
    """Affinity 0.3 gives half of the share 0.8: x0 = 0.6 + 0.4 x1, x1 = 0.4 x0, round by round."""
    near = Neighbours(np.array([[0, 1]], np.int32), np.array([0.3], np.float32), 3)
    labels = np.array([[1], [0], [0.25]], np.float32)
    x0, x1 = 1.0, 0.0
    for _ in range(5):
        x0, x1 = 0.6 + 0.4 * x1, 0.4 * x0
    moved = diffuse(labels, near, FuseConfig(neighbours=0.8))
    np.testing.assert_allclose(moved[:, 0], [x0, x1, 0.25], atol=1e-6)
    assert moved.dtype == np.float32 and moved[0, 0] < 1


@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.integers(1, 9))
def test_laws_of_diffusion(seed: int, share: float, level: float, num: int) -> None:
    near, dense = random_neighbours(seed, num)
    labels = np.random.default_rng(seed).random((num, 2)).astype(np.float32)
    moved = diffuse(labels, near, FuseConfig(neighbours=share))
    assert moved.shape == (num, 2) and np.all((moved >= -1e-6) & (moved <= 1 + 1e-6))
    assert np.all(moved >= labels.min(axis=0) - 1e-6)
    assert np.all(moved <= labels.max(axis=0) + 1e-6)
    alone = ~dense.any(axis=1)
    np.testing.assert_array_equal(moved[alone], labels[alone])
    constant = np.full((num, 2), level, np.float32)
    np.testing.assert_allclose(
        diffuse(constant, near, FuseConfig(neighbours=share)), constant, atol=1e-6
    )
    one = diffuse(labels[:, :1], near, FuseConfig(neighbours=share))
    np.testing.assert_allclose(one, moved[:, :1], atol=1e-6)


def test_nothing_to_diffuse() -> None:
    none = Neighbours(np.zeros((0, 2), np.int32), np.zeros(0, np.float32), 2)
    labels = np.array([[0.1], [0.9]], np.float32)
    np.testing.assert_array_equal(diffuse(labels, none, FuseConfig(neighbours=0.7)), labels)
    assert diffuse(np.zeros((2, 0), np.float32), none, FuseConfig(neighbours=0.7)).shape == (2, 0)


LABELS = np.array(
    [
        [0.80, 0.20, 0.00],  # claims: 1, 1/3, 0
        [0.40, 0.60, 0.06],  # 1/2, 1, 1/5
        [0.00, 0.30, 0.15],  # 0, 1/2, 1/2: a peak of 0.15 counts as 0.3
    ],
    np.float32,
)
"""Three superpoints; a query, a rival seen well, another query seen faintly."""
AWAY = np.eye(3, dtype=np.float32)
RIVAL = np.array([False, True, False])


def test_rivals_by_hand() -> None:
    yielded = halve_contested_labels(LABELS, AWAY, RIVAL, 1.5, 0.4)
    wanted = LABELS.copy()
    wanted[1, 0] = 0.2  # 1 > 1.5 * 1/2
    wanted[1, 2] = 0.03  # 1 > 1.5 * 1/5; in superpoint 2 the claims are equal
    np.testing.assert_allclose(yielded, wanted, atol=1e-7)
    assert LABELS[1, 0] == np.float32(0.4), "what was given stays as it was"


def test_the_factor_says_when_a_claim_is_larger() -> None:
    changed = {}
    for factor in (0.3, 1.5, 2.5, 6.0):
        yielded = halve_contested_labels(LABELS, AWAY, RIVAL, factor, 0.4)
        changed[factor] = {(int(s), int(q)) for s, q in np.argwhere(yielded != LABELS)}
    assert changed == {
        0.3: {(0, 0), (1, 0), (1, 2), (2, 2)},
        1.5: {(1, 0), (1, 2)},
        2.5: {(1, 2)},
        6.0: set(),
    }


def test_a_query_like_the_rival_is_not_opposed() -> None:
    tokens = np.array([[0.6, 0.8, 0], [0, 1, 0], [0.98, 0.199, 0]], np.float32)
    yielded = halve_contested_labels(LABELS, tokens, RIVAL, 1.5, 0.4)
    np.testing.assert_array_equal(yielded[:, 0], LABELS[:, 0])  # cosine 0.8
    assert yielded[1, 2] == LABELS[1, 2] / 2  # cosine 0.2


def test_rivals_oppose_each_other_but_not_themselves() -> None:
    both = np.array([True, True, False])
    yielded = halve_contested_labels(LABELS, AWAY, both, 1.5, 0.4)
    np.testing.assert_allclose(yielded[:, 0], [0.8, 0.2, 0], atol=1e-7)
    np.testing.assert_allclose(yielded[:, 1], [0.1, 0.6, 0.3], atol=1e-7)
    alone = halve_contested_labels(LABELS[:, 1:2], AWAY[1:2], np.array([True]), 0.1, 1.0)
    np.testing.assert_array_equal(alone, LABELS[:, 1:2])


def test_who_has_no_token_opposes_but_claims_nothing() -> None:
    labels, tokens = LABELS.copy(), AWAY.copy()
    labels[:, 1], tokens[1] = 0, 0
    np.testing.assert_array_equal(halve_contested_labels(labels, tokens, RIVAL, 1.5, 0.4), labels)
    nothing = np.zeros((0, 3), np.float32)
    assert halve_contested_labels(nothing, AWAY, RIVAL, 1.5, 0.4).shape == (0, 3)
