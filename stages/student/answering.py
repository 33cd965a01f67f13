"""Predict the scores of superpoints by a trained student and smooth them within objects.

A student is often more certain of a seat than of the legs under it. The features of both are
nearly equal, so adjacent superpoints with similar features are grouped into objects, without
labels or a list of categories, and their scores are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional as F

from data.artifacts.soft_masks import Predictions, StudentTrust
from data.artifacts.student import CONFIG, read_model
from data.errors import ArtifactError, UserError
from data.geometry.meshes import floor_height
from data.geometry.superpoints import neighbours_of
from data.geometry.voxels import mean_by_group
from data.types import Array, Scene
from models.student import Pooling, Student
from stages.certainty import Features, answer_certainty, logit, mask_features, overlap
from stages.configs import PredictConfig
from stages.fusion.thresholds import NONE, choose_thresholds, geometric_mean
from stages.relations.by_words import Told
from stages.student.training_samples import find_parts, voxel_inputs


def find_objects(features: Array, pairs: Array, cosine: float) -> Array:
    """Group adjacent superpoints with similar features into objects; returns (S,) numbers from 0.

    Args:
        features: (S, D) mask features, of any length.
        pairs: (P, 2) adjacent superpoints, see ``data.geometry.superpoints``.
        cosine: pairs whose features have a larger cosine are linked; an object is a connected
            component of the links.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.where(lengths > 0, lengths, 1)
    first, second = pairs[np.einsum("pd,pd->p", unit[pairs[:, 0]], unit[pairs[:, 1]]) > cosine].T
    links = coo_matrix((np.ones(len(first)), (first, second)), shape=(len(unit), len(unit)))
    return np.asarray(connected_components(links, directed=False)[1])


def smooth_objects(probs: Array, objects: Array, sizes: Array, share: float) -> Array:
    """Smooth predictions within objects; returns (Q, S) float32.

    Args:
        probs: (Q, S) probabilities of superpoints.
        objects: (S,) object numbers, see ``find_objects``.
        sizes: (S,) numbers of points; superpoints are weighted by their square roots, as in
            training.
        share: weight of the object's mean; 1 gives all superpoints of an object the same value.
    """
    weights = np.sqrt(sizes)
    member = coo_matrix((weights, (np.arange(len(objects)), objects))).tocsr()
    total = np.asarray(member.sum(axis=0)).ravel()
    means = (probs @ member) / np.where(total > 0, total, 1)
    return np.asarray((1 - share) * probs + share * means[:, objects], np.float32)


_QUERIES_AT_ONCE = 256
_FIRST_TURN, _GOLDEN_ANGLE = 20.0, 137.5  # Degrees; no two turns align with the grid equally.


class Answers(NamedTuple):
    """Probabilities ``probs`` (Q, S) and mask features ``features`` (S, D), float32."""

    probs: Array
    features: Array


@torch.inference_mode()
def answer_superpoints(
    model: Student,
    cloud: tuple[Array, Array, Array],
    superpoint_ids: Array,
    tokens: Tensor,
    voxel_size: float,
    turns: int,
) -> Answers:
    """Predict probabilities and mask features, averaged over ``turns`` rotations of the cloud.

    The rotations are about the vertical axis and never by a multiple of 90 degrees: walls of
    procedural rooms would align with the voxel grid, which does not happen in training.

    Args:
        model: in evaluation mode, on the device of ``tokens``.
        cloud: points (N, 3) m with the floor at z = 0, colours (N, 3) 0..255, normals (N, 3).
        superpoint_ids: (N,), 0..S-1.
        tokens: (Q, T); a zero row gets probability 0 everywhere.
        voxel_size: metres, as in training.
        turns: number of rotations, at least 1.
    """
    features = features_by_turn(model, cloud, superpoint_ids, voxel_size, turns)
    return answer_features(model, features, tokens)


@torch.inference_mode()
def features_by_turn(
    model: Student,
    cloud: tuple[Array, Array, Array],
    superpoint_ids: Array,
    voxel_size: float,
    turns: int,
) -> tuple[Tensor, ...]:
    """Compute the mask features (S, D) of each rotation; see ``answer_superpoints``."""
    return tuple(
        _mask_features(model, _turned(cloud, turn), superpoint_ids, voxel_size)
        for turn in range(turns)
    )


@torch.inference_mode()
def answer_features(model: Student, by_turn: Sequence[Tensor], tokens: Tensor) -> Answers:
    """Answer queries ``tokens`` (Q, T) by the mask features of at least one rotation."""
    probs = np.zeros((len(tokens), len(by_turn[0])), np.float32)
    for features in by_turn:
        rows = torch.split(tokens, _QUERIES_AT_ONCE)
        logits = [model.mask_logits(features, part).sigmoid().cpu().numpy() for part in rows]
        probs += np.concatenate(logits) if logits else 0
    arrays = [features.float().cpu().numpy() for features in by_turn]
    return Answers(probs / np.float32(len(by_turn)), np.mean(arrays, axis=0))


def _turned(cloud: tuple[Array, Array, Array], turn: int) -> tuple[Array, Array, Array]:
    angle = np.radians(_FIRST_TURN + _GOLDEN_ANGLE * turn)
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]], np.float32)
    points, colors, normals = cloud
    return points @ rotation, colors, normals @ rotation


def _mask_features(
    model: Student, cloud: tuple[Array, Array, Array], superpoint_ids: Array, voxel_size: float
) -> Tensor:
    device = model.scale.device
    inputs = voxel_inputs(*cloud, voxel_size)
    parts = find_parts(inputs.point_to_voxel, superpoint_ids)
    voxel, superpoint, share = (torch.from_numpy(part).to(device) for part in parts)
    how = Pooling(voxel, superpoint, share, int(superpoint_ids.max()) + 1)
    indices = F.pad(torch.from_numpy(inputs.grid_coords), (1, 0)).contiguous().to(device)
    mask: Tensor = model(torch.from_numpy(inputs.features).to(device), indices, [how])[0].mask
    return mask


def load_student(student_dir: Path, device: str) -> tuple[Student, float]:
    """Load a trained student in evaluation mode; returns it and its voxel size in metres.

    Raises ArtifactError if the student is missing or damaged, UserError if the device or spconv
    is not available.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"--device {device}: torch finds no CUDA device. Use --device cpu, or a machine with "
            "a GPU and a driver."
        )
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
            f"{scene.scene_id}: query tokens have length {tokens.shape[1]}, but the student in "
            f"{student_dir} takes {model.token_map.in_features}. Train it with this teacher."
        )


def student_cloud(scene: Scene) -> tuple[Array, Array, Array]:
    """Return a student's inputs: points (N, 3) m with the floor at z = 0, colours and normals."""
    cloud = scene.cloud
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    return points, cloud.colors, cloud.normals


class LabelAnswers(NamedTuple):
    """The labels of fusion on superpoints, and what tells how sure they are.

    ``scaled`` (Q, S) float32 are scaled so that each query's threshold is one half; ``features``
    are those of ``stages.certainty.label_features``.
    """

    scaled: Array
    features: Features

    @property
    def answers(self) -> Array:
        """(Q, S) bool: the answers of the labels alone."""
        return np.asarray(self.scaled >= 0.5 - _ROUNDING)


_ROUNDING = 1e-6
"""The label at the threshold, averaged over its superpoint, may be a little less than one half."""


class SceneMasks:
    """Converts the probabilities of one scene's superpoints to masks of its points."""

    def __init__(self, scene: Scene, features: Array, cfg: PredictConfig) -> None:
        self._scene_id, self._ids, self._cfg = scene.scene_id, scene.superpoint_ids, cfg
        self._sizes = np.bincount(self._ids, minlength=len(features))
        self._objects = np.arange(len(features))
        if cfg.object_share > 0:
            pairs = neighbours_of(scene).pairs
            self._objects = find_objects(features, pairs, cfg.object_cosine)

    def superpoint_means(self, values: Array) -> Array:
        """Average values (Q, N) of points over superpoints, (Q, S) float32."""
        return mean_by_group(values.T, self._ids, len(self._sizes)).T

    def told_by_words(self, own: Array, known: Array) -> Told:
        """Make answers to words of the student's probabilities ``own`` (Q, S).

        ``known`` (Q,) is how well each query's words are known.
        """
        probs = self.smoothed(own)
        features = self.features(probs, known=known)["words"]
        certain = answer_certainty(features, self._cfg.certainty, "words")
        return Told(probs, self.thresholds(probs, certain[0]), certain)

    def predictions_by_words(self, prompt_ids: tuple[str, ...], told: Told) -> Predictions:
        """Make predictions of answers to words: the student's, and nothing else's."""
        masks = (told.probs >= told.thresholds[:, None])[:, self._ids]
        untold = np.full_like(told.certain, np.nan)
        sure = np.stack([told.certain, untold, told.certain], axis=2)
        points = told.probs[:, self._ids]
        return Predictions(self._scene_id, prompt_ids, points, masks, masks, *sure)

    def predictions(
        self, prompt_ids: tuple[str, ...], own: Array, labels: LabelAnswers | None = None
    ) -> Predictions:
        """Make predictions by the tokens of views from the student's probabilities ``own`` (Q, S).

        ``labels`` are those of fusion, None without.
        """
        raw, own = own, self.smoothed(own)
        features, cfg = self.features(own, labels), self._cfg.certainty
        sure = {whose: answer_certainty(of, cfg, whose) for whose, of in features.items()}
        of_student = own >= self.thresholds(own, None)[:, None]
        masks = together = of_student[:, self._ids]
        trust = None
        if labels is not None:
            trust = self._trust(of_student, labels.answers)
            together = self._together(raw, of_student, labels, trust.share)[:, self._ids]
        alone = sure["student"]
        untold = np.full_like(alone, np.nan)
        parts = alone, sure.get("labels", untold), sure.get("together", alone)
        presences, qualities = np.stack(parts, axis=2)
        return Predictions(
            self._scene_id,
            prompt_ids,
            own[:, self._ids],
            masks,
            together,
            presences,
            qualities,
            trust,
        )

    def _trust(self, of_student: Array, of_labels: Array) -> StudentTrust:
        """Trust the student as far as its masks (Q, S) bool agree with those of the labels.

        A student answers scans unlike those that it learnt from badly, and nothing else tells so.
        """
        cfg, answered = self._cfg, of_labels.any(axis=1)
        alike = overlap(of_student[answered], of_labels[answered], self._sizes)
        agreement = float(alike.mean()) if len(alike) else 0.0
        part = (agreement - cfg.least_agreement) / (cfg.full_agreement - cfg.least_agreement)
        return StudentTrust(agreement, cfg.student_share * min(max(part, 0.0), 1.0))

    def _together(self, raw: Array, of_student: Array, labels: LabelAnswers, share: float) -> Array:
        """Return the answers (Q, S) bool of labels and student, which counts by ``share``.

        They end within what either holds: large superpoints of which each is unsure could reach the
        threshold of both together.
        """
        if share == 0:
            return labels.answers
        combined = self._combined(raw, labels.scaled, share)
        chosen = self._thresholds(combined, 0, 0)
        return np.asarray((combined >= chosen[:, None]) & (of_student | labels.answers))

    def features(
        self,
        own: Array,
        labels: LabelAnswers | None = None,
        known: Array | None = None,
    ) -> dict[str, Features]:
        """Describe the answers by whose they are, a key of ``FEATURES``.

        ``own`` (Q, S) are ``smoothed`` probabilities; for others see ``predictions``. Answers are
        described as they are before any is refused.
        """
        chosen = self._thresholds(own, 0, self._cfg.sharpness)
        alone = mask_features(own, chosen, self._sizes)
        if known is not None:
            return {"words": {**alone, "known": logit(known)}}
        if labels is None:
            return {"student": alone}
        together = {
            **labels.features,
            "own_peak": alone["peak"],
            "own_inside": alone["inside"],
            "agreement": overlap(own >= chosen[:, None], labels.answers, self._sizes),
        }
        return {"student": alone, "labels": labels.features, "together": together}

    def _combined(self, own: Array, labels: Array, share: float) -> Array:
        """Combine, and smooth less where the student, whose features make objects, counts less."""
        return self.smoothed(geometric_mean(own, labels, share), min(1.0, 2 * share))

    def smoothed(self, probs: Array, part: float = 1.0) -> Array:
        """Smooth (Q, S) within objects, in steps of 1/255 as stored; 0 for empty superpoints.

        The weight of an object's mean is ``part`` times ``predict.object_share``.
        """
        share = part * self._cfg.object_share
        mean = smooth_objects(probs, self._objects, self._sizes, share)
        return np.asarray(np.rint(mean * (self._sizes > 0) * 255) / np.float32(255), np.float32)

    def thresholds(self, own: Array, presence: Array | None) -> Array:
        """Choose (Q,) thresholds for ``smoothed`` probabilities; above 1 for no object.

        ``presence`` (Q,) is that of queries by words: below ``predict.presence_by_words`` there is
        no object. It is None for queries by the tokens of views.
        """
        cfg = self._cfg
        if presence is None:
            return self._thresholds(own, cfg.presence, cfg.sharpness)
        chosen = self._thresholds(own, 0, cfg.sharpness)
        return np.where(presence < cfg.presence_by_words, np.float32(NONE), chosen)

    def _thresholds(self, probs: Array, presence: float, sharpness: float) -> Array:
        rule, weights = self._cfg.threshold, self._sizes**self._cfg.size_power
        return choose_thresholds(probs, rule, presence, weights, sharpness)
