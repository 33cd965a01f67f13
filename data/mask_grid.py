"""From the cells of a teacher's masks to pixels of the image."""

from __future__ import annotations

import numpy as np

from data.types import Array


def cells_to_pixels(logits: Array, extent: tuple[float, float], size: tuple[int, int]) -> Array:
    """Masks (n, h, w) at every pixel centre of an image, (n, H, W) float32, bilinear.

    ``extent`` is how many cells (across, down) the image covers, from the grid's corner;
    ``size`` is (H, W). Within half a cell of the grid's border its outermost cell counts.
    """
    rows = _between(np.asarray(logits, np.float32), 1, extent[1], size[0])
    return _between(rows, 2, extent[0], size[1])


def _between(values: Array, axis: int, covered: float, pixels: int) -> Array:
    """Linear along one axis of (n, h, w): as many values as pixels, from those of cells."""
    cells = values.shape[axis]
    at = np.clip((np.arange(pixels) + 0.5) / pixels * covered - 0.5, 0, cells - 1)
    low = np.minimum(at.astype(int), max(cells - 2, 0))
    share = (at - low).astype(np.float32)
    share = share[:, None] if axis == 1 else share
    first, second = values.take(low, axis), values.take(np.minimum(low + 1, cells - 1), axis)
    return np.asarray(first * (1 - share) + second * share)
