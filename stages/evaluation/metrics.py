"""Definitions of IoU, mIoU, gIoU, cIoU, Acc@k and box scores, and their bootstrap intervals.

No other module defines these metrics. All of them start from two integers per query, counted on
original points: the intersection I and the union U of prediction and truth. Two published
conventions are computed, because they differ by points of mIoU on the same masks:

- *strict* (Reason3D): IoU = I / (U + 1e-6) in float32, so nothing predicted for an absent
  object scores 0; Acc@k counts IoU > k;
- *inclusive* (exact arithmetic): IoU = I / U, 1 where both are empty; Acc@k counts IoU >= k.

gIoU and cIoU are LISA's: gIoU is the mean of I / (U + 1e-5) in float32 with 1 where both are empty
(not the generalised IoU of boxes), cIoU is sum I / (sum U + 1e-10), which large objects dominate.
The denominator is always the number of queries asked: a failed or missing prediction is an empty
mask and does not shorten the mean.

A box is (2, 3) float64, its lowest and its highest corner in metres. The IoU of two boxes is the
volume of their intersection over that of their union, without an epsilon; a box without volume has
IoU 0 with every box.

The parts of a mask are its connected components. Space is cut into cells of ``CELL``; points are
connected where their cells touch, even at a corner, or where an edge of the mesh joins them. So
points at most 3 cm apart are always in one part, and points 6 cm apart or more that no edge joins
never are. Parts with less than a tenth of the points of the largest part are dropped. Parts do not
depend on the truth, and a mask with a point has at least one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from data.artifacts.evaluation import QueryRow
from data.geometry.voxels import Voxels, voxelise
from data.types import Array

RESAMPLES = 2000
SEED = 0
_PERCENTILES = (2.5, 97.5)


def draws(count: int) -> Array:
    """Draw queries with replacement, (RESAMPLES, count) int64; every call gives the same draws."""
    return np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))


def interval(samples: Array) -> tuple[float, float]:
    """Return the 95 % percentile interval of a metric's (RESAMPLES,) values over the draws."""
    low, high = np.percentile(samples, _PERCENTILES).tolist()
    return low, high


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
        """Make counts from pairs of intersection and union, a pair for each query."""
        counts = np.array(list(pairs), np.int64).reshape(-1, 2)
        return cls(counts[:, 0], counts[:, 1])

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.union)


class PointCount(NamedTuple):
    """Points of one mask: its intersection and union with the truth, and its own points."""

    intersection: int
    union: int
    predicted: int


def counts_of(rows: Sequence[QueryRow], source: str, snapped: bool = False) -> Counts:
    """Intersection and union of the masks of one source, one pair for each of ``rows``.

    With ``snapped`` the truth is snapped to superpoints, in the rows that have such scores.
    """
    scores = ((row.snapped if snapped else {}).get(source, row.scores[source]) for row in rows)
    return Counts.of((score.intersection, score.union) for score in scores)


def count_points(
    prediction: Array, truth_ids: Array, num_points: int, ignored_ids: Array = _NO_POINTS
) -> PointCount:
    """Count a predicted mask (N,) bool against the points of its truth.

    No array of N points is allocated: the intersection is read at the truth's points, and the
    union is |P| + |T| - I.

    Args:
        prediction: the mask, with its ignored points.
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
    """Return IoU (Q,) float32 by the strict convention; empty against empty is 0."""
    union = counts.union.astype(np.float32) + _STRICT_EPSILON
    return np.asarray(counts.intersection.astype(np.float32) / union)


def inclusive_iou(counts: Counts) -> Array:
    """Return the exact I / U, (Q,) float64; empty against empty is 1."""
    empty = counts.union == 0
    return np.where(empty, 1.0, counts.intersection / np.where(empty, 1, counts.union))


def lisa_iou(counts: Counts) -> Array:
    """Return LISA's foreground IoU per sample, (Q,) float32; empty against empty is 1."""
    union = counts.union.astype(np.float32) + _LISA_EPSILON
    iou = counts.intersection.astype(np.float32) / union
    return np.where(counts.union == 0, np.float32(1), iou)


def cumulative_iou(counts: Counts) -> float:
    """Return cIoU: sum of intersections over sum of unions; 0 when every union is empty."""
    return float(iou_of_sums(counts.intersection.sum(), counts.union.sum()))


def iou_of_sums(intersection: Array, union: Array) -> Array:
    """Divide sums of intersections by sums of unions as cIoU does, float64 of any shape."""
    return np.asarray(intersection.astype(np.float64) / (union + _LISA_TOTAL_EPSILON))


def auc(scores: Sequence[float] | Array, positive: Sequence[bool] | Array) -> float:
    """Chance that a positive scores above a negative, ties counting half (Mann-Whitney).

    NaN where there is no positive or no negative, or where a score is NaN.
    """
    positives, values = np.asarray(positive, bool), np.asarray(scores, float)
    count, negatives = int(positives.sum()), int((~positives).sum())
    if not count or not negatives or np.isnan(values).any():
        return float("nan")
    ranks = mean_ranks(values)
    return float((ranks[positives].sum() - count * (count + 1) / 2) / (count * negatives))


def mean_ranks(values: Array) -> Array:
    """Rank values (n,) from 1; equal values get the mean of their ranks."""
    # scipy.stats.rankdata gives the same, after an import that takes a second.
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(sizes) - (sizes - 1) / 2)[group])


def boundary_cases(counts: Counts) -> dict[str, int]:
    """Queries the two conventions may judge apart: exactly at a threshold, or both empty."""
    intersection, union = counts.intersection.astype(np.int64), counts.union.astype(np.int64)
    cases = {"both_empty": int(np.count_nonzero(union == 0))}
    for name, threshold in THRESHOLDS.items():
        exact = intersection * threshold.denominator == union * threshold.numerator
        cases[f"at_{name}"] = int(np.count_nonzero(exact & (union > 0)))
    return cases


def headline(counts: Counts) -> dict[str, Any]:
    """Return ``num_queries, miou, giou, ciou, acc25, acc50``, fractions; None for no query.

    mIoU and Acc@k are the strict convention's.
    """
    strict = _convention("strict", counts)
    return {
        "num_queries": len(counts),
        "miou": strict["miou"],
        "giou": mean(lisa_iou(counts)),
        "ciou": cumulative_iou(counts) if len(counts) else None,
        "acc25": strict["acc25"],
        "acc50": strict["acc50"],
    }


def conventions(counts: Counts) -> dict[str, dict[str, Any]]:
    """Return both conventions' mIoU, Acc@0.25, Acc@0.50, boundary counts and rule in words."""
    return {name: _convention(name, counts) for name in RULES}


def per_query(counts: Counts, name: str = "strict") -> dict[str, Array]:
    """Return the values that a convention averages, (Q,) each: "miou", "acc25", "acc50"."""
    iou = strict_iou(counts) if name == "strict" else inclusive_iou(counts)
    result = {"miou": iou}
    for accuracy, threshold in THRESHOLDS.items():
        k = float(threshold)
        result[accuracy] = iou > k if name == "strict" else iou >= k
    return result


def _convention(name: str, counts: Counts) -> dict[str, Any]:
    result: dict[str, Any] = {
        key: mean(of_each) for key, of_each in per_query(counts, name).items()
    }
    result["boundary"] = boundary_cases(counts)
    result["rule"] = RULES[name]
    return result


def mean(values: Array) -> float | None:
    """Mean of (n,) values in float64; None for no value."""
    return float(np.mean(values, dtype=np.float64)) if len(values) else None


CELL = 0.03
"""Edge length of the cells that connect points to parts, metres."""
SMALL_PART = 10
"""Parts with fewer than 1 / ``SMALL_PART`` of the largest part's points are dropped."""


@dataclass(frozen=True, eq=False)
class BoxScan:
    """The geometry of a scan from which boxes of masks are computed.

    ``points`` (N, 3) floating, metres, in the frame whose axes boxes follow; ``triangles`` (F, 3)
    integers index the points. ``is_aligned`` is True where the data set's own axis alignment was
    applied to the points.
    """

    points: Array
    triangles: Array
    is_aligned: bool = False

    @classmethod
    def make(cls, points: Array, triangles: Array, alignment: Array | None = None) -> BoxScan:
        """Move a scan by ``alignment`` (4, 4), which maps its frame to that of the boxes."""
        if alignment is None:
            return cls(points, triangles)
        moved = points.astype(np.float64) @ alignment[:3, :3].T + alignment[:3, 3]
        return cls(moved, triangles, is_aligned=True)

    @cached_property
    def cells(self) -> Voxels:
        """The occupied cells, and the cell of each point."""
        return voxelise(self.points, CELL)

    @cached_property
    def touching(self) -> Array:
        """(P, 2) pairs of occupied cells that touch, each once."""
        tree = cKDTree(self.cells.grid_coords)
        return np.asarray(tree.query_pairs(1, p=np.inf, output_type="ndarray")).reshape(-1, 2)

    @cached_property
    def edges(self) -> Array:
        """(3F, 2) ids of the points at the ends of the triangles' edges."""
        corners = self.triangles
        return np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])


def box_of(points: Array) -> Array:
    """Return the lowest and highest corner of points (n, 3), (2, 3); an empty box for none."""
    if not len(points):
        return np.stack([np.full(3, np.inf), np.full(3, -np.inf)])
    return np.stack([points.min(axis=0), points.max(axis=0)]).astype(np.float64)


def centre_and_size(
    points: Array,
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Return centre and size of the box of points (n, 3), metres to the millimetre, or None."""
    if len(points) == 0:
        return None, None
    low, high = box_of(points)
    centre, size = np.round((low + high) / 2, 3), np.round(high - low, 3)
    return tuple(centre.tolist()), tuple(size.tolist())


def box_ious(first: Array, second: Array) -> Array:
    """Return the IoU of every box of (A, 2, 3) with every box of (B, 2, 3), (A, B) float64."""
    low = np.maximum(first[:, None, 0], second[None, :, 0])
    high = np.minimum(first[:, None, 1], second[None, :, 1])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    union = _volumes(first)[:, None] + _volumes(second)[None, :] - common
    return np.asarray(np.where(common > 0, common / np.where(union > 0, union, 1), 0.0))


def _volumes(boxes: Array) -> Array:
    return np.asarray(np.prod(np.maximum(boxes[:, 1] - boxes[:, 0], 0), axis=1))


def part_boxes(scan: BoxScan, mask: Array) -> Array:
    """Return the boxes of a mask's parts in the order of their cells, (B, 2, 3); mask (N,) bool."""
    ids = np.flatnonzero(mask)
    if not len(ids):
        return np.zeros((0, 2, 3))
    part = _parts(scan, mask)[scan.cells.point_to_voxel[ids]]
    _, part, sizes = np.unique(part, return_inverse=True, return_counts=True)
    order = np.argsort(part, kind="stable")
    points, starts = scan.points[ids[order]], np.cumsum(sizes) - sizes
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    boxes = np.stack([low, high], axis=1).astype(np.float64)
    return np.asarray(boxes[SMALL_PART * sizes >= sizes.max()])


def _parts(scan: BoxScan, mask: Array) -> Array:
    """Return the part of each cell, (cells,); cells without a point of the mask have any number."""
    cell_of = scan.cells.point_to_voxel
    occupied = np.zeros(len(scan.cells.grid_coords), bool)
    occupied[cell_of[mask]] = True
    touching = scan.touching[occupied[scan.touching].all(axis=1)]
    joined_cells = cell_of[scan.edges[mask[scan.edges].all(axis=1)]]
    from_cells, to_cells = np.concatenate([touching, joined_cells]).T
    size = (len(occupied), len(occupied))
    graph = coo_matrix((np.ones(len(from_cells), bool), (from_cells, to_cells)), shape=size)
    return np.asarray(connected_components(graph, directed=False)[1])


def f1_scores(predicted: Array, true: Array) -> dict[str, float]:
    """Compute F1 of one query's boxes (P, 2, 3) and (G, 2, 3) by name of the threshold.

    Boxes are paired so that the sum of their IoU is largest (Hungarian method). Pairs with IoU >=
    k are hits, and F1 is 2 hits / (P + G). Without true boxes F1 is 1 where nothing is predicted
    and else 0.
    """
    names = {name.replace("acc", "f1_"): float(k) for name, k in THRESHOLDS.items()}
    if not len(true):
        return dict.fromkeys(names, float(not len(predicted)))
    ious = box_ious(predicted, true)
    paired = ious[linear_sum_assignment(ious, maximize=True)]
    boxes = len(predicted) + len(true)
    return {name: 2 * int((paired >= k).sum()) / boxes for name, k in names.items()}
