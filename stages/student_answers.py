"""What prediction and free questions share: a finished student, and from beliefs to masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data.artifacts.predictions import Predictions
from data.artifacts.student import CONFIG, read_model
from data.errors import ArtifactError, UserError
from data.neighbours import neighbours_of
from data.training_scene import floor_height
from data.types import Array, Scene
from data.voxels import mean_by_group
from models.student import Student
from stages.configs import PredictConfig
from stages.objects import agree, find_objects
from stages.thresholds import choose_thresholds


def load_student(student_dir: Path, device: str) -> tuple[Student, float]:
    """A finished student in evaluation mode, and the edge of its voxels in metres.

    Raises ArtifactError where it is missing or damaged, and UserError for a device or an spconv
    that is not there.
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


def check_length(scene: Scene, tokens: Array, model: Student, student_dir: Path) -> None:
    """Raise UserError unless the student takes tokens (Q, T) of this length."""
    if tokens.shape[1] != model.token_map.in_features:
        raise UserError(
            f"{scene.scene_id}: tokens have length {tokens.shape[1]}, but the student in "
            f"{student_dir} takes {model.token_map.in_features}. Train it with this teacher."
        )


def student_cloud(scene: Scene) -> tuple[Array, Array, Array]:
    """Points in metres with the floor at z = 0, colours and normals, as a student takes them."""
    cloud = scene.cloud
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    return points, cloud.colors, cloud.normals


class Settled:
    """From what is believed of one scene's superpoints to masks of its points."""

    def __init__(self, scene: Scene, features: Array, cfg: PredictConfig) -> None:
        self._scene_id, self._ids, self._cfg = scene.scene_id, scene.superpoint_ids, cfg
        self._sizes = np.bincount(self._ids, minlength=len(features))
        self._objects = np.arange(len(features))
        if cfg.object_share > 0:
            pairs = neighbours_of(scene).pairs
            self._objects = find_objects(features, pairs, cfg.object_cosine)

    def of_points(self, values: Array) -> Array:
        """(Q, S) float32 means over superpoints of values (Q, N) of points."""
        return mean_by_group(values.T, self._ids, len(self._sizes)).T

    def predictions(
        self, prompt_ids: tuple[str, ...], own: Array, both: Array | None = None
    ) -> Predictions:
        """Of the student's own probabilities (Q, S), and of those together with labels if any."""
        own = self.agreed(own)
        masks = together_masks = self._masks(own, self.thresholds(own))
        scores = [own.max(1, initial=0)] * 2
        if both is not None:
            both = self.agreed(both)
            chosen = self._thresholds(both, self._cfg.presence_together, 0)
            together_masks = self._masks(both, chosen)
            scores[1] = both.max(1, initial=0)
        return Predictions(
            self._scene_id,
            prompt_ids,
            own[:, self._ids],
            masks,
            together_masks,
            np.stack(scores, axis=1),
        )

    def agreed(self, probs: Array) -> Array:
        """(Q, S) as stored, in steps of 1/255; what has no point is no answer."""
        mean = agree(probs, self._objects, self._sizes, self._cfg.object_share)
        return np.asarray(np.rint(mean * (self._sizes > 0) * 255) / np.float32(255), np.float32)

    def thresholds(self, own: Array) -> Array:
        """(Q,) where the student's own answers begin, of what is ``agreed``; above 1 for none."""
        return self._thresholds(own, self._cfg.presence, self._cfg.sharpness)

    def _thresholds(self, probs: Array, presence: float, sharpness: float) -> Array:
        rule, weights = self._cfg.threshold, self._sizes**self._cfg.size_power
        return choose_thresholds(probs, rule, presence, weights, sharpness)

    def _masks(self, probs: Array, thresholds: Array) -> Array:
        return np.asarray(probs >= thresholds[:, None])[:, self._ids]
