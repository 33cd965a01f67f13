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

from data.artifacts.evaluation import SOURCES
from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.types import Array, Scene
from models.student import Student
from stages.certainty import answer_certainty, label_features
from stages.configs import PredictConfig
from stages.fusion.thresholds import rescale_by_threshold
from stages.relations.by_labels import Related, relate_predictions
from stages.relations.by_words import Asking, resolve
from stages.relations.instances import RoomSpace
from stages.student.answering import (
    LabelAnswers,
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
    related: Related | None = None,
) -> Predictions:
    """Answer all of a scene's queries by the [SEG] tokens of its views, with and without labels.

    Args:
        scene: the scan.
        pseudo_labels: its queries with the tokens of the views and the labels of fusion.
        student_dir: folder of a trained student.
        cfg: rotations and thresholds.
        device: "cpu" or "cuda[:i]".
        related: the queries that relate things, which are resolved; None for none.

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: the device or spconv is not available, or the tokens are of another teacher.
    """
    masks, probs = read_by_views(scene, pseudo_labels, student_dir, cfg, device)
    answers = label_answers(pseudo_labels, masks)
    found = masks.predictions(pseudo_labels.prompt_ids, probs, answers)
    if related is not None:
        relate_predictions(found, pseudo_labels, related, scene)
    return found


def label_answers(labels: PseudoLabels, masks: SceneMasks) -> LabelAnswers:
    """Bring labels of points to the superpoints of ``masks``."""
    scaled = rescale_by_threshold(labels.soft, labels.thresholds)
    return LabelAnswers(masks.superpoint_means(scaled), label_features(labels))


def run_without_student(labels: PseudoLabels, cfg: PredictConfig) -> Predictions:
    """Return the answers of the labels alone as predictions, in all their parts."""
    masks, probs = labels.answers(), rescale_by_threshold(labels.soft, labels.thresholds)
    sure = answer_certainty(label_features(labels), cfg.certainty, "labels")
    presences, qualities = (np.repeat(part[:, None], len(SOURCES), axis=1) for part in sure)
    answers = probs, masks, masks, presences, qualities
    return Predictions(labels.scene_id, labels.prompt_ids, *answers)


def run_by_words(
    scene: Scene,
    prompt_ids: tuple[str, ...],
    words: tuple[Array, Array],
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
    asking: Asking | None = None,
) -> Predictions:
    """Answer queries by their text tokens (Q, T) and how well their words are known, (Q,).

    Both are those of ``encode_queries``; with ``asking`` they are those of all its texts, and
    sentences that relate things are resolved. Other arguments and errors are those of ``run``.
    """
    tokens, known = words
    masks, probs = read_by_words(scene, tokens, student_dir, cfg, device)
    told = masks.told_by_words(probs, known)
    if asking is not None and asking.relates:
        told, _ = resolve(asking, told, RoomSpace(scene))
    return masks.predictions_by_words(prompt_ids, told)


def read_by_views(
    scene: Scene, labels: PseudoLabels, student_dir: Path, cfg: PredictConfig, device: str = "cpu"
) -> tuple[SceneMasks, Array]:
    """Return the student's probabilities (Q, S) by the tokens of the views, unsmoothed.

    The ``SceneMasks`` make answers of them. Arguments and errors are those of ``run``.
    """
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, labels.query_tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        tokens = fuse_views(model, query_views(labels, scene)).tokens
        return _read(scene, model, tokens, voxel_size, cfg)


def read_by_words(
    scene: Scene, tokens: Array, student_dir: Path, cfg: PredictConfig, device: str = "cpu"
) -> tuple[SceneMasks, Array]:
    """Return the student's probabilities by text tokens (Q, T); see ``read_by_views``."""
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        return _read(scene, model, torch.from_numpy(tokens), voxel_size, cfg)


def _read(
    scene: Scene, model: Student, tokens: Tensor, voxel_size: float, cfg: PredictConfig
) -> tuple[SceneMasks, Array]:
    queries = tokens.contiguous().to(model.scale.device)
    cloud, ids = student_cloud(scene), scene.superpoint_ids
    answers = answer_superpoints(model, cloud, ids, queries, voxel_size, cfg.turns)
    return SceneMasks(scene, answers.features, cfg), answers.probs
