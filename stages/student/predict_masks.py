"""Stage: answer a scene's queries by a trained student with masks on the original points.

There are two answers: the student's alone, and its geometric mean with the labels of fusion,
which are scaled so that each query's threshold becomes one half, within what either holds. Both
are smoothed within objects (``stages.student.answering``). Queried by words, the student needs no
image and no mask of the scene, and there is only its own answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.types import Array, Scene
from models.student import Student
from stages.configs import PredictConfig
from stages.fusion.thresholds import rescale_by_threshold
from stages.student.answering import (
    Answers,
    SceneMasks,
    answer_superpoints,
    check_length,
    load_student,
    student_cloud,
)
from stages.student.distributed import repeatable
from stages.student.objectives import fuse_views
from stages.student.training_samples import query_views


def run(
    scene: Scene,
    pseudo_labels: PseudoLabels,
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
) -> Predictions:
    """Answer all of a scene's queries by the [SEG] tokens of its views, with and without labels.

    Args:
        scene: the scan.
        pseudo_labels: its queries with the tokens of the views and the labels of fusion.
        student_dir: folder of a trained student.
        cfg: rotations and thresholds.
        device: "cpu" or "cuda[:i]".

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: the device or spconv is not available, or the tokens are of another teacher.
    """
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, pseudo_labels.query_tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        tokens = fuse_views(model, query_views(pseudo_labels, scene)).tokens
        answers = _answers(scene, model, tokens, voxel_size, cfg)
    masks = SceneMasks(scene, answers.features, cfg)
    labels = masks.superpoint_means(
        rescale_by_threshold(pseudo_labels.soft, pseudo_labels.thresholds)
    )
    return masks.predictions(pseudo_labels.prompt_ids, answers.probs, labels)


def run_without_student(labels: PseudoLabels) -> Predictions:
    """Return the answers of the labels alone as predictions, in all their parts."""
    masks, scores = labels.answers(), labels.scores()
    probs = rescale_by_threshold(labels.soft, labels.thresholds)
    both = np.stack([scores, scores], axis=1)
    return Predictions(labels.scene_id, labels.prompt_ids, probs, masks, masks, both)


def run_by_words(
    scene: Scene,
    prompt_ids: tuple[str, ...],
    tokens: Array,
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
) -> Predictions:
    """Answer queries by text tokens (Q, T); other arguments and errors are those of ``run``."""
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        answers = _answers(scene, model, torch.from_numpy(tokens), voxel_size, cfg)
    return SceneMasks(scene, answers.features, cfg).predictions(prompt_ids, answers.probs)


def _answers(
    scene: Scene, model: Student, tokens: Tensor, voxel_size: float, cfg: PredictConfig
) -> Answers:
    queries = tokens.contiguous().to(model.scale.device)
    cloud, ids = student_cloud(scene), scene.superpoint_ids
    return answer_superpoints(model, cloud, ids, queries, voxel_size, cfg.turns)
