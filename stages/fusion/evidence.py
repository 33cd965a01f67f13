"""Find the answers that hardly any view supports, and that are none.

A hallucinated mask in one view of many can be the peak of a query's labels, and thresholds, being
relative, then make an answer of it. So views are counted: those that see a tenth of the answer's
points at least, and of these the ones with a weight whose mask covers a quarter of the answer's
points that they see. An answer needs ``share`` of the views that see it, and two if four see it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data.compiled import compiled
from data.types import Array
from stages.fusion.sample_masks import TILE, LiftedView, sample

_SEEN, _COVERED = 0.1, 0.25
_MANY = 4


class Support(NamedTuple):
    """Numbers of views, (Q,) int64 each: that see the answer, and whose masks support it."""

    seeing: Array
    supporting: Array


def supported(counts: Support, share: float) -> Array:
    """Return (Q,) bool: whether enough of the views that see an answer support it."""
    several = (counts.supporting > 1) | (counts.seeing < _MANY)
    return np.asarray(several & (counts.supporting >= share * counts.seeing))


def count_support(lifted: Iterable[LiftedView], answers: Array, weights: Array) -> Support:
    """Count the views that see each answer and those that support it.

    Args:
        lifted: the views.
        answers: (N, Q) bool, the points of each answer.
        weights: (V, Q), the views' weights; a view without one supports nothing.
    """
    sizes = answers.sum(axis=0)
    seeing, supporting = (np.zeros(len(sizes), np.int64) for _ in range(2))
    for view in lifted:
        seen, covered = _count(answers, view.point_ids, view.grid, *view.sampling)
        sees = (sizes > 0) & (seen >= _SEEN * sizes)
        has_mask = view.drawn & (weights[view.view_index] > 0)
        seeing += sees
        supporting += sees & has_mask & (covered >= _COVERED * seen)
    return Support(seeing, supporting)


@compiled
def _count(
    answers: Array, point_ids: Array, grid: Array, uv: Array, size: Array, extent: Array
) -> Array:
    """Return (2, Q): links to points of each answer, and those of them inside the query's mask."""
    counts = np.zeros((2, answers.shape[1]), np.int64)
    tile = np.empty((TILE, grid.shape[2]), np.float32)
    for start in range(0, len(point_ids), TILE):
        logits = tile[: min(TILE, len(point_ids) - start)]
        sample(logits, grid, uv, size, extent, start)
        for i in range(len(logits)):
            for k in range(answers.shape[1]):
                if answers[point_ids[start + i], k]:
                    counts[0, k] += 1
                    counts[1, k] += logits[i, k] > 0
    return counts


def warm() -> None:
    """Load the compiled loop, or compile it."""
    ids, grid = np.zeros(1, np.int32), np.zeros((1, 1, 1), np.float32)
    sampling = (np.zeros((1, 2), np.float32), np.ones(2, np.float32), np.ones(2))
    _count(np.zeros((1, 1), bool), ids, grid, *sampling)
