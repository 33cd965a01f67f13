"""Lifting masks to points: for every view and query, gather at the pixels and add."""

from __future__ import annotations

import numpy as np

from data.types import Array


def sample(logits: Array, x: Array, y: Array) -> Array:
    """Bilinear values of (h, w) ``logits`` at cells ``x``, ``y`` (L,); borders continue."""
    height, width = logits.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    x1, y1 = np.minimum(x0 + 1, width - 1), np.minimum(y0 + 1, height - 1)
    fx, fy = x - x0, y - y0
    top = logits[y0, x0] * (1 - fx) + logits[y0, x1] * fx
    bottom = logits[y1, x0] * (1 - fx) + logits[y1, x1] * fx
    return np.asarray(top * (1 - fy) + bottom * fy)


def add_mask(
    votes: Array, totals: Array, point_ids: Array, cells: Array, logits: Array, weight: float
) -> None:
    """Add one mask's probabilities to ``votes`` (N,) and its weight to ``totals`` (N,).

    ``cells`` (L, 2), x then y, in units of mask cells with centres at whole numbers.
    """
    values = sample(logits, cells[:, 0], cells[:, 1])
    votes[point_ids] += weight / (1 + np.exp(-values))
    totals[point_ids] += weight
