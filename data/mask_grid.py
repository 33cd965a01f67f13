"""From the cells of a teacher's masks to pixels of the image."""

from __future__ import annotations

import numpy as np

from data.types import Array


def cells_to_pixels(logits: Array, extent: tuple[float, float], size: tuple[int, int]) -> Array:
    """Masks (n, h, w) at every pixel centre of an image, (n, H, W) float32, bilinear.

    ``extent`` is how many cells (across, down) the image covers, from the grid's corner;
    ``size`` is (H, W). Within half a cell of the grid's border its outermost cell counts.
    """
    down = _weights(logits.shape[1], extent[1], size[0])
    across = _weights(logits.shape[2], extent[0], size[1])
    return np.asarray(down @ logits.astype(np.float32) @ across.T)


def _weights(cells: int, covered: float, pixels: int) -> Array:
    """(pixels, cells) float32: what each cell adds to each pixel along one axis."""
    at = np.clip((np.arange(pixels) + 0.5) / pixels * covered - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(int), max(cells - 2, 0))
    high = np.minimum(low + 1, cells - 1)
    weights = np.zeros((pixels, cells), np.float32)
    rows = np.arange(pixels)
    weights[rows, low] += (1 - (at - low)).astype(np.float32)
    weights[rows, high] += (at - low).astype(np.float32)
    return weights
