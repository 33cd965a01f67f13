"""Sum the weighted masks of all views at every point, and measure how well each mask agrees.

A view's weights for and against a query are the same for all points it sees, but for the trust in
the link (``stages.fusion.link_trust``). So only the masks are accumulated view by view; the trust
of each view in a point is recorded, 0 where it does not see it, and the weights are summed at the
end, point by point in the order of the views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from data.compiled import compiled
from data.parallel import mapped
from data.types import Array, Progress
from stages.fusion.sample_masks import STEP, LiftedView, add_votes, sample, shares, squash

_TINY = np.float32(1e-6)
_LEAST_SUPPORT = 1e-3
"""Lowest agreement of a mask; below it, rounding would decide between views that all disagree."""
_TILE = 64
_CHUNK = 1 << 14
"""Links per partial sum of overlaps; fixed, so that the number of threads changes no sum."""


class Votes(NamedTuple):
    """Sums over views, (N, Q) float32 each.

    ``masks`` sums weight times mask, ``mask_weights`` the weights of the masks, ``against`` the
    weights of views without [SEG]; all are weighted by the trust in the links.
    """

    masks: Array
    mask_weights: Array
    against: Array


def sum_votes(
    lifted: Iterable[LiftedView],
    num_points: int,
    weights: Array,
    doubt: Array,
    progress: Progress,
    device: str = "cpu",
) -> Votes:
    """Sum the votes of all views over the points they see.

    Args:
        lifted: the views, in order.
        num_points: N.
        weights: (V, Q), weights of the views' masks.
        doubt: (V, Q), weights of the views against the points they see.
        progress: called after each view with its number and V.
        device: "cpu", or the PyTorch device to sum on, where sums are rounded in another order.
    """
    if device != "cpu":
        from stages.fusion.votes_torch import sum_votes_torch

        return Votes(*sum_votes_torch(lifted, num_points, weights, doubt, progress, device))
    weights, doubt = (np.ascontiguousarray(part, np.float32) for part in (weights, doubt))
    num_views, num_queries = weights.shape
    masks = np.zeros((num_points, num_queries), np.float32)
    trust = np.zeros((num_points, num_views), np.uint8)
    for view in lifted:
        view_weights = weights[view.view_index] * view.drawn
        if view_weights.any():
            _in_parts(partial(_add, masks, view, view_weights), len(view.point_ids))
        trust[view.point_ids, view.view_index] = view.trust
        progress(view.view_index + 1, num_views)
    mask_weights, against = (np.empty_like(masks) for _ in range(2))

    def total(part: tuple[int, int]) -> None:
        _sum_trusted(mask_weights, against, trust, weights, doubt, *part)

    _in_parts(total, num_points)
    return Votes(masks, mask_weights, against)


def warm() -> None:
    """Load the compiled loops before worker processes are forked; starts no thread.

    Loading the loops takes longer than summing the votes of a small scene.
    """
    ids, grid = np.zeros(1, np.int32), np.zeros((1, 1, 1), np.float32)
    row, matrix = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    steps = np.zeros(1, np.uint8)
    sampling = (np.zeros((1, 2), np.float32), np.ones(2, np.float32), np.ones(2))
    add_votes(matrix, ids, grid, *sampling, steps, row, 0, 1)
    _sum_trusted(matrix.copy(), matrix.copy(), steps[None], matrix, matrix, 0, 1)
    _overlaps(matrix, matrix, row, row, ids, grid, *sampling, steps, 0, 1)


def _in_parts(work: Callable[[tuple[int, int]], None], count: int) -> None:
    for _ in mapped(work, shares(count)):
        pass


def _add(masks: Array, view: LiftedView, weights: Array, part: tuple[int, int]) -> None:
    add_votes(masks, view.point_ids, view.grid, *view.sampling, view.trust, weights, *part)


@compiled
def _sum_trusted(
    mask_weights: Array,
    against: Array,
    trust: Array,
    weights: Array,
    doubt: Array,
    first: int,
    end: int,
) -> None:
    """Fill rows first..end of both sums (N, Q) over the views, weighted by ``trust`` (N, V)."""
    for i in range(first, end):
        mask_weights[i], against[i] = np.float32(0), np.float32(0)
        for view in range(len(weights)):
            if trust[i, view]:
                share = trust[i, view] * STEP
                for k in range(weights.shape[1]):
                    mask_weights[i, k] += share * weights[view, k]
                    against[i, k] += share * doubt[view, k]


def agreement(
    lifted: Iterable[LiftedView],
    weights: Array,
    votes: Array,
    mask_weights: Array,
    device: str = "cpu",
) -> Array:
    """Return (V, Q), the soft IoU of each view's lifted mask and the mean of the other views'.

    The mean is weighted by ``weights`` and trust, the overlap by the view's trust in its links.
    Only points that another view with a weight sees count; without such points the agreement is 1.

    Args:
        lifted: the views.
        weights: (V, Q), the weights of ``votes``.
        votes: (N, Q), sums of weight times mask over all views.
        mask_weights: (N, Q), sums of the weights of the views that see a point.
        device: "cpu", or the PyTorch device to compute on.
    """
    overlaps: Callable[[LiftedView, Array], Array] = partial(_overlap, votes, mask_weights)
    if device != "cpu":
        from stages.fusion.votes_torch import OverlapsTorch

        overlaps = OverlapsTorch(votes, mask_weights, float(_TINY), device).of
    support = np.ones(weights.shape)
    for view in lifted:
        intersection, union = overlaps(view, weights[view.view_index].astype(np.float32))
        comparable = union > _TINY
        overlap = np.maximum(intersection / np.where(comparable, union, 1), _LEAST_SUPPORT)
        support[view.view_index] = np.where(comparable, overlap, 1)
    return support


def _overlap(votes: Array, mask_weights: Array, view: LiftedView, own: Array) -> Array:
    """Return (2, Q) float64: sums over links of min and max of the mask and the others' mean.

    ``own`` (Q,) float32 are the weights of the view, which are subtracted from the sums.
    """
    count, drawn = len(view.point_ids), view.drawn.astype(np.float32)
    links = (view.point_ids, view.grid, *view.sampling, view.trust)

    def of_chunk(start: int) -> Array:
        end = min(start + _CHUNK, count)
        return np.asarray(_overlaps(votes, mask_weights, own, drawn, *links, start, end))

    return sum(mapped(of_chunk, range(0, count, _CHUNK)), np.zeros((2, len(own))))


@compiled
def _overlaps(
    votes: Array,
    mask_weights: Array,
    own: Array,
    drawn: Array,
    point_ids: Array,
    grid: Array,
    uv: Array,
    size: Array,
    extent: Array,
    trust: Array,
    first: int,
    end: int,
) -> Array:
    """Return (2, Q), the sums of ``_overlap`` over the links first..end."""
    sums = np.zeros((2, len(own)))
    tile = np.empty((_TILE, len(own)), np.float32)
    for start in range(first, end, _TILE):
        probs = tile[: min(_TILE, end - start)]
        sample(probs, grid, uv, size, extent, start)
        squash(probs.reshape(-1))
        for i in range(len(probs)):
            point, share = point_ids[start + i], trust[start + i] * STEP
            for k in range(len(own)):
                mine, weight = probs[i, k] * drawn[k], share * own[k]
                others = mask_weights[point, k] - weight
                counts = share if others > _TINY else np.float32(0)
                mean = (votes[point, k] - weight * mine) / max(others, _TINY)
                mean = min(max(mean, np.float32(0)), np.float32(1))
                sums[0, k] += counts * min(mine, mean)
                sums[1, k] += counts * max(mine, mean)
    return sums
