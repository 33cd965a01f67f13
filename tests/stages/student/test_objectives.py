"""Targets, weights and losses of one scene, by hand."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from models.student import Features, Student
from stages.fusion import thresholds
from stages.network_configs import LossConfig
from stages.student import objectives, training_samples
from stages.student.training_samples import Augmentation, QueryViews, Sample, SampleSettings
from tests.support.worlds.tiny_training import four_points

CPU = torch.device("cpu")
LN3 = log(3)  # The logit of 3/4.


def make_sample(**changes: Any) -> Sample:
    """Query e_0 claims the first of two superpoints (4 and 9 points); negative e_1."""
    rng = training_samples.sample_generator(0, 0, 0)
    settings = SampleSettings(1.0, 5, 0, Augmentation(False, False, 0, 0))
    sample = training_samples.draw_sample(
        four_points(), np.zeros((0, 8), np.float32), settings, rng
    )
    own = np.eye(2, dtype=np.float32)
    views = QueryViews(
        np.stack([own[:1], own[:1]], 1), np.full((1, 2), 0.5, np.float32),
        np.ones((1, 2), np.float32), np.zeros((2, 6), np.float32),
    )  # fmt: skip
    fields = {
        "sizes": np.array([4, 9], np.float32),
        "soft": np.array([[1, 0]], np.float32),
        "confidence": np.array([[0.7, 0.2]], np.float32),
        "thresholds": np.array([0.5], np.float32),
        "tokens": own[:1],
        "views": views,
        "negatives": own[1:],
    }
    return replace(sample, **{**fields, **changes})


def plain_student(learnt_fusion: bool = False) -> Student:
    """Mask logits are dot products of features and tokens."""
    model = Student("tiny", 2, 2, seed=0, learnt_fusion=learnt_fusion)
    with torch.no_grad():
        model.token_map.weight.copy_(torch.eye(2))
        model.bias.zero_()
    return model


def features(mask: list[list[float]]) -> Features:
    return Features(
        torch.tensor(mask, requires_grad=True),
        torch.tensor([[1.0, 1.0], [5.0, 0.0]], requires_grad=True),
    )


def test_targets_by_hand() -> None:
    sample = make_sample(
        soft=np.array([[0.3, 0.6, 0.15, 0.0], [0.9, 0.3, 0.2, 1.0], [1.0, 0.5, 0.0, 1.0]], "f4"),
        confidence=np.array([[1, 0.2, 0.5, 0], [0.1, 0.1, 0, 1], [1, 1, 1, 1]], "f4"),
        thresholds=np.array([0.3, 2.0, 1.0], "f4"),
        sizes=np.array([1, 4, 9, 100], "f4"),
    )
    wanted, weights = objectives.targets(sample)
    # The threshold becomes 1/2, twice the threshold 1; the second query has no object.
    expected = np.array([[0.5, 1, 0.25, 0], [0, 0, 0, 0], [0.5, 0.25, 0, 0.5]])
    np.testing.assert_allclose(wanted, expected, atol=1e-6)
    np.testing.assert_allclose(weights, [[1, 2, 3, 0], [1, 2, 0, 10], [1, 2, 3, 10]], atol=1e-6)
    assert wanted.dtype == weights.dtype == np.float32


def test_labels_above_twice_the_threshold_stay_one_and_a_threshold_of_zero_is_no_division() -> None:
    level = thresholds.rescale_by_threshold(
        np.array([[0.9], [0.2], [0.0]], "f4"), np.array([0.2, 0, 0], "f4")
    )
    assert level.tolist() == [[1], [1], [0]]


def test_pooling_is_that_of_the_parts() -> None:
    how = objectives.pooling(make_sample(), CPU)
    assert how.num_superpoints == 2 and how.superpoint.tolist() == [0, 1, 1, 1]
    assert how.voxel.tolist() == [0, 0, 1, 2]
    assert how.share.tolist() == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])


def test_losses_of_a_scene_by_hand() -> None:
    # Probabilities 3/4 and 1/4; superpoints weigh 2 and 3; positives count three times.
    given = features([[LN3, 0.0], [-LN3, 0.0]])
    parts = objectives.scene_losses(plain_student(), make_sample(), given, LossConfig())
    expected = {
        "bce": (3 * 2 + 3) * log(4 / 3) / 5,
        "dice": 1 - 2 * 2 * 0.75 / (2 * (0.75**2 + 1) + 3 * 0.25**2),
        "neighbours": 0.25,
        "feature": 1 - 1 / sqrt(2),
        "absent": log(2),
    }
    assert {name: loss.item() for name, loss in parts.items()} == pytest.approx(expected, abs=1e-5)
    assert set(parts) == set(LossConfig.model_fields) - {"positive_weight", "image"}


def test_the_fused_token_of_the_views_asks() -> None:
    # Views e_0 and e_1 with weights 3 and 4: the token is (0.6, 0.8), whatever ``tokens`` says.
    views = QueryViews(
        np.eye(2, dtype=np.float32)[None], np.array([[3, 4]], np.float32),
        np.ones((1, 2), np.float32), np.zeros((2, 6), np.float32),
    )  # fmt: skip
    sample = make_sample(views=views)
    given = features([[0.0, LN3 / 0.8], [-LN3 / 0.6, 0.0]])
    for learnt in (False, True):  # A new network is the closed form.
        parts = objectives.scene_losses(plain_student(learnt), sample, given, LossConfig())
        assert parts["bce"].item() == pytest.approx(9 * log(4 / 3) / 5, abs=1e-5)


def test_what_no_query_knows_does_not_count_among_negatives() -> None:
    sample = make_sample(confidence=np.array([[1, 0]], np.float32))
    given = features([[0.0, LN3], [0.0, 50.0]])
    parts = objectives.scene_losses(plain_student(), sample, given, LossConfig())
    assert parts["absent"].item() == pytest.approx(log(4), abs=1e-5)


def test_without_negatives_and_pairs_their_losses_are_zero() -> None:
    sample = make_sample(
        negatives=np.zeros((0, 2), np.float32),
        pairs=np.zeros((0, 2), np.int64),
        affinity=np.zeros(0, np.float32),
    )
    parts = objectives.scene_losses(plain_student(), sample, features([[1.0, 0]] * 2), LossConfig())
    assert parts["absent"].item() == 0 and parts["neighbours"].item() == 0


def test_an_absent_query_costs_as_a_negative_and_claims_nothing() -> None:
    sample = make_sample(thresholds=np.array([2.0], np.float32))
    given = features([[LN3, 0.0], [-LN3, 0.0]])
    parts = objectives.scene_losses(plain_student(), sample, given, LossConfig())
    assert parts["bce"].item() == pytest.approx((2 * log(4) + 3 * log(4 / 3)) / 5, abs=1e-5)
    assert parts["dice"].item() == 0 and parts["feature"].item() == 0


def test_losses_reach_features_and_fusion() -> None:
    views = make_sample().views
    sample = make_sample(views=replace(views, tokens=np.eye(2, dtype=np.float32)[None]))
    model, given = plain_student(learnt_fusion=True), features([[1.0, 0.2], [0.3, -1.0]])
    parts = objectives.scene_losses(model, sample, given, LossConfig())
    sum(parts.values()).backward()  # type: ignore[union-attr]
    assert given.mask.grad is not None and given.token.grad is not None
    assert given.mask.grad.all() and given.token.grad[0].any()
    assert model.fusion is not None and model.fusion.leave.weight.grad is not None
    assert model.fusion.leave.weight.grad.any()
