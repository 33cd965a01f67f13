"""The one rule of which points a view sees, for every camera model.

A point is visible when its z in the camera frame exceeds ``near``, its pixel lies inside the
image, the depth there is known (> 0), and |depth - z| <= max(absolute, relative * z). The
depth is read at the nearest pixel centre, which is the pixel that holds the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.cameras import project, transform
from data.types import Array, Camera


@dataclass(frozen=True)
class Tolerance:
    """``near`` and ``absolute`` in metres, ``relative`` as a share of z."""

    near: float
    absolute: float
    relative: float


def visible_points(
    points: Array, camera: Camera, world_to_camera: Array, depth: Array, tolerance: Tolerance
) -> tuple[Array, Array]:
    """Ids (L,) int32, ascending, and pixels ``uv`` (L, 2) float32 of the visible points.

    ``points`` is (N, 3) metres in the world, ``depth`` (H, W) float32 metres at the camera's
    size, 0 where no surface was hit; points that are not finite are never visible.

    Raises:
        ValueError: the depth map is not of the camera's size.
    """
    if depth.shape != (camera.height, camera.width):
        size = (camera.height, camera.width)
        raise ValueError(f"depth must be {size} as its camera says, got {depth.shape}")
    with np.errstate(invalid="ignore"):
        in_camera = transform(world_to_camera, points.astype(np.float64))
    ids = np.flatnonzero(in_camera[:, 2] > tolerance.near)
    in_camera = in_camera[ids]
    # Borders are tested on the rounded values that are stored, so floor(uv) is always inside.
    uv = project(camera, in_camera).astype(np.float32)
    u, v = uv[:, 0], uv[:, 1]
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    ids, uv, z = ids[inside], uv[inside], in_camera[inside, 2]
    column, row = np.floor(uv).astype(np.int64).T
    surface = depth[row, column].astype(np.float64)
    allowed = np.maximum(tolerance.absolute, tolerance.relative * z)
    seen = (surface > 0) & (np.abs(surface - z) <= allowed)
    return ids[seen].astype(np.int32), uv[seen]
