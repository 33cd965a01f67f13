"""Read and write soft masks on points: fused pseudo-labels and the student's predictions.

``pseudo.zarr`` stores soft labels and confidences as uint8, n / 255; a confidence above 0 never
rounds to 0, because 0 means "unlabelled". ``predictions.zarr`` stores probabilities as uint8,
n / 255, and masks as packed bits, eight points a byte, the first point in the highest bit. Both
have one file per array and one chunk per query.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import zarr

from data.artifacts.evaluation import SOURCES
from data.artifacts.store import require_complete
from data.artifacts.zarr_groups import write_rows
from data.errors import ArtifactError
from data.types import Array

PSEUDO_FILE = "pseudo.zarr"
_LAST = ("query_tokens", "thresholds", "view_tokens", "view_beliefs", "evidence")
_PSEUDO_REMEDY = "Run FuseMasks again."


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Fused labels of one scene: Q queries, N points, V views, D embedding dimensions.

    ``soft`` (Q, N) float32 in [0, 1]; ``confidence`` (Q, N) float32 in [0, 1], 0 = unlabelled
    (no view with a weight sees the point); ``view_weights`` (Q, V) float32, rows sum to 1 or are
    all 0; ``drop_reasons`` (Q, V) text, "" = kept; ``query_tokens`` (Q, D) float32 unit vectors,
    zero rows where no view has a weight; ``thresholds`` (Q,) float32, the smallest soft label
    that counts as part of the answer, above 1 for a query without an object in the scene.

    ``view_tokens`` (Q, V, D) float32 are each view's [SEG] embedding and ``view_confidences``
    (Q, V) float32 the teacher's confidence in its mask (stored under the name ``view_beliefs``);
    both are 0 where the view has no mask.

    ``evidence`` (Q, 3) float32 are, before any answer is refused, its threshold, the number of
    views that see it, and of those the number whose masks support it (``stages.fusion.evidence``).
    """

    scene_id: str
    prompt_ids: tuple[str, ...]
    view_ids: tuple[str, ...]
    soft: Array
    confidence: Array
    view_weights: Array
    drop_reasons: tuple[tuple[str, ...], ...]
    query_tokens: Array
    thresholds: Array
    view_tokens: Array
    view_confidences: Array
    evidence: Array

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        num_queries, num_views = len(self.prompt_ids), len(self.view_ids)
        ranks = {"soft": 2, "confidence": 2, "view_weights": 2, "query_tokens": 2}
        ranks |= {"thresholds": 1, "view_tokens": 3, "view_confidences": 2, "evidence": 2}
        for name, rank in ranks.items():
            array = getattr(self, name)
            if array.ndim != rank or len(array) != num_queries or array.dtype != np.float32:
                raise ValueError(
                    f"{name} must be float32 with {num_queries} rows, "
                    f"got {array.dtype} {array.shape}"
                )
        if self.soft.shape != self.confidence.shape:
            raise ValueError(f"soft is {self.soft.shape}, confidence {self.confidence.shape}")
        if self.view_weights.shape[1] != num_views:
            raise ValueError(f"{num_views} views, but weights for {self.view_weights.shape[1]}")
        if self.view_confidences.shape != self.view_weights.shape:
            raise ValueError(
                f"{num_views} views, but view_confidences of {self.view_confidences.shape[1]}"
            )
        if self.view_tokens.shape[1:] != (num_views, self.query_tokens.shape[1]):
            raise ValueError(f"{num_views} views, but tokens of shape {self.view_tokens.shape}")
        if self.evidence.shape[1] != 3:
            raise ValueError(f"evidence has three columns, not {self.evidence.shape[1]}")
        if [len(row) for row in self.drop_reasons] != [num_views] * num_queries:
            raise ValueError("drop_reasons must hold one text per query and view")

    def without(self, prompt_ids: Collection[str]) -> PseudoLabels:
        """Leave out the rows of ``prompt_ids``."""
        rows = [row for row, name in enumerate(self.prompt_ids) if name not in prompt_ids]
        names = ("soft", "confidence", "view_weights", *_LAST[:3], "view_confidences", "evidence")
        return replace(
            self,
            prompt_ids=tuple(self.prompt_ids[row] for row in rows),
            drop_reasons=tuple(self.drop_reasons[row] for row in rows),
            **{name: getattr(self, name)[rows] for name in names},
        )

    def answers(self) -> Array:
        """(Q, N) bool: the masks that the soft labels give by their thresholds."""
        return np.asarray(self.soft >= self.thresholds[:, None])


def _quantise(values: Array) -> Array:
    return np.asarray(np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8))


def write_pseudo(folder: Path, labels: PseudoLabels) -> None:
    """Write ``pseudo.zarr`` into ``folder``, replacing one that is there."""
    group = zarr.create_group(folder / PSEUDO_FILE, overwrite=True, zarr_format=3)
    group.attrs.update(
        scene_id=labels.scene_id,
        prompt_ids=list(labels.prompt_ids),
        view_ids=list(labels.view_ids),
        drop_reasons=json.dumps(labels.drop_reasons),
    )
    confidence = np.maximum(_quantise(labels.confidence), labels.confidence > 0)
    arrays = {
        "soft": _quantise(labels.soft),
        "confidence": confidence.astype(np.uint8),
        "view_weights": labels.view_weights,
        "query_tokens": labels.query_tokens,
        "thresholds": labels.thresholds,
        "view_tokens": labels.view_tokens.astype(np.float16),
        "view_beliefs": labels.view_confidences,
        "evidence": labels.evidence,
    }
    for name, array in arrays.items():
        write_rows(group, name, array)


def read_pseudo(folder: Path) -> PseudoLabels:
    """Read the labels of one scene; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _PSEUDO_REMEDY)
    path = folder / PSEUDO_FILE
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attrs = dict(group.attrs)
        reasons = json.loads(str(attrs["drop_reasons"]))
        return PseudoLabels(
            str(attrs["scene_id"]),
            tuple(attrs["prompt_ids"]),
            tuple(attrs["view_ids"]),
            np.asarray(group["soft"][...], np.float32) / np.float32(255),
            np.asarray(group["confidence"][...], np.float32) / np.float32(255),
            np.asarray(group["view_weights"][...], np.float32),
            tuple(tuple(row) for row in reasons),
            *(np.asarray(group[name][...], np.float32) for name in _LAST),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            path, "pseudo-labels of this schema", str(error), _PSEUDO_REMEDY
        ) from error


PREDICTIONS_FILE = "predictions.zarr"
_PREDICTIONS_REMEDY = "Run PredictMasks again."


@dataclass(frozen=True)
class StudentTrust:
    """How far a student is trusted in a scan, from its agreement with the lifted labels.

    ``agreement`` in [0, 1] is the mean IoU of both masks over the queries that the labels answer;
    ``share`` in [0, 1] is the student's exponent in the joint answer, 0 where the labels are it.
    """

    agreement: float
    share: float


@dataclass(frozen=True, eq=False)
class Predictions:
    """The answers to Q queries on one scene of N points.

    ``probs`` (Q, N) float32 and ``masks`` (Q, N) bool are the student's. ``together`` (Q, N) bool
    are masks of student and pseudo-labels combined, or the student's alone where a query has no
    pseudo-labels. ``presences`` and ``qualities`` (Q, 3) float32 are, for each of ``SOURCES``, the
    probability that the object exists and the expected IoU of the mask if it does
    (``stages.certainty``); those of the labels are NaN where there are none. ``trust`` is None
    unless both a student and labels answered.
    """

    scene_id: str
    prompt_ids: tuple[str, ...]
    probs: Array
    masks: Array
    together: Array
    presences: Array
    qualities: Array
    trust: StudentTrust | None = None

    def __post_init__(self) -> None:
        """Raise ValueError when the parts do not fit each other."""
        kinds = {"probs": np.float32, "masks": np.bool_, "together": np.bool_}
        kinds |= {"presences": np.float32, "qualities": np.float32}
        for name, dtype in kinds.items():
            array = getattr(self, name)
            if array.ndim != 2 or len(array) != len(self.prompt_ids) or array.dtype != dtype:
                raise ValueError(
                    f"{name} must be {np.dtype(dtype)} with {len(self.prompt_ids)} rows, "
                    f"got {array.dtype} {array.shape}"
                )
        shapes = self.probs.shape, self.masks.shape, self.together.shape
        if len(set(shapes)) > 1:
            raise ValueError(f"probs, masks, together are {shapes}")
        for name in ("presences", "qualities"):
            if getattr(self, name).shape[1] != len(SOURCES):
                raise ValueError(f"{name} are of {len(SOURCES)} sources, not {getattr(self, name)}")

    def only(self, prompt_ids: Sequence[str]) -> Predictions:
        """Select the rows of ``prompt_ids``, in their order; ValueError for an unknown id."""
        rows = [self.prompt_ids.index(prompt_id) for prompt_id in prompt_ids]
        names = ("probs", "masks", "together", "presences", "qualities")
        chosen = {name: getattr(self, name)[rows] for name in names}
        return replace(self, prompt_ids=tuple(prompt_ids), **chosen)

    def presence(self, source: str) -> Array:
        """(Q,) float32: the probability, of one source, that each query's object exists."""
        return np.asarray(self.presences[:, SOURCES.index(source)])

    def quality(self, source: str) -> Array:
        """(Q,) float32: the expected IoU of one source's masks where their objects exist."""
        return np.asarray(self.qualities[:, SOURCES.index(source)])


def write_predictions(folder: Path, predictions: Predictions) -> None:
    """Write ``predictions.zarr`` into ``folder``, replacing one that is there."""
    group = zarr.create_group(folder / PREDICTIONS_FILE, overwrite=True, zarr_format=3)
    group.attrs.update(
        scene_id=predictions.scene_id,
        prompt_ids=list(predictions.prompt_ids),
        num_points=predictions.probs.shape[1],
        trust=None if predictions.trust is None else asdict(predictions.trust),
    )
    arrays = {
        "probs": np.rint(np.clip(predictions.probs, 0, 1) * 255).astype(np.uint8),
        "masks": np.packbits(predictions.masks, axis=1),
        "together": np.packbits(predictions.together, axis=1),
        "presences": predictions.presences,
        "qualities": predictions.qualities,
    }
    for name, array in arrays.items():
        write_rows(group, name, array)


def read_predictions(folder: Path) -> Predictions:
    """Read the predictions of one scene; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _PREDICTIONS_REMEDY)
    path = folder / PREDICTIONS_FILE
    try:
        group = zarr.open_group(path, mode="r", zarr_format=3)
        attrs = dict(group.attrs)
        num_points, trust = int(str(attrs["num_points"])), attrs["trust"]
        masks, together = (
            np.unpackbits(np.asarray(group[name][...], np.uint8), axis=1, count=num_points)
            for name in ("masks", "together")
        )
        return Predictions(
            str(attrs["scene_id"]),
            tuple(attrs["prompt_ids"]),
            np.asarray(group["probs"][...], np.float32) / np.float32(255),
            masks.astype(bool),
            together.astype(bool),
            np.asarray(group["presences"][...], np.float32),
            np.asarray(group["qualities"][...], np.float32),
            None if trust is None else StudentTrust(**trust),
        )
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            path, "predictions of this schema", str(error), _PREDICTIONS_REMEDY
        ) from error
