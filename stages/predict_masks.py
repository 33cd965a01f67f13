"""Stage: a trained student answers a scene's queries with masks on its original points.

Two answers are given: the student's own, and that of student and lifted labels together, the
geometric mean of both. Labels enter it scaled so that each query's threshold lies at one half.
In either, what the student holds for parts of one object answers alike (``stages.objects``).
Asked by words alone, the student needs no image and no teacher's mask of the scene; then its own
answer is all there is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.artifacts.predictions import Predictions
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.student import CONFIG, read_model
from data.errors import ArtifactError, UserError
from data.neighbours import REACH, touching_superpoints
from data.training_scene import floor_height, query_views
from data.types import Array, Scene
from data.voxels import mean_by_group
from models.student import Student
from stages.answering import Answers, answer_superpoints
from stages.configs import PredictConfig
from stages.objectives import fuse_views
from stages.objects import agree, find_objects
from stages.repeatable import repeatable
from stages.thresholds import choose_thresholds, level, together


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
    _check_length(scene, asked.query_tokens, model, student_dir)
    with repeatable(), torch.inference_mode():
        tokens = fuse_views(model, query_views(asked, scene)).tokens
        answers = _answers(scene, model, tokens, voxel_size, cfg)
    settled = _Settled(scene, answers.features, cfg)
    labels = settled.of_points(level(asked.soft, asked.thresholds))
    return settled.predictions(asked.prompt_ids, answers.probs, together(answers.probs, labels))


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
        answers = _answers(scene, model, torch.from_numpy(tokens), voxel_size, cfg)
    settled = _Settled(scene, answers.features, cfg)
    return settled.predictions(prompt_ids, answers.probs)


def _check_length(scene: Scene, tokens: Array, model: Student, student_dir: Path) -> None:
    if tokens.shape[1] != model.token_map.in_features:
        raise UserError(
            f"{scene.scene_id}: tokens have length {tokens.shape[1]}, but the student in "
            f"{student_dir} takes {model.token_map.in_features}. Train it with this teacher."
        )


def _answers(
    scene: Scene, model: Student, tokens: Tensor, voxel_size: float, cfg: PredictConfig
) -> Answers:
    cloud = scene.cloud
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    parts = (points, cloud.colors, cloud.normals)
    asked = tokens.contiguous().to(model.scale.device)
    return answer_superpoints(model, parts, scene.superpoint_ids, asked, voxel_size, cfg.turns)


class _Settled:
    """From what is believed of one scene's superpoints to masks of its points."""

    def __init__(self, scene: Scene, features: Array, cfg: PredictConfig) -> None:
        self._scene_id, self._ids, self._cfg = scene.scene_id, scene.superpoint_ids, cfg
        self._sizes = np.bincount(self._ids, minlength=len(features))
        self._objects = np.arange(len(features))
        if cfg.object_share > 0:
            pairs = touching_superpoints(scene.cloud, self._ids, REACH).pairs
            self._objects = find_objects(features, pairs, cfg.object_cosine)

    def of_points(self, values: Array) -> Array:
        """(Q, S) float32 means over superpoints of values (Q, N) of points."""
        return mean_by_group(values.T, self._ids, len(self._sizes)).T

    def predictions(
        self, prompt_ids: tuple[str, ...], own: Array, both: Array | None = None
    ) -> Predictions:
        """Of the student's own probabilities (Q, S), and of those together with labels if any."""
        cfg, own = self._cfg, self._agreed(own)
        masks = together_masks = self._masks(own, cfg.presence, cfg.sharpness)
        scores = [own.max(1, initial=0)] * 2
        if both is not None:
            both = self._agreed(both)
            together_masks = self._masks(both, cfg.presence_together, 0)
            scores[1] = both.max(1, initial=0)
        return Predictions(
            self._scene_id,
            prompt_ids,
            own[:, self._ids],
            masks,
            together_masks,
            np.stack(scores, axis=1),
        )

    def _agreed(self, probs: Array) -> Array:
        """As stored, in steps of 1/255; what has no point is no answer."""
        mean = agree(probs, self._objects, self._sizes, self._cfg.object_share)
        return np.asarray(np.rint(mean * (self._sizes > 0) * 255) / np.float32(255), np.float32)

    def _masks(self, probs: Array, presence: float, sharpness: float) -> Array:
        rule, weights = self._cfg.threshold, self._sizes**self._cfg.size_power
        thresholds = choose_thresholds(probs, rule, presence, weights, sharpness)
        return np.asarray(probs >= thresholds[:, None])[:, self._ids]


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
