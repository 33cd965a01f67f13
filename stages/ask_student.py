"""Stage: a student answers any sentence on a scan, from its words alone.

Nothing of the scan's images is read and no teacher is asked. What takes long is done once and
kept: the weights of student and text encoder, and each scan's features; a further sentence on the
same scan costs its encoding and a dot product. The answers are those of ``PredictMasks`` with
``predict.tokens=text``.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.artifacts.text import TextStudent
from data.types import Array, Scene
from stages.answering import answer_features, features_by_turn
from stages.boxes import centre_and_size
from stages.configs import PredictConfig, TeacherConfig, TextConfig
from stages.repeatable import repeatable
from stages.sentences import check_sentence
from stages.student_answers import Settled, check_length, load_student, student_cloud
from stages.text_encoding import encode_queries

_KEPT_SCENES = 4


@dataclass(frozen=True, eq=False)
class Asked:
    """One sentence and its answer on a scan of N points.

    ``probs`` (N,) float32 in [0, 1], in steps of 1/255; points from ``threshold`` on are the
    answer, and a threshold above 1 says that nothing was found. ``points`` (N, 3) float32 metres
    are the scan's.
    """

    text: str
    probs: Array
    threshold: float
    points: Array

    @cached_property
    def mask(self) -> Array:
        """(N,) bool, the points that answer."""
        return np.asarray(self.probs >= self.threshold)

    @cached_property
    def score(self) -> float:
        """How sure the student is that what was asked for is there, 0 to 1."""
        return float(self.probs.max(initial=0))

    @cached_property
    def num_points(self) -> int:
        """How many points answer."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Centre and size of the answer, metres in the scan's frame; None where none is found."""
        return centre_and_size(self.points[self.mask])


@dataclass(frozen=True)
class AskConfigs:
    """The sections of an experiment that decide what a sentence is answered."""

    predict: PredictConfig
    text: TextConfig
    teacher: TeacherConfig


class StudentEngine:
    """Answers sentences on scans; safe to be used by several threads, which wait for each other."""

    def __init__(
        self,
        student_dir: Path,
        text: TextStudent,
        read_scene: Callable[[str], Scene],
        configs: AskConfigs,
        device: str = "cpu",
    ) -> None:
        """Load the student.

        Args:
            student_dir: a finished student.
            text: the text student that was distilled for it.
            read_scene: a prepared scan by its id; called once for each scan as long as it is kept.
            configs: as the student was trained and as it is asked.
            device: "cpu" or "cuda[:i]".

        Raises:
            ArtifactError: the student is missing or damaged.
            UserError: no such device, or the wrong spconv.
        """
        self._student_dir, self._text, self._read_scene = student_dir, text, read_scene
        self._configs, self._device = configs, device
        self._model, self._voxel_size = load_student(student_dir, device)
        self._kept: OrderedDict[str, _KeptScene] = OrderedDict()
        self._lock = threading.RLock()

    def ask(self, scene_id: str, texts: Sequence[str]) -> list[Asked]:
        """The answers to ``texts``, in their order.

        Raises:
            UserError: a sentence is empty, no text or longer than the encoder can read; weights
                of the encoder are missing or others; or the student takes tokens of another
                length.
            ArtifactError: the scan cannot be read.
        """
        for text in texts:
            check_sentence(text)
        with self._lock, repeatable(), torch.inference_mode():
            kept, configs = self._keep(scene_id), self._configs
            tokens = encode_queries(self._text, texts, configs.text, configs.teacher, self._device)
            check_length(kept.scene, tokens, self._model, self._student_dir)
            asked = torch.from_numpy(tokens).contiguous().to(self._device)
            believed = answer_features(self._model, kept.by_turn, asked).probs
            probs = kept.settled.agreed(believed)
            thresholds = kept.settled.thresholds(probs).tolist()
        points, ids = kept.scene.cloud.points, kept.scene.superpoint_ids
        rows = zip(texts, probs[:, ids], thresholds, strict=True)
        return [Asked(text, row, threshold, points) for text, row, threshold in rows]

    def prepare(self, scene_id: str) -> Scene:
        """Read a scan and have features and encoder ready, so that the next question is fast.

        Raises ArtifactError and UserError as ``ask``.
        """
        with self._lock, repeatable(), torch.inference_mode():
            kept, configs = self._keep(scene_id), self._configs
            encode_queries(self._text, ["it"], configs.text, configs.teacher, self._device)
            return kept.scene

    def _keep(self, scene_id: str) -> _KeptScene:
        found = self._kept.pop(scene_id, None) or self._make(scene_id)
        self._kept[scene_id] = found
        while len(self._kept) > _KEPT_SCENES:
            self._kept.popitem(last=False)
        return found

    def _make(self, scene_id: str) -> _KeptScene:
        scene, cfg = self._read_scene(scene_id), self._configs.predict
        by_turn = features_by_turn(
            self._model, student_cloud(scene), scene.superpoint_ids, self._voxel_size, cfg.turns
        )
        none = torch.zeros(0, self._model.token_map.in_features, device=self._device)
        features = answer_features(self._model, by_turn, none).features
        return _KeptScene(scene, by_turn, Settled(scene, features, cfg))


@dataclass(frozen=True, eq=False)
class _KeptScene:
    scene: Scene
    by_turn: tuple[Tensor, ...]
    settled: Settled
