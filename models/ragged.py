"""Masks with ragged borders: signed distance fields moved by smooth noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

_NOISE_CELLS = 6
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def signed_distance(mask: BoolArray) -> FloatArray:
    """(h, w) float32 cells to the mask's border, positive inside, never 0."""
    far = float(sum(mask.shape))
    if not mask.any() or mask.all():
        return np.full(mask.shape, far if mask.any() else -far, np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """(height, width) noise of about unit deviation: random bumps some six cells wide."""
    rows, columns = height // _NOISE_CELLS + 3, width // _NOISE_CELLS + 3
    bumps = rng.standard_normal((rows, columns))
    across = [_bumps_at(size, count) for size, count in ((height, rows), (width, columns))]
    return np.asarray(across[0] @ bumps @ across[1].T)


def _bumps_at(size: int, count: int) -> NDArray[np.float64]:
    """(size, count) weights of ``count`` bumps on ``size`` cells, rows of unit length."""
    offset = np.arange(size)[:, None] / _NOISE_CELLS + 1 - np.arange(count)[None]
    weights = np.exp(-0.5 * (offset / 0.6) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def ragged(distance: FloatArray, reach: float, rng: np.random.Generator) -> FloatArray:
    """A signed distance field whose border is moved by noise of deviation ``reach`` cells.

    No cell moves by more than 0.8 of the innermost distance, so a mask never vanishes.
    """
    noise = smooth_noise(rng, *distance.shape)
    limit = 0.8 * max(float(distance.max()), 0.0)
    moved = distance + np.clip(noise * min(reach, limit), -limit, limit)
    return np.asarray(moved, np.float32)


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks, 0 when both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0
