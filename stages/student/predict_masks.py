"""Stage: a trained student answers a scene's queries with masks on its original points.

Two answers are given: the student's own, and that of student and lifted labels together, the
geometric mean of both. Labels enter it scaled so that each query's threshold lies at one half.
In either, what the student holds for parts of one object answers alike
(``stages.student.answering``). Asked by words alone, the student needs no image and no teacher's
mask of the scene; then its own answer is all there is.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.types import Array, Scene
from models.student import Student
from stages.configs import PredictConfig
from stages.fusion.thresholds import geometric_mean, rescale_by_threshold
from stages.student.answering import (
    Answers,
    Settled,
    answer_superpoints,
    check_length,
    load_student,
    student_cloud,
)
from stages.student.distributed import repeatable
from stages.student.objectives import fuse_views
from stages.student.training_samples import query_views


def run(
    scene: Scene, asked: PseudoLabels, student_dir: Path, cfg: PredictConfig, device: str = "cpu"
) -> Predictions:
    """Answer all of a scene's queries by the tokens of its views, and together with its labels.

    Args:
        scene: the scan.
        asked: its queries, what its views say, and the lifted labels.
        student_dir: a finished student.
        cfg: turns and thresholds.
        device: "cpu" or "cuda[:i]".

    Raises:
        ArtifactError: the student is missing or damaged.
        UserError: no such device, the wrong spconv, or tokens of another teacher.
    """
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, asked.query_tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        tokens = fuse_views(model, query_views(asked, scene)).tokens
        answers = _answers(scene, model, tokens, voxel_size, cfg)
    settled = Settled(scene, answers.features, cfg)
    labels = settled.of_points(rescale_by_threshold(asked.soft, asked.thresholds))
    return settled.predictions(
        asked.prompt_ids, answers.probs, geometric_mean(answers.probs, labels)
    )


def run_by_words(
    scene: Scene,
    prompt_ids: tuple[str, ...],
    tokens: Array,
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
) -> Predictions:
    """Answer queries by tokens (Q, T) made of their words; arguments and errors as of ``run``."""
    model, voxel_size = load_student(student_dir, device)
    check_length(scene, tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        answers = _answers(scene, model, torch.from_numpy(tokens), voxel_size, cfg)
    settled = Settled(scene, answers.features, cfg)
    return settled.predictions(prompt_ids, answers.probs)


def _answers(
    scene: Scene, model: Student, tokens: Tensor, voxel_size: float, cfg: PredictConfig
) -> Answers:
    asked = tokens.contiguous().to(model.scale.device)
    parts, ids = student_cloud(scene), scene.superpoint_ids
    return answer_superpoints(model, parts, ids, asked, voxel_size, cfg.turns)
