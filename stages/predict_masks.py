"""Stage: a trained student answers a scene's queries with masks on its original points.

Two answers are given: the student's own, and that of student and lifted labels together, the
geometric mean of both. Labels enter it scaled so that each query's threshold lies at one half.
Asked by words alone, the student needs no image and no teacher's mask of the scene; then its own
answer is all there is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data.artifacts.predictions import Predictions
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.student import CONFIG, read_model
from data.errors import ArtifactError, UserError
from data.training_scene import floor_height, query_views
from data.types import Array, Scene
from models.student import Student
from stages.answering import superpoint_probs
from stages.configs import PredictConfig
from stages.objectives import fuse_views
from stages.repeatable import repeatable
from stages.thresholds import choose_thresholds, level, together


def run(
    scene: Scene,
    asked: PseudoLabels,
    student_dir: Path,
    cfg: PredictConfig,
    device: str = "cpu",
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
    _check_length(scene, asked.query_tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        tokens = fuse_views(model, query_views(asked, scene)).tokens
        probs = _probs(scene, model, tokens.cpu().numpy(), voxel_size, cfg)
    both = together(probs, level(asked.soft, asked.thresholds))
    return Predictions(
        scene.scene_id,
        asked.prompt_ids,
        probs,
        _masks(probs, cfg),
        _masks(both, cfg),
        np.stack([probs.max(1, initial=0), both.max(1, initial=0)], axis=1),
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
    _check_length(scene, tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        probs = _probs(scene, model, tokens, voxel_size, cfg)
    scores = np.repeat(probs.max(1, initial=0)[:, None], 2, axis=1)
    masks = _masks(probs, cfg)
    return Predictions(scene.scene_id, prompt_ids, probs, masks, masks, scores)


def _check_length(scene: Scene, tokens: Array, model: Student, student_dir: Path) -> None:
    if tokens.shape[1] != model.token_map.in_features:
        raise UserError(
            f"{scene.scene_id}: tokens have length {tokens.shape[1]}, but the student in "
            f"{student_dir} takes {model.token_map.in_features}. Train it with this teacher."
        )


def _probs(
    scene: Scene, model: Student, tokens: Array, voxel_size: float, cfg: PredictConfig
) -> Array:
    """(Q, N) float32 probabilities of the points, as stored: in steps of 1/255."""
    cloud, ids = scene.cloud, scene.superpoint_ids
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    asked = torch.from_numpy(np.ascontiguousarray(tokens)).to(model.scale.device)
    parts = (points, cloud.colors, cloud.normals)
    probs = superpoint_probs(model, parts, ids, asked, voxel_size, cfg.turns)
    return np.asarray(np.rint(probs * 255) / np.float32(255), np.float32)[:, ids]


def _masks(probs: Array, cfg: PredictConfig) -> Array:
    thresholds = choose_thresholds(probs, cfg.threshold, cfg.presence)
    return np.asarray(probs >= thresholds[:, None])


def load_student(student_dir: Path, device: str) -> tuple[Student, float]:
    """A finished student in evaluation mode, and the edge of its voxels in metres.

    Raises ArtifactError and UserError as ``run``.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"Device {device!r} was asked for, but torch finds no CUDA device.")
    weights, config = read_model(student_dir)
    try:
        model = Student(**config["network"], seed=0)
        model.load_state_dict(weights)
        voxel_size = float(config["training"]["voxel_size"])
    except ImportError as error:
        raise UserError(str(error)) from error
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            student_dir / CONFIG, "the config of these weights", str(error), "Run TrainStudent."
        ) from error
    return model.to(device).eval(), voxel_size
