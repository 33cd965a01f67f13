"""Stage ``ask_student``: answer sentences on a scan from their words, and draw the answers.

No image of the scan is read and no teacher is asked. The weights of student and text encoder and
the features of recent scans are kept in memory, so a further sentence on the same scan costs its
encoding and a dot product. The answers equal those of ``PredictMasks`` with
``predict.tokens=text``.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.artifacts.student import TextStudent
from data.queries.prompts import check_sentence
from data.queries.vocabulary import MOST_SUGGESTED, unmet_words
from data.types import Array, Scene
from stages.configs import PredictConfig, RelationsConfig, TeacherConfig, TextConfig
from stages.evaluation.metrics import centre_and_size
from stages.relations.by_words import Asking, Told, explained, resolve
from stages.relations.instances import RoomSpace
from stages.relations.parse import parse_all
from stages.relations.solve import Solution
from stages.report.exports import SceneAnswers
from stages.report.pictures import BOTH, Tile, overview, paint
from stages.report.query_cards import RenderedScan, picture_height
from stages.report.scan_renderer import render_from_below, render_upper_corners
from stages.student.answering import (
    SceneMasks,
    answer_features,
    check_length,
    features_by_turn,
    load_student,
    student_cloud,
)
from stages.student.distributed import repeatable
from stages.student.text_encoding import encode_queries, known_words

_KEPT_SCENES = 4


@dataclass(frozen=True, eq=False)
class SentenceAnswer:
    """One sentence and its answer on a scan of N points.

    ``probs`` (N,) float32 are in [0, 1], in steps of 1/255; the answer is the points with at least
    ``threshold``, which is above 1 if nothing fits. ``presence`` is the probability that the scan
    holds what is asked for, ``quality`` the expected IoU of the answer if it does. ``points``
    (N, 3) float32 are the scan's points in metres. ``unmet`` are the words that the text encoder
    has never met, and ``holds``, where nothing fits, names of what the scan seems to hold.
    ``reasons`` are lines that explain an answer to a sentence that relates things, else empty.
    """

    text: str
    probs: Array
    threshold: float
    points: Array
    presence: float
    quality: float
    unmet: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @cached_property
    def mask(self) -> Array:
        """(N,) bool, true for the points of the answer."""
        return np.asarray(self.probs >= self.threshold)

    @cached_property
    def num_points(self) -> int:
        """Number of points of the answer."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def box(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """Centre and size of the answer's box, metres in the scan's frame; None without answer."""
        return centre_and_size(self.points[self.mask])


@dataclass(frozen=True)
class AskConfigs:
    """The sections of an experiment that determine answers."""

    predict: PredictConfig
    text: TextConfig
    teacher: TeacherConfig
    relations: RelationsConfig = RelationsConfig()


class StudentEngine:
    """Answers sentences on scans; a lock makes it safe for several threads."""

    def __init__(
        self,
        student_dir: Path,
        text: TextStudent,
        read_scene: Callable[[str], Scene],
        configs: AskConfigs,
        device: str = "cpu",
        names: Sequence[str] = (),
    ) -> None:
        """Load the student.

        Args:
            student_dir: folder of a trained student.
            text: the text student that was distilled for it.
            read_scene: reads a prepared scan by its id; the last four scans are kept.
            configs: configs of training and prediction.
            device: "cpu" or "cuda[:i]".
            names: of things to suggest where nothing fits and the scan holds them.

        Raises:
            ArtifactError: the student is missing or damaged.
            UserError: the device or spconv is not available.
        """
        self._names, self._met = tuple(names), known_words(configs.text, configs.teacher)
        self._student_dir, self._text, self._read_scene = student_dir, text, read_scene
        self._configs, self._device = configs, device
        self._model, self._voxel_size = load_student(student_dir, device)
        self._kept: OrderedDict[str, _KeptScene] = OrderedDict()
        self._lock = threading.RLock()

    def ask(self, scene_id: str, texts: Sequence[str]) -> list[SentenceAnswer]:
        """Answer ``texts``, in their order.

        Raises:
            UserError: a sentence is empty, no text or too long for the encoder; the weights of
                the encoder are missing or differ from those of distillation; or the student
                takes tokens of another length.
            ArtifactError: the scan cannot be read.
        """
        for text in texts:
            check_sentence(text)
        with self._lock, repeatable(), torch.inference_mode():
            kept = self._keep(scene_id)
            asking = Asking.of(texts, parse_all(texts, self._configs.relations))
            told = self._answers(kept, asking.texts)
            solutions: tuple[Solution | None, ...] = (None,) * len(texts)
            if asking.relates:
                told, solutions = resolve(asking, told, kept.space)
            reasons = [
                () if tree is None or found is None else explained(tree, found, kept.space)
                for tree, found in zip(asking.trees, solutions, strict=True)
            ]
            probs, thresholds, certain = told.probs, told.thresholds, told.certain
            found = probs.max(1, initial=0) >= thresholds
            holds = () if found.all() else self._held(kept)
        points, ids = kept.scene.cloud.points, kept.scene.superpoint_ids
        return [
            SentenceAnswer(
                text,
                row[ids],
                float(threshold),
                points,
                presence,
                quality,
                () if self._met is None else unmet_words(text, self._met),
                () if fits else holds,
                why,
            )
            for text, row, threshold, presence, quality, fits, why in zip(
                texts, probs, thresholds, *certain.tolist(), found, reasons, strict=True
            )
        ]

    def _answers(self, kept: _KeptScene, texts: Sequence[str]) -> Told:
        """Answer texts, each by itself."""
        configs = self._configs
        encoded = encode_queries(self._text, texts, configs.text, configs.teacher, self._device)
        tokens, known = encoded
        check_length(kept.scene, tokens, self._model, self._student_dir)
        queries = torch.from_numpy(tokens).contiguous().to(self._device)
        probs = answer_features(self._model, kept.by_turn, queries).probs
        return kept.masks.told_by_words(probs, known)

    def _held(self, kept: _KeptScene) -> tuple[str, ...]:
        """Return the names that have an answer on a scan, surest first."""
        if kept.held is None:
            told = self._answers(kept, self._names)
            scores = told.probs.max(1, initial=0)
            order = np.argsort(-scores, kind="stable")
            rows = [row for row in order.tolist() if scores[row] >= told.thresholds[row]]
            kept.held = tuple(self._names[row] for row in rows[:MOST_SUGGESTED])
        return kept.held

    def prepare(self, scene_id: str) -> Scene:
        """Read a scan, compute its features and load the encoder ahead of the first question.

        Raises ArtifactError and UserError like ``ask``.
        """
        with self._lock, repeatable(), torch.inference_mode():
            kept, configs = self._keep(scene_id), self._configs
            encode_queries(self._text, ["it"], configs.text, configs.teacher, self._device)
            return kept.scene

    def _keep(self, scene_id: str) -> _KeptScene:
        kept = self._kept.pop(scene_id, None) or self._make(scene_id)
        self._kept[scene_id] = kept
        while len(self._kept) > _KEPT_SCENES:
            self._kept.popitem(last=False)
        return kept

    def _make(self, scene_id: str) -> _KeptScene:
        scene, cfg = self._read_scene(scene_id), self._configs.predict
        by_turn = features_by_turn(
            self._model, student_cloud(scene), scene.superpoint_ids, self._voxel_size, cfg.turns
        )
        no_tokens = torch.zeros(0, self._model.token_map.in_features, device=self._device)
        features = answer_features(self._model, by_turn, no_tokens).features
        return _KeptScene(scene, by_turn, SceneMasks(scene, features, cfg))


@dataclass(eq=False)
class _KeptScene:
    scene: Scene
    by_turn: tuple[Tensor, ...]
    masks: SceneMasks
    held: tuple[str, ...] | None = None

    @cached_property
    def space(self) -> RoomSpace:
        """The scan in its room's frame."""
        return RoomSpace(self.scene)


_WIDTH = 480
_LONGEST_NAME = 40
_NAMES, _LEGEND = ("answer", "scan"), ((BOTH, "answer"),)


def exported(scene_id: str, answers: Sequence[SentenceAnswer]) -> SceneAnswers:
    """Convert at least one answer for ``stages.report.exports``, with safe file names."""
    return SceneAnswers(
        scene_id,
        tuple(file_stem(asked.text) for asked in answers),
        tuple(asked.text for asked in answers),
        ("query",) * len(answers),
        np.stack([asked.mask for asked in answers]),
        np.array([asked.presence for asked in answers], np.float32),
    )


def render_scan(scene: Scene) -> RenderedScan | None:
    """Render the scan from its upper corners; None where it has no triangle to draw."""
    size = _WIDTH, picture_height(_WIDTH)
    viewpoints = render_upper_corners(scene, *size)
    return (
        RenderedScan(viewpoints, partial(render_from_below, scene, *size)) if viewpoints else None
    )


def picture_of(rendered: RenderedScan, asked: SentenceAnswer) -> bytes:
    """PNG of the answer from the viewpoint that shows most of it, beside the scan without it."""
    viewpoint, note = rendered.choose_viewpoint([asked.mask])
    told = f"{in_percent(asked)}   {asked.num_points} points" if asked.num_points else ""
    facts = "   ".join(part for part in (told or "nothing fits", note) if part)
    picture = paint(viewpoint, asked.mask, asked.mask, BOTH)
    tile = Tile(in_one_line(asked.text), facts, picture, viewpoint.picture)
    return overview([tile], _NAMES, _LEGEND)


def in_percent(asked: SentenceAnswer) -> str:
    """Return how sure an answer is, in words for people."""
    return f"presence {100 * asked.presence:.0f} %, expected IoU {100 * asked.quality:.0f} %"


def in_one_line(text: str) -> str:
    """Replace line breaks and control characters of a sentence by spaces."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def file_stem(text: str) -> str:
    """Return the file name of a sentence without suffix: its ASCII words and a hash.

    It holds lower-case letters, digits and hyphens only, so it is valid on every file system.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:_LONGEST_NAME].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest
