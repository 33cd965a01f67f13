"""Trust a view's mask less where it may lie beside the object: at edges of depth and far away.

A teacher draws masks on a coarse grid, so within one cell of an edge between near and far surfaces
a mask may cover both sides. Such edges are found in the depth map: along each image axis, the
inverse depth of a plane is an affine function of the pixel, so its second difference is zero on a
plane, small in a corner and large across an edge. Relative to the inverse depth at the link, it is
about the step in depth over the depth.

A mask's border is off by pixels, and a pixel covers more of the scene the farther it is away.
"""

from __future__ import annotations

import numpy as np

from data.types import Array

FULL = 255
"""Trust is stored in steps of 1/255."""
_EDGE = 0.05
"""Relative second difference of the inverse depth, over half a mask cell or a whole, at an edge."""


def link_trust(
    depth: Array | None, uv: Array, distances: Array, cell: float, edge: float, near: float
) -> Array:
    """Return the trust (L,) uint8 in a view's mask at each link, in steps of 1/255.

    Args:
        depth: (H, W) float32 metres, 0 where no surface was hit; None looks for no edges.
        uv: (L, 2) pixels of the links, in the depth map's image.
        distances: (L,) of the points from the camera, metres.
        cell: edge of a mask cell, pixels.
        edge: trust within a cell of an edge, 0 to 1.
        near: metres up to which the trust is full; beyond, it falls as 1 / distance. 0 for any.
    """
    trust = np.ones(len(uv))
    if depth is not None:
        trust[_steps(depth, uv, cell) > _EDGE] = edge
    if near > 0:
        trust *= np.minimum(1, near / np.maximum(distances, 1e-6))
    return np.rint(trust * FULL).astype(np.uint8)


def _steps(depth: Array, uv: Array, cell: float) -> Array:
    """Return the largest relative second difference of the inverse depth at each link (L,)."""
    height, width = depth.shape
    x = np.clip(uv[:, 0].astype(np.int64), 0, width - 1)
    y = np.clip(uv[:, 1].astype(np.int64), 0, height - 1)
    inverse = np.where(depth > 0, 1 / np.where(depth > 0, depth, 1), 0).astype(np.float32)
    here = inverse[y, x]
    largest = np.zeros(len(uv), np.float32)
    reach = max(1, round(cell))
    for step in sorted({max(1, reach // 2), reach}):
        for dx, dy in ((step, 0), (0, step)):
            within = (x >= dx) & (x < width - dx) & (y >= dy) & (y < height - dy)
            before = inverse[np.maximum(y - dy, 0), np.maximum(x - dx, 0)]
            after = inverse[np.minimum(y + dy, height - 1), np.minimum(x + dx, width - 1)]
            bend = np.abs(before + after - 2 * here) / np.maximum(here, 1e-6)
            largest = np.maximum(largest, np.where(within & (here > 0), bend, 0))
    return largest
