"""Training data of the tiny room, whose labels are its truth, and a scene of four points."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from data.artifacts.soft_masks import PseudoLabels
from data.geometry.superpoints import neighbours_of
from data.types import Array
from stages.student.training_samples import CompactScene, QueryViews, TrainingScene
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene


@cache
def tiny_training_scene(scene_id: str = "00000000aa", token_dim: int = 8) -> TrainingScene:
    """The tiny scene with labels made of its truth; no view answers the last query.

    Query q's first two views say e_q and (4 e_q + 3 e_5) / 5 with weights 0.6 and 0.4, the
    others nothing.
    """
    scene, truth = make_tiny_scene(scene_id)
    scene = replace(scene, neighbours=neighbours_of(scene))
    prompts, truths = make_tiny_prompts(scene_id)
    soft = np.stack([truth.mask(t.object_ids) for t in truths]).astype(np.float32)
    views = np.zeros((len(prompts), len(scene.views), token_dim), np.float32)
    weights = np.zeros(views.shape[:2], np.float32)
    own = np.eye(len(prompts), token_dim, dtype=np.float32)
    views[:-1, 0] = own[:-1]
    views[:-1, 1] = 0.8 * own[:-1] + 0.6 * np.eye(6, token_dim, dtype=np.float32)[5]
    weights[:-1, :2] = 0.6, 0.4
    tokens = (weights[..., None] * views).sum(1)
    tokens[:-1] /= np.linalg.norm(tokens[:-1], axis=1, keepdims=True)
    labels = PseudoLabels(
        scene_id,
        tuple(prompt.prompt_id for prompt in prompts),
        tuple(view.view_id for view in scene.views),
        soft,
        np.full_like(soft, 0.8),
        weights,
        tuple(tuple("" for _ in scene.views) for _ in prompts),
        tokens,
        np.where(soft.any(1), 0.5, 2.0).astype(np.float32),
        views,
        (0.9 * (weights > 0)).astype(np.float32),
        np.tile(np.array([0.5, 4, 3], np.float32), (len(prompts), 1)),
    )
    return TrainingScene(scene, prompts, labels)


def only_queries(labels: PseudoLabels, rows: Array) -> PseudoLabels:
    """Return the same labels for some queries."""
    names = ["soft", "confidence", "view_weights", "query_tokens"]
    names += ["thresholds", "view_tokens", "view_confidences", "evidence"]
    return replace(
        labels,
        prompt_ids=tuple(labels.prompt_ids[row] for row in rows),
        drop_reasons=tuple(labels.drop_reasons[row] for row in rows),
        **{name: getattr(labels, name)[rows] for name in names},
    )


def four_points(**changes: Any) -> CompactScene:
    """Four points: two in one voxel of 1 m, one beside it, one above; two superpoints.

    The first superpoint is the first point, the second the three others.
    """
    points = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.1], [1.5, 0.5, 0.5], [0.5, 0.5, 1.5]])
    views = QueryViews(
        np.eye(1, 8, dtype=np.float32)[:, None],
        np.ones((1, 1), np.float32),
        np.full((1, 1), 0.9, np.float32),
        np.array([[0, 0, 1, 0, 1, 0]], np.float32),
    )
    scene = CompactScene(
        "s",
        points.astype(np.float32),
        np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]], np.uint8),
        np.eye(4, 3, dtype=np.float32),
        np.array([0, 1, 1, 1], np.int32),
        np.array([[1, 0.25]], np.float32),
        np.array([[1, 0.5]], np.float32),
        np.array([0.5], np.float32),
        np.eye(1, 8, dtype=np.float32),
        views,
        np.array([False]),
        np.array([[0, 1]], np.int32),
        np.array([0.5], np.float32),
    )
    return replace(scene, **changes)
