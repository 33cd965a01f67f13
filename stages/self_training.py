"""Self-training: labels are mended once with what the student has learnt from all of them.

A mended label is the geometric mean of label and student, drawn together inside what the student
holds for one object (``stages.objects``), as in the answer of both together. What no view saw is
labelled by the student alone where it is sure.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from data.training_scene import CompactScene
from models.student import Student
from stages.answering import answer_superpoints
from stages.objectives import fuse_views
from stages.objects import agree, find_objects
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
        cfg, sizes = self._cfg, np.bincount(scene.superpoint_ids)
        with torch.inference_mode():
            tokens = fuse_views(self._model, scene.views).tokens
            cloud = (scene.points, scene.colors, scene.normals)
            probs, features = answer_superpoints(
                self._model, cloud, scene.superpoint_ids, tokens, self._voxel_size, _TURNS
            )
        known = scene.confidence > 0
        labels = level(scene.soft, scene.thresholds)
        objects = find_objects(features, scene.pairs, cfg.object_cosine)
        mended = agree(
            np.where(known, together(probs, labels), probs), objects, sizes, cfg.object_share
        )
        sure = np.abs(2 * mended - 1)
        own = np.where(sure >= cfg.sure, sure, 0)
        return replace(
            scene,
            soft=mended,
            confidence=np.where(known, scene.confidence, own).astype(np.float32),
            # Superpoints weigh as in the losses.
            thresholds=choose_thresholds(mended, "expected_dice", cfg.presence, np.sqrt(sizes)),
        )
