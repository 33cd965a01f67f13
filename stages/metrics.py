"""Scores of binary masks: the only definition of IoU, mIoU, gIoU, cIoU and Acc@k in this house.

Everything starts from two integers per query, counted on original points: the intersection I
and the union U of prediction and truth. Two published conventions stand side by side, because
they differ by points of mIoU on the same masks:

- *strict* (Reason3D): IoU = I / (U + 1e-6) in float32, so nothing predicted for an absent
  object scores 0; Acc@k counts IoU > k;
- *inclusive* (exact arithmetic): IoU = I / U, 1 where both are empty; Acc@k counts IoU >= k.

gIoU and cIoU are LISA's: gIoU is the mean of I / (U + 1e-5) in float32 with 1 where both are
empty (not the generalised IoU of boxes), cIoU is sum I / (sum U + 1e-10), which large objects
dominate. The denominator is always the number of queries asked: a failed or missing prediction
is an empty mask, never a smaller mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from data.types import Array

THRESHOLDS = {"acc25": Fraction(1, 4), "acc50": Fraction(1, 2)}
RULES = {
    "strict": "IoU = I / (U + 1e-6) in float32, empty against empty = 0, Acc@k: IoU > k (Reason3D)",
    "inclusive": "IoU = I / U, empty against empty = 1, Acc@k: IoU >= k",
}
_STRICT_EPSILON = np.float32(1e-6)
_LISA_EPSILON = np.float32(1e-5)
_LISA_TOTAL_EPSILON = 1e-10
_NO_POINTS = np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Counts:
    """Points per query: ``intersection`` and ``union``, both (Q,) int64."""

    intersection: Array
    union: Array

    def __post_init__(self) -> None:
        """Raise ValueError unless both are (Q,) and 0 <= intersection <= union."""
        if self.intersection.ndim != 1 or self.intersection.shape != self.union.shape:
            raise ValueError(
                "expected intersections and unions of one length, got "
                f"{self.intersection.shape} and {self.union.shape}"
            )
        if (self.intersection < 0).any() or (self.intersection > self.union).any():
            raise ValueError("an intersection is negative or larger than its union")

    @classmethod
    def of(cls, pairs: Iterable[tuple[int, int]]) -> Counts:
        """Take one (intersection, union) a query, in their order."""
        both = np.array(list(pairs), np.int64).reshape(-1, 2)
        return cls(both[:, 0], both[:, 1])

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.union)


class PointCount(NamedTuple):
    """Points of one mask: shared with its truth, in either, and in the mask itself."""

    intersection: int
    union: int
    predicted: int


def mask_from_logits(mask_logits: Array) -> Array:
    """Bool mask of logits of any shape: sigmoid in float32 >= 0.5; NaN is negative."""
    with np.errstate(over="ignore"):
        mask_probs = 1 / (1 + np.exp(-mask_logits.astype(np.float32)))
    return np.asarray(mask_probs >= np.float32(0.5))


def count_points(
    prediction: Array, truth_ids: Array, num_points: int, ignored_ids: Array = _NO_POINTS
) -> PointCount:
    """Count a predicted mask (N,) bool against the points of its truth.

    Nothing as long as the scan is made: the intersection is read at the truth's points, and the
    union is |P| + |T| - I.

    Args:
        prediction: the mask, ignored points and all.
        truth_ids: (n,) points of the truth, each once, none of them ignored.
        num_points: N, the points of the scan.
        ignored_ids: (m,) points that count nowhere, each once.

    Raises:
        ValueError: a mask of another length or type.
    """
    if prediction.shape != (num_points,):
        raise ValueError(f"expected a mask of shape {(num_points,)}, got {prediction.shape}")
    if prediction.dtype != bool:
        raise ValueError(f"expected a bool mask, got {prediction.dtype}")
    predicted = np.count_nonzero(prediction) - np.count_nonzero(prediction[ignored_ids])
    intersection = int(np.count_nonzero(prediction[truth_ids]))
    return PointCount(intersection, int(predicted) + len(truth_ids) - intersection, int(predicted))


def strict_iou(counts: Counts) -> Array:
    """(Q,) float32, the strict convention; empty against empty is 0."""
    union = counts.union.astype(np.float32) + _STRICT_EPSILON
    return np.asarray(counts.intersection.astype(np.float32) / union)


def inclusive_iou(counts: Counts) -> Array:
    """(Q,) float64, exact I / U; empty against empty is 1."""
    empty = counts.union == 0
    return np.where(empty, 1.0, counts.intersection / np.where(empty, 1, counts.union))


def lisa_iou(counts: Counts) -> Array:
    """(Q,) float32, LISA's foreground IoU per sample; empty against empty is 1."""
    union = counts.union.astype(np.float32) + _LISA_EPSILON
    iou = counts.intersection.astype(np.float32) / union
    return np.where(counts.union == 0, np.float32(1), iou)


def cumulative_iou(counts: Counts) -> float:
    """cIoU: sum of intersections over sum of unions; 0 when every union is empty."""
    return float(iou_of_sums(counts.intersection.sum(), counts.union.sum()))


def iou_of_sums(intersection: Array, union: Array) -> Array:
    """What cIoU takes of sums over queries, float64 of any shape."""
    return np.asarray(intersection.astype(np.float64) / (union + _LISA_TOTAL_EPSILON))


def auc(scores: Sequence[float] | Array, positive: Sequence[bool] | Array) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney).

    NaN where there is no positive or no negative.
    """
    from scipy.stats import rankdata

    wanted = np.asarray(positive, bool)
    count, other = int(wanted.sum()), int((~wanted).sum())
    if not count or not other:
        return float("nan")
    ranks = rankdata(np.asarray(scores, float))
    return float((ranks[wanted].sum() - count * (count + 1) / 2) / (count * other))


def boundary_cases(counts: Counts) -> dict[str, int]:
    """Queries the two conventions may judge apart: exactly at a threshold, or both empty."""
    intersection, union = counts.intersection.astype(np.int64), counts.union.astype(np.int64)
    cases = {"both_empty": int(np.count_nonzero(union == 0))}
    for name, threshold in THRESHOLDS.items():
        exact = intersection * threshold.denominator == union * threshold.numerator
        cases[f"at_{name}"] = int(np.count_nonzero(exact & (union > 0)))
    return cases


def headline(counts: Counts) -> dict[str, Any]:
    """``num_queries, miou, giou, ciou, acc25, acc50`` as fractions; None for no query.

    mIoU and Acc@k are the strict convention's.
    """
    strict = _convention("strict", counts)
    return {
        "num_queries": len(counts),
        "miou": strict["miou"],
        "giou": _mean(lisa_iou(counts)),
        "ciou": cumulative_iou(counts) if len(counts) else None,
        "acc25": strict["acc25"],
        "acc50": strict["acc50"],
    }


def conventions(counts: Counts) -> dict[str, dict[str, Any]]:
    """Both conventions' mIoU, Acc@0.25, Acc@0.50, boundary counts and rule in words."""
    return {name: _convention(name, counts) for name in RULES}


def per_query(counts: Counts, name: str = "strict") -> dict[str, Array]:
    """What a convention takes means of, each (Q,): IoU ("miou"), bool ("acc25", "acc50")."""
    iou = strict_iou(counts) if name == "strict" else inclusive_iou(counts)
    result = {"miou": iou}
    for accuracy, threshold in THRESHOLDS.items():
        k = float(threshold)
        result[accuracy] = iou > k if name == "strict" else iou >= k
    return result


def _convention(name: str, counts: Counts) -> dict[str, Any]:
    result: dict[str, Any] = {
        key: _mean(of_each) for key, of_each in per_query(counts, name).items()
    }
    result["boundary"] = boundary_cases(counts)
    result["rule"] = RULES[name]
    return result


def _mean(values: Array) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None
