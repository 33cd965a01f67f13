"""How sure answers are, by hand, and laws of their features."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from stages.certainty import answer_certainty, label_features, logit, mask_features, overlap
from stages.configs import FEATURES, LABEL_FEATURES, CertaintyConfig
from tests.support.worlds.tiny_training import tiny_training_scene

NONE = np.float32(2)


def test_features_of_an_answer_by_hand() -> None:
    probs = np.array([[0.8, 0.4, 0.25, 0.1], [0.1, 0.08, 0.06, 0.02]], np.float32)
    found = mask_features(probs, np.array([0.4, NONE]), np.array([1, 3, 5, 100]))
    np.testing.assert_allclose(found["peak"], [np.log(4), np.log(1 / 9)], rtol=1e-6)
    # The answer is 0.8 once and 0.4 three times, the near miss 0.25 five times. That of a refused
    # query is what reaches half of its peak.
    np.testing.assert_allclose(found["inside"], [(0.8 + 1.2) / 4, (0.1 + 0.24 + 0.3) / 9])
    np.testing.assert_allclose(found["doubtful"], [5 / 9, 0])


def test_an_empty_query_has_features() -> None:
    found = mask_features(np.zeros((1, 3), np.float32), np.array([NONE]), np.ones(3))
    assert found["peak"] == pytest.approx(np.log(1e-4 / (1 - 1e-4)))
    assert (found["inside"].tolist(), found["doubtful"].tolist()) == ([0], [0])


def test_features_of_labels_by_hand() -> None:
    labels = tiny_training_scene().labels
    count, views = labels.view_weights.shape
    weights, sure = np.zeros((2, count, views), np.float32)
    weights[0, :2], sure[0, :3] = (0.25, 0.75), (0.4, 0.8, 1.0)
    evidence = np.array([[0.5, 8, 3], *[[2, 0, 0]] * (count - 1)], np.float32)
    found = label_features(
        replace(labels, view_weights=weights, view_confidences=sure, evidence=evidence)
    )
    assert set(found) == set(LABEL_FEATURES)
    assert all(values.shape == (count,) for values in found.values())
    assert (found["support"][0], found["views"][0]) == (3 / 8, 2)
    assert (found["support"][1], found["views"][1]) == (0, 0)
    np.testing.assert_allclose(found["trust"][:2], [0.25 * 0.4 + 0.75 * 0.8, 0], rtol=1e-6)


def test_no_query_has_no_features() -> None:
    labels = tiny_training_scene().labels
    names = ["soft", "confidence", "view_weights", "query_tokens", "thresholds"]
    names += ["view_tokens", "view_confidences", "evidence"]
    empty = {name: getattr(labels, name)[:0] for name in names}
    none = replace(labels, prompt_ids=(), drop_reasons=(), **empty)
    assert all(values.shape == (0,) for values in label_features(none).values())


def test_overlaps_weigh_pieces() -> None:
    one = np.array([[1, 1, 0], [0, 0, 0]], bool)
    other = np.array([[0, 1, 1], [0, 0, 0]], bool)
    np.testing.assert_allclose(overlap(one, other, np.array([5, 2, 1])), [2 / 8, 0])


def test_a_logistic_by_hand() -> None:
    features = {"peak": np.array([0.0, 1.0]), "inside": np.array([0.5, 0.25])}
    cfg = CertaintyConfig(
        student_presence={"peak": 2, "inside": 4, "bias": -2}, student_quality={"bias": 0}
    )
    presence, quality = answer_certainty(features, cfg, "student")
    np.testing.assert_allclose(presence, [0.5, 1 / (1 + np.exp(-1))], rtol=1e-6)
    assert quality.tolist() == [0.5, 0.5] and presence.dtype == np.float32


@given(
    arrays(np.float32, (3, 5), elements=st.floats(0, 1, width=32)),
    arrays(np.float32, 3, elements=st.floats(0, 2, width=32)),
)
def test_features_are_finite_and_in_their_range(probs: np.ndarray, chosen: np.ndarray) -> None:
    found = mask_features(probs, chosen, np.arange(1, 6))
    assert all(np.isfinite(values).all() for values in found.values())
    for name in ("inside", "doubtful"):
        assert (found[name] >= 0).all() and (found[name] <= 1 + 1e-6).all()
    # A probability of 1 weighs no more than 9,999 to 1.
    assert np.abs(logit(probs)).max() <= np.log(9999) + 1e-9


@pytest.mark.parametrize("whose", FEATURES)
def test_an_unknown_feature_is_refused_by_name(whose: str) -> None:
    told = f"{whose}_quality: no feature 'peek'; there are: peak"
    with pytest.raises(ValidationError, match=told):
        CertaintyConfig.model_validate({f"{whose}_quality": {"peek": 1.0}})
    # The student's own answer knows nothing of views.
    if whose in ("student", "words"):
        with pytest.raises(ValidationError, match="no feature 'support'"):
            CertaintyConfig.model_validate({f"{whose}_presence": {"support": 1.0}})
