"""Self-training: labels are mended once with what the student has learnt from all of them.

A mended label is the geometric mean of label and student, as in the answer of both together: it
is high only where both are. What no view saw is labelled by the student alone where it is sure.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from data.training_scene import CompactScene
from models.student import Student
from stages.answering import answer_superpoints
from stages.objectives import fuse_views
from stages.student_config import SelfTrainingConfig
from stages.thresholds import choose_thresholds, level, together

_TURNS = 2


class Mender:
    """Mends the labels of scenes with the answers of a student as it was at one moment."""

    def __init__(self, model: Student, voxel_size: float, cfg: SelfTrainingConfig) -> None:
        """Take a student in evaluation mode that nothing changes any more."""
        self._model, self._voxel_size, self._cfg = model, voxel_size, cfg

    def __call__(self, scene: CompactScene) -> CompactScene:
        """The scene with new labels and thresholds."""
        with torch.inference_mode():
            tokens = fuse_views(self._model, scene.views).tokens
            cloud = (scene.points, scene.colors, scene.normals)
            probs = answer_superpoints(
                self._model, cloud, scene.superpoint_ids, tokens, self._voxel_size, _TURNS
            ).probs
        known = scene.confidence > 0
        labels = level(scene.soft, scene.thresholds)
        sure = np.abs(2 * probs - 1)
        mended = np.where(known, together(probs, labels), probs).astype(np.float32)
        own = np.where(sure >= self._cfg.sure, sure, 0)
        points = np.ascontiguousarray(mended[:, scene.superpoint_ids])
        return replace(
            scene,
            soft=mended,
            confidence=np.where(known, scene.confidence, own).astype(np.float32),
            thresholds=choose_thresholds(points, "expected_dice", self._cfg.presence),
        )
