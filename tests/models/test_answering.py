"""A student's answers on one cloud, against plain numpy where the network is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from data.types import Array
from models.student import Features, Pooling, Student, pool
from stages.student import answering

Cloud = tuple[Array, Array, Array]


class Plain:
    """A student whose mask features are the superpoints' mean inputs."""

    scale = torch.zeros(())

    def __call__(self, features: Tensor, indices: Tensor, scenes: list[Pooling]) -> list[Features]:
        assert len(scenes) == 1 and not indices[:, 0].any() and len(indices) == len(features)
        mean = pool(features, scenes[0])
        return [Features(mean, mean)]

    def mask_logits(self, mask_features: Tensor, tokens: Tensor) -> Tensor:
        return tokens @ mask_features.T


def make_cloud(num_points: int = 40) -> tuple[Cloud, Array]:
    """Points of which no two share a voxel of 1 mm, and four superpoints; the third is empty."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 3, (num_points, 3)).astype(np.float32)
    normals = rng.normal(size=(num_points, 3))
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32)
    ids = np.array([0, 1, 3], np.int32)[rng.integers(0, 3, num_points)]
    return (points, rng.integers(0, 256, (num_points, 3)).astype(np.uint8), normals), ids


def by_hand(cloud: Cloud, ids: Array, tokens: Array, degrees: list[float]) -> Array:
    """(Q, S) means of the sigmoids over turns, from the means over points of the inputs."""
    points, colors, normals = cloud
    total = np.zeros((len(tokens), 4))
    for angle in np.radians(degrees):
        x = np.cos(angle) * normals[:, 0] - np.sin(angle) * normals[:, 1]
        y = np.sin(angle) * normals[:, 0] + np.cos(angle) * normals[:, 1]
        columns = [*(colors / 127.5 - 1).T, points[:, 2] - 1, x, y, normals[:, 2]]
        for superpoint in (0, 1, 3):
            inputs = [column[ids == superpoint].mean() for column in columns]
            total[:, superpoint] += 1 / (1 + np.exp(-tokens @ inputs))
        total[:, 2] += 0.5  # Of no point nothing is known: the logit is 0.
    return total / len(degrees)


@pytest.mark.parametrize("turns", [1, 3])
def test_answers_are_means_over_turns_of_superpoints(turns: int) -> None:
    cloud, ids = make_cloud()
    tokens = np.random.default_rng(1).normal(size=(5, 7)).astype(np.float32)
    model: Any = Plain()
    probs, features = answering.answer_superpoints(
        model, cloud, ids, torch.from_numpy(tokens), 0.001, turns
    )
    expected = by_hand(cloud, ids, tokens, [20, 157.5, 295][:turns])
    assert probs.dtype == np.float32 and probs.shape == (5, 4)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    inside = cloud[1][ids == 1] / 127.5 - 1
    np.testing.assert_allclose(features[1, :3], inside.mean(0), atol=1e-5)
    assert features.shape == (4, 7) and features.dtype == np.float32


def test_many_queries_are_answered_as_few() -> None:
    cloud, ids = make_cloud()
    tokens = np.random.default_rng(1).normal(size=(300, 7)).astype(np.float32)
    model: Any = Plain()
    probs, _ = answering.answer_superpoints(model, cloud, ids, torch.from_numpy(tokens), 0.001, 1)
    np.testing.assert_allclose(probs, by_hand(cloud, ids, tokens, [20]), atol=1e-5)
    none, _ = answering.answer_superpoints(model, cloud, ids, torch.zeros(0, 7), 0.001, 2)
    assert none.shape == (0, 4)


def test_a_zero_token_is_answered_with_nothing() -> None:
    cloud, ids = make_cloud()
    model = Student("tiny", 6, 8, seed=0).eval()
    probs, _ = answering.answer_superpoints(model, cloud, ids, torch.eye(6)[[0, 3]] * 0, 0.3, 2)
    assert probs.shape == (2, 4) and not probs.any()
    mixed, _ = answering.answer_superpoints(model, cloud, ids, torch.eye(6), 0.3, 2)
    assert ((mixed > 0) & (mixed < 1)).all()


def test_the_order_of_points_does_not_matter() -> None:
    cloud, ids = make_cloud(200)
    order = np.random.default_rng(2).permutation(200)
    model = Student("tiny", 6, 8, seed=0).eval()
    points, colors, normals = (part[order] for part in cloud)
    mixed = points, colors, normals
    plain, _ = answering.answer_superpoints(model, cloud, ids, torch.eye(6), 0.3, 2)
    shuffled, _ = answering.answer_superpoints(model, mixed, ids[order], torch.eye(6), 0.3, 2)
    np.testing.assert_allclose(plain, shuffled, atol=1e-5)
