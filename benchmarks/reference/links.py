"""Point-to-pixel links: homogeneous float64 coordinates, the whole cloud, one view at a time."""

from __future__ import annotations

import numpy as np

from data.types import Array


def link_view(
    points: Array,
    K: Array,
    world_to_camera: Array,
    depth: Array,
    near: float,
    absolute: float,
    relative: float,
) -> tuple[Array, Array]:
    """Ids (L,) and pixels (L, 2) float64 of the points a pinhole view sees.

    ``points`` (N, 3) metres, ``depth`` (H, W) metres with 0 = none. The published code has
    neither the test in front of the camera nor that on missing depth; both are cheap.
    """
    height, width = depth.shape
    homogeneous = np.vstack([points.T.astype(np.float64), np.ones(len(points))])  # 4 x N
    in_camera = world_to_camera @ homogeneous
    z = in_camera[2]
    pixels = K @ in_camera[:3]
    with np.errstate(divide="ignore", invalid="ignore"):
        u, v = pixels[0] / z, pixels[1] / z
    inside = (z > near) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    column = np.where(inside, u, 0).astype(np.int64)
    row = np.where(inside, v, 0).astype(np.int64)
    surface = depth[row, column]
    allowed = np.maximum(absolute, relative * z)
    visible = inside & (surface > 0) & (np.abs(surface - z) <= allowed)
    ids = np.where(visible)[0]
    return ids, np.stack([u, v], axis=1)[ids]
