"""Parts of one object: found by features and touch, answered alike."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stages.student.answering import find_objects, smooth_objects


def test_parts_touch_and_have_like_features() -> None:
    """0-1-2 in a chain of like features; 3 is like them but touches none; 4 touches but differs."""
    features = np.array([[1, 0], [2, 0.2], [1, 0.3], [5, 0], [-1, 0.1], [0, 0]], np.float32)
    pairs = np.array([[0, 1], [1, 2], [0, 4], [4, 5]], np.int32)
    found = find_objects(features, pairs, 0.9)
    assert found[0] == found[1] == found[2] and len(set(found.tolist())) == 4
    assert len(set(find_objects(features, pairs, 0.99).tolist())) == 5, "only 0 and 1"
    assert len(set(find_objects(features, pairs[:0], -1).tolist())) == 6
    assert find_objects(np.zeros((0, 2)), pairs[:0], 0.9).shape == (0,)


def test_agreement_by_hand() -> None:
    """Roots of the sizes are 1, 3 and 2: the first two's mean is (0.8 + 3 * 0.4) / 4 = 0.5."""
    probs = np.array([[0.8, 0.4, 0.1]], np.float32)
    objects, sizes = np.array([0, 0, 1]), np.array([1, 9, 4])
    np.testing.assert_allclose(
        smooth_objects(probs, objects, sizes, 0.5), [[0.65, 0.45, 0.1]], atol=1e-6
    )
    np.testing.assert_allclose(
        smooth_objects(probs, objects, sizes, 1), [[0.5, 0.5, 0.1]], atol=1e-6
    )
    np.testing.assert_array_equal(smooth_objects(probs, objects, sizes, 0), probs)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_objects_keep_their_mean_and_their_range(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    probs = rng.random((3, 12)).astype(np.float32)
    objects, sizes = rng.integers(0, 5, 12), rng.integers(0, 40, 12)
    settled = smooth_objects(probs, objects, sizes, share)
    for number in set(objects.tolist()):
        inside = objects == number
        weights = np.sqrt(sizes[inside])
        if weights.any():
            before, after = (np.average(x[:, inside], 1, weights) for x in (probs, settled))
            np.testing.assert_allclose(after, before, atol=1e-5)
            assert settled[:, inside].max() <= probs[:, inside].max() + 1e-6
            assert settled[:, inside].min() >= probs[:, inside].min() - 1e-6


def test_without_queries_nothing_is_answered() -> None:
    assert smooth_objects(
        np.zeros((0, 2), np.float32), np.array([0, 0]), np.ones(2), 0.5
    ).shape == (0, 2)
