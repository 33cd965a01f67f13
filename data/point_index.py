"""Points of a scene in small boxes, so that a view need not look at those far beside it.

Points are sorted along a Morton curve (the bits of their three grid coordinates interleaved), so
that ``BLOCK`` points one after the other lie close together in one small box. A view then passes
over all boxes outside its field of view, and the pixels of one block lie close together, too.
"""

from __future__ import annotations

import numpy as np

from data.cameras import widest_angle
from data.compiled import compiled
from data.types import Array, Camera

BLOCK = 512
_CELLS = 1024  # Of the grid, along each axis; three times 10 bits.
# A point's camera coordinates and a box's are rounded differently, by far less than this.
_ROUNDING = 1e-9


class PointIndex:
    """The points that are finite, sorted, in blocks; made once per scene and never changed.

    ``points`` (3, M) in the precision given are those of the ids ``ids`` (M,) int32; block b holds
    columns ``b * BLOCK`` to ``(b + 1) * BLOCK``, within ``centers[b] +- halves[b]`` (B, 3) float64
    metres. ``size`` is the number of points given, finite or not.
    """

    def __init__(self, points: Array) -> None:
        """Sort ``points`` (N, 3), float32 or float64 metres in the world."""
        self.size = len(points)
        self.ids = _along_curve(points)
        self.points = np.empty((3, len(self.ids)), points.dtype)
        for axis in range(3):
            self.points[axis] = points[self.ids, axis]
        starts = np.arange(0, len(self.ids), BLOCK)
        if len(starts):
            low = np.minimum.reduceat(self.points, starts, axis=1).T.astype(np.float64)
            high = np.maximum.reduceat(self.points, starts, axis=1).T.astype(np.float64)
        else:
            low = high = np.zeros((0, 3))
        # Halved first: the sum of two large numbers may not be one.
        self.centers, self.halves = low / 2 + high / 2, high / 2 - low / 2
        self._reach = float(np.abs(np.concatenate([low, high])).max(initial=0))

    def blocks_in_view(self, camera: Camera, world_to_camera: Array, near: float) -> Array:
        """Blocks (n,) int64, ascending, that may hold a point the camera sees beyond ``near``.

        None that does is missing; some that do not may be among them.
        """
        rotation, offset = world_to_camera[:3, :3], world_to_camera[:3, 3]
        slack = _ROUNDING * (self._reach + float(np.abs(offset).max()))
        planes = _planes(camera, near)
        normals = planes[:, :3] @ rotation
        distances = self.centers @ normals.T + planes[:, :3] @ offset + planes[:, 3]
        sizes = np.abs(normals).sum(axis=1)
        inside = distances + self.halves @ np.abs(normals).T + slack * sizes >= 0
        kept = inside.all(axis=1)
        if camera.model == "OPENCV_FISHEYE":
            angle = widest_angle(camera)
            middles = self.centers @ rotation.T + offset
            beyond = np.hypot(middles[:, 0], middles[:, 1]) * np.cos(angle)
            beyond -= middles[:, 2] * np.sin(angle)
            kept &= beyond <= np.linalg.norm(self.halves, axis=1) + slack
        return np.flatnonzero(kept)


def _planes(camera: Camera, near: float) -> Array:
    """(P, 4) in the camera frame: points that are seen have plane . (x, y, z, 1) >= 0.

    The image counts one pixel larger on every side, so that no rounding matters.
    """
    front = [0.0, 0.0, 1.0, -near]
    if camera.model != "PINHOLE":
        return np.array([front])
    (fx, fy), (cx, cy) = np.diag(camera.K)[:2], camera.K[:2, 2]
    return np.array(
        [
            front,
            [fx, 0, cx + 1, 0],
            [-fx, 0, camera.width + 1 - cx, 0],
            [0, fy, cy + 1, 0],
            [0, -fy, camera.height + 1 - cy, 0],
        ]
    )


def _along_curve(points: Array) -> Array:
    """Ids (M,) int32 of the finite points, in the order of a Morton curve through their box."""
    keys, ids = np.empty(len(points), np.uint32), np.empty(len(points), np.int32)
    count = _morton_keys(points, keys, ids)
    keys, ids = keys[:count], ids[:count]
    other_keys, other_ids = np.empty_like(keys), np.empty_like(ids)
    for shift in (0, 10, 20):
        _sort_by_digit(keys, ids, shift, other_keys, other_ids)
        keys, ids, other_keys, other_ids = other_keys, other_ids, keys, ids
    return ids


@compiled
def _sort_by_digit(
    keys: Array, ids: Array, shift: int, sorted_keys: Array, sorted_ids: Array
) -> None:
    """One step of a radix sort: stable, by the ten bits of the keys from ``shift`` on."""
    places = np.zeros(_CELLS + 1, np.int64)
    for key in keys:
        places[((key >> shift) & (_CELLS - 1)) + 1] += 1
    places = np.cumsum(places)
    for i in range(len(keys)):
        digit = (keys[i] >> shift) & (_CELLS - 1)
        place = places[digit]
        places[digit] = place + 1
        sorted_keys[place] = keys[i]
        sorted_ids[place] = ids[i]


@compiled
def _morton_keys(points: Array, keys: Array, ids: Array) -> int:
    """Fill ``keys`` (N,), places on the curve, and ``ids`` (N,) of finite points; how many."""
    low = np.full(3, np.inf)
    high = np.full(3, -np.inf)
    for i in range(len(points)):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        if np.isfinite(x) and np.isfinite(y) and np.isfinite(z):
            low[0], low[1], low[2] = min(low[0], x), min(low[1], y), min(low[2], z)
            high[0], high[1], high[2] = max(high[0], x), max(high[1], y), max(high[2], z)
    extent = max(high[0] - low[0], high[1] - low[1], high[2] - low[2])
    scale = _CELLS / extent if extent > 0 else 0.0
    count = 0
    for i in range(len(points)):
        x, y, z = float(points[i, 0]), float(points[i, 1]), float(points[i, 2])
        if np.isfinite(x) and np.isfinite(y) and np.isfinite(z):
            key = _spread(_cell((x - low[0]) * scale))
            key |= _spread(_cell((y - low[1]) * scale)) << 1
            key |= _spread(_cell((z - low[2]) * scale)) << 2
            keys[count] = key
            ids[count] = i
            count += 1
    return count


@compiled
def _cell(coordinate: float) -> int:
    # What is no number, in a box too large for one, lands in the last cell as well.
    return int(coordinate) if coordinate < _CELLS else _CELLS - 1


@compiled
def _spread(bits: int) -> int:
    """Ten bits with two zeros between each and the next."""
    bits = (bits | bits << 16) & 0x030000FF
    bits = (bits | bits << 8) & 0x0300F00F
    bits = (bits | bits << 4) & 0x030C30C3
    return (bits | bits << 2) & 0x09249249
