"""Sums over views of what each says of the points it sees.

The weight of a view's masks, and of what it holds against a point, is the same for all points of
the view. So while views go by, only the masks' sums are added up; which views see a point is noted
in one bit each, and what they weigh is summed at the end, point by point in the order of views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import numpy as np

from data.compiled import compiled
from data.parallel import mapped
from data.types import Array, Progress
from stages.fusion.sample_masks import LiftedView, add_votes, sample, shares, squash

_TINY = np.float32(1e-6)
_LEAST_SUPPORT = 1e-3
"""Of a mask nobody supports; below, rounding would choose between views that all disagree."""
_TILE = 64
_CHUNK = 1 << 14
"""Links whose overlaps are summed by themselves, so that threads change no sum."""
_WORD = 64


class Votes(NamedTuple):
    """Sums over views, each (N, Q) float32: masks, weights of masks, weights against."""

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
    """Sum every view's say over the points it sees, on a GPU where ``device`` is one.

    Args:
        lifted: the views, in order.
        num_points: N.
        weights: (V, Q) of each view's masks.
        doubt: (V, Q) that a view holds against the points it sees.
        progress: told of each view.
        device: "cpu", or where PyTorch computes; there sums are rounded in another order.
    """
    if device != "cpu":
        from stages.fusion.votes_torch import sum_votes_torch

        return Votes(*sum_votes_torch(lifted, num_points, weights, doubt, progress, device))
    weights, doubt = (np.ascontiguousarray(part, np.float32) for part in (weights, doubt))
    num_views, num_queries = weights.shape
    masks = np.zeros((num_points, num_queries), np.float32)
    seen = np.zeros((num_points, -(-num_views // _WORD)), np.uint64)
    for view in lifted:
        said = weights[view.view_index] * view.drawn
        if said.any():
            _in_parts(partial(_add, masks, view, said), len(view.point_ids))
        word, bit = divmod(view.view_index, _WORD)
        _note(seen, view.point_ids, word, bit)
        progress(view.view_index + 1, num_views)
    says, against = (np.empty_like(masks) for _ in range(2))

    def total(part: tuple[int, int]) -> None:
        _sum_seen(says, against, seen, weights, doubt, *part)

    _in_parts(total, num_points)
    return Votes(masks, says, against)


def warm() -> None:
    """Load the compiled loops, for the processes that are forked from this one; no thread starts.

    Loading takes longer than a small scene's sums.
    """
    ids, grid = np.zeros(1, np.int32), np.zeros((1, 1, 1), np.float32)
    row, both = np.zeros(1, np.float32), np.zeros((1, 1), np.float32)
    seen = np.zeros((1, 1), np.uint64)
    sampling = (np.zeros((1, 2), np.float32), np.ones(2, np.float32), np.ones(2))
    add_votes(both, ids, grid, *sampling, row, 0, 1)
    _note(seen, ids, 0, 0)
    _sum_seen(both.copy(), both.copy(), seen, both, both, 0, 1)
    _overlaps(both, both, row, row, ids, grid, *sampling, 0, 1)


def _in_parts(work: Callable[[tuple[int, int]], None], count: int) -> None:
    for _ in mapped(work, shares(count)):
        pass


def _add(masks: Array, view: LiftedView, said: Array, part: tuple[int, int]) -> None:
    add_votes(masks, view.point_ids, view.grid, *view.sampling, said, *part)


@compiled
def _note(seen: Array, point_ids: Array, word: int, bit: int) -> None:
    for i in range(len(point_ids)):
        seen[point_ids[i], word] |= np.uint64(1) << np.uint64(bit)


@compiled
def _sum_seen(
    says: Array, against: Array, seen: Array, weights: Array, doubt: Array, first: int, end: int
) -> None:
    """Fill rows first..end of both sums (N, Q) with those of the views ``seen`` names in bits."""
    for i in range(first, end):
        says[i], against[i] = np.float32(0), np.float32(0)
        for view in range(len(weights)):
            if (seen[i, view // _WORD] >> np.uint64(view % _WORD)) & np.uint64(1):
                for k in range(weights.shape[1]):
                    says[i, k] += weights[view, k]
                    against[i, k] += doubt[view, k]


def agreement(
    lifted: Iterable[LiftedView], weights: Array, votes: Array, says: Array, device: str = "cpu"
) -> Array:
    """(V, Q): soft IoU of each view's lifted mask with the weighted mean of the other views'.

    Only points count that another view with a weight sees; where there is none, it is 1.

    Args:
        lifted: the views.
        weights: (V, Q) that ``votes`` were taken with.
        votes: (N, Q) sums of weight times mask over all views.
        says: (N, Q) sums of weights of the views that see a point.
        device: "cpu", or where PyTorch computes.
    """
    overlaps: Callable[[LiftedView, Array], Array] = partial(_overlap, votes, says)
    if device != "cpu":
        from stages.fusion.votes_torch import OverlapsTorch

        overlaps = OverlapsTorch(votes, says, float(_TINY), device).of
    support = np.ones(weights.shape)
    for view in lifted:
        inside, either = overlaps(view, weights[view.view_index].astype(np.float32))
        heard = either > _TINY
        overlap = np.maximum(inside / np.where(heard, either, 1), _LEAST_SUPPORT)
        support[view.view_index] = np.where(heard, overlap, 1)
    return support


def _overlap(votes: Array, says: Array, view: LiftedView, own: Array) -> Array:
    """(2, Q) float64: sums over links of the smaller and of the larger of mask and others' mean."""
    count, drawn = len(view.point_ids), view.drawn.astype(np.float32)
    places = (view.point_ids, view.grid, *view.sampling)

    def of_chunk(start: int) -> Array:
        end = min(start + _CHUNK, count)
        return np.asarray(_overlaps(votes, says, own, drawn, *places, start, end))

    return sum(mapped(of_chunk, range(0, count, _CHUNK)), np.zeros((2, len(own))))


@compiled
def _overlaps(
    votes: Array,
    says: Array,
    own: Array,
    drawn: Array,
    point_ids: Array,
    grid: Array,
    uv: Array,
    size: Array,
    extent: Array,
    first: int,
    end: int,
) -> Array:
    """The sums of the links first..end."""
    sums = np.zeros((2, len(own)))
    tile = np.empty((_TILE, len(own)), np.float32)
    for start in range(first, end, _TILE):
        probs = tile[: min(_TILE, end - start)]
        sample(probs, grid, uv, size, extent, start)
        squash(probs.reshape(-1))
        for i in range(len(probs)):
            point = point_ids[start + i]
            for k in range(len(own)):
                mine = probs[i, k] * drawn[k]
                others = says[point, k] - own[k]
                counts = np.float32(1) if others > _TINY else np.float32(0)
                mean = (votes[point, k] - own[k] * mine) / max(others, _TINY)
                mean = min(max(mean, np.float32(0)), np.float32(1))
                sums[0, k] += counts * min(mine, mean)
                sums[1, k] += counts * max(mine, mean)
    return sums
