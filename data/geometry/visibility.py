"""Find the points of a cloud that a view sees, for every camera model, with compiled loops.

A point is visible when its z in the camera frame exceeds ``near``, its pixel lies inside the
image, the depth there is known (> 0), and |depth - z| <= max(absolute, relative * z). The depth
is read at the pixel that contains the projection. ``stages.scene.gpu_visibility`` has the same
rule for a GPU.

Points are sorted along a Morton curve (the bits of their three grid coordinates interleaved), so
that ``BLOCK`` consecutive points lie in one small box. A view skips all boxes outside its field
of view, and the pixels of one block lie close together.

Coordinates are computed in float64 as in ``data.geometry.cameras``, one block at a time, so that
a block's data stays in the fastest cache. Each loop does one simple operation on a whole block,
which compiles to vector instructions.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.compiled import compiled
from data.geometry.cameras import lens_end, widest_angle
from data.types import Array, Camera

BLOCK = 512
_CELLS = 1024  # Cells of the Morton grid along each axis: 10 bits.
# Far more than the difference between the rounding errors of points and of boxes.
_ROUNDING = 1e-9


class PointIndex:
    """The finite points of a cloud, sorted and divided into blocks; never changed.

    ``points`` (3, M), in the precision of the cloud, are the points ``ids`` (M,) int32. Block b
    holds the columns ``b * BLOCK`` to ``(b + 1) * BLOCK``, inside the box
    ``centers[b] +- halves[b]`` (B, 3) float64 metres. ``size`` is the number of all points,
    finite or not.
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
        # Halved before the sum, which might overflow.
        self.centers, self.halves = low / 2 + high / 2, high / 2 - low / 2
        self._reach = float(np.abs(np.concatenate([low, high])).max(initial=0))

    def blocks_in_view(self, camera: Camera, world_to_camera: Array, near: float) -> Array:
        """Return the blocks (n,) int64, ascending, that may hold a point visible beyond ``near``.

        Every block with a visible point is included; blocks without one may be included too.
        """
        rotation, offset = world_to_camera[:3, :3], world_to_camera[:3, 3]
        slack = _ROUNDING * (self._reach + float(np.abs(offset).max()))
        planes = _planes(camera, near)
        normals = planes[:, :3] @ rotation
        distances = self.centers @ normals.T + planes[:, :3] @ offset + planes[:, 3]
        sizes = np.abs(normals).sum(axis=1)
        inside = distances + self.halves @ np.abs(normals).T + slack * sizes >= 0
        is_kept = inside.all(axis=1)
        if camera.model == "OPENCV_FISHEYE":
            angle = widest_angle(camera)
            middles = self.centers @ rotation.T + offset
            beyond = np.hypot(middles[:, 0], middles[:, 1]) * np.cos(angle)
            beyond -= middles[:, 2] * np.sin(angle)
            is_kept &= beyond <= np.linalg.norm(self.halves, axis=1) + slack
        return np.flatnonzero(is_kept)


def _planes(camera: Camera, near: float) -> Array:
    """Return the frustum's planes (P, 4): visible points have plane . (x, y, z, 1) >= 0.

    The points are in the camera frame. The image is counted one pixel larger on every side, so
    that rounding errors do not matter.
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
    """Return the ids (M,) int32 of the finite points in the order of a Morton curve."""
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
    """Do one stable step of a radix sort, by the ten bits of the keys from ``shift`` on."""
    positions = np.zeros(_CELLS + 1, np.int64)
    for key in keys:
        positions[((key >> shift) & (_CELLS - 1)) + 1] += 1
    positions = np.cumsum(positions)
    for i in range(len(keys)):
        digit = (keys[i] >> shift) & (_CELLS - 1)
        position = positions[digit]
        positions[digit] = position + 1
        sorted_keys[position] = keys[i]
        sorted_ids[position] = ids[i]


@compiled
def _morton_keys(points: Array, keys: Array, ids: Array) -> int:
    """Fill ``keys`` (N,), Morton codes, and ``ids`` (N,) of finite points; return their count."""
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
    # A coordinate that is NaN, as in a box of overflowing size, gets the last cell.
    return int(coordinate) if coordinate < _CELLS else _CELLS - 1


@compiled
def _spread(bits: int) -> int:
    """Insert two zero bits after each of ten bits."""
    bits = (bits | bits << 16) & 0x030000FF
    bits = (bits | bits << 8) & 0x0300F00F
    bits = (bits | bits << 4) & 0x030C30C3
    return (bits | bits << 2) & 0x09249249


@compiled
def find_visible(
    points: Array,
    ids: Array,
    blocks: Array,
    pose: Array,
    lens: Array,
    is_fisheye: bool,
    depth: Array,
    valid: Array,
    is_masked: bool,
    tolerance: Array,
    scratch: Array,
    pixels: Array,
    seen: Array,
    found_ids: Array,
    found_uv: Array,
    words: Array,
) -> int:
    """Write ids and pixels of the visible points, block by block; return their number.

    The bit of each visible point is set in ``words``, which is all 0 at the start.
    """
    surfaces, shown = depth.ravel(), valid.ravel()
    count = 0
    for block in blocks:
        start = block * BLOCK
        end = min(start + BLOCK, len(ids))
        size = end - start  # Rows are sliced singly, so that Numba knows them to be contiguous.
        u, v = scratch[0, :size], scratch[1, :size]
        z, surface = scratch[2, :size], scratch[3, :size]
        _project(points[0, start:end], points[1, start:end], points[2, start:end], pose, u, v, z)
        if is_fisheye:
            _bend(u, v, lens)
        _to_pixels(u, v, z, lens, tolerance[0], depth.shape, pixels)
        _compare(z, surfaces, shown, is_masked, tolerance, pixels, surface, seen)
        count = _keep(ids[start:end], u, v, seen, count, found_ids, found_uv, words)
    return count


@compiled
def _project(xs: Array, ys: Array, zs: Array, pose: Array, a: Array, b: Array, z: Array) -> None:
    """Compute the camera coordinates of points (n,): ``a`` = x / z, ``b`` = y / z, and z.

    Sums have the order of ``data.geometry.cameras.transform``, so that both round alike.
    """
    for i in range(len(z)):
        x, y, up = float(xs[i]), float(ys[i]), float(zs[i])
        away = pose[2, 0] * x + pose[2, 1] * y + pose[2, 2] * up + pose[2, 3]
        a[i] = (pose[0, 0] * x + pose[0, 1] * y + pose[0, 2] * up + pose[0, 3]) / away
        b[i] = (pose[1, 0] * x + pose[1, 1] * y + pose[1, 2] * up + pose[1, 3]) / away
        z[i] = away


@compiled
def _bend(a: Array, b: Array, lens: Array) -> None:
    """Apply a fisheye's distortion in place; NaN beyond the lens's end."""
    k1, k2, k3, k4, end = lens[4], lens[5], lens[6], lens[7], lens[8]
    for i in range(len(a)):
        r = math.hypot(a[i], b[i])
        theta = math.atan(r)
        square = theta * theta
        factor = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
        bend = theta * factor / r if r > 1e-9 else 1.0
        if theta > end:
            bend = np.nan
        a[i] *= bend
        b[i] *= bend


@compiled
def _to_pixels(
    a: Array,
    b: Array,
    z: Array,
    lens: Array,
    near: float,
    size: tuple[int, int],
    pixels: Array,
) -> None:
    """Turn ``a`` and ``b`` into columns and rows in pixels, rounded to float32.

    ``pixels`` (n,) becomes the flat index of each point's pixel. Points outside the image or
    too near get pixel 0 and z NaN, which compares false with every depth.
    """
    height, width = size
    for i in range(len(a)):
        # Borders are tested on the rounded values, so floor(uv) is always inside.
        column = float(np.float32(lens[0] * a[i] + lens[1]))
        row = float(np.float32(lens[2] * b[i] + lens[3]))
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z[i] > near)
        pixels[i] = int(row if inside else 0.0) * width + int(column if inside else 0.0)
        z[i] = z[i] if inside else np.nan
        a[i] = column
        b[i] = row


@compiled
def _compare(
    z: Array,
    surfaces: Array,
    shown: Array,
    is_masked: bool,
    tolerance: Array,
    pixels: Array,
    surface: Array,
    seen: Array,
) -> None:
    """Set ``seen`` (n,) bool: whether each point lies on the surface that its pixel shows."""
    absolute, relative = tolerance[1], tolerance[2]
    # This loop only reads, so that many memory accesses are in flight at once.
    for i in range(len(z)):
        surface[i] = surfaces[pixels[i]]
    if is_masked:
        for i in range(len(z)):
            surface[i] = surface[i] if shown[pixels[i]] else 0.0
    for i in range(len(z)):
        close = abs(surface[i] - z[i]) <= max(absolute, relative * z[i])
        seen[i] = (surface[i] > 0) & close


@compiled
def _keep(
    ids: Array,
    u: Array,
    v: Array,
    seen: Array,
    count: int,
    found_ids: Array,
    found_uv: Array,
    words: Array,
) -> int:
    """Append the points (n,) that are seen to the ``count`` found ones; return the new count."""
    for i in range(len(ids)):
        if seen[i]:
            point = ids[i]
            found_ids[count] = point
            found_uv[count, 0] = u[i]
            found_uv[count, 1] = v[i]
            words[np.uint64(point >> 6)] |= np.uint64(1) << np.uint64(point & 63)
            count += 1
    return count


@compiled
def sort_by_id(
    found_ids: Array, found_uv: Array, words: Array, ranks: Array, ids: Array, uv: Array
) -> None:
    """Write the found points in the order of their ids: ``ids`` (L,), ``uv`` (L, 2).

    A point's position is the number of bits set before its bit in ``words``. ``words`` is
    cleared at the end.
    """
    one = np.uint64(1)
    count = 0
    for w in range(len(words)):
        ranks[w] = count
        word = words[w]
        while word:
            lowest = word & (~word + one)
            ids[count] = (w << 6) + _ones(lowest - one)
            word ^= lowest
            count += 1
    for i in range(count):
        point = found_ids[i]
        below = words[point >> 6] & ((one << np.uint64(point & 63)) - one)
        position = ranks[point >> 6] + _ones(below)
        uv[position, 0] = found_uv[i, 0]
        uv[position, 1] = found_uv[i, 1]
    for w in range(len(words)):
        words[w] = 0


@compiled
def _ones(word: Any) -> Any:
    """Count the bits that are set in a uint64."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


_WORD = 64


@dataclass(frozen=True)
class Tolerance:
    """Limits of the visibility rule: ``near`` and ``absolute`` in metres, ``relative`` to z."""

    near: float
    absolute: float
    relative: float


class Visibility:
    """Finds the points of one cloud that views see; several threads may use it at once."""

    def __init__(self, points: Array) -> None:
        """Sort ``points`` (N, 3) metres in the world; points that are not finite are never seen."""
        self._index = PointIndex(points)
        self._threads = threading.local()

    def visible_points(
        self,
        camera: Camera,
        world_to_camera: Array,
        depth: Array,
        tolerance: Tolerance,
        valid: Array | None = None,
    ) -> tuple[Array, Array]:
        """Return ids (L,) int32, ascending, and pixels ``uv`` (L, 2) float32 of visible points.

        ``depth`` is (H, W) float32 metres at the camera's size, 0 where no surface was hit. No
        point is visible in a pixel where ``valid`` (H, W) bool is False.

        Raises:
            ValueError: the depth map or ``valid`` is not of the camera's size.
        """
        check_size("depth", depth, camera)
        if valid is not None:
            check_size("valid", valid, camera)
        scratch = self._scratch()
        index = self._index
        count = find_visible(
            index.points,
            index.ids,
            index.blocks_in_view(camera, world_to_camera, tolerance.near),
            np.ascontiguousarray(world_to_camera[:3], np.float64),
            _numbers(camera),
            camera.model == "OPENCV_FISHEYE",
            np.ascontiguousarray(depth, np.float32),
            np.ones((1, 1), bool) if valid is None else np.ascontiguousarray(valid),
            valid is not None,
            np.array([tolerance.near, tolerance.absolute, tolerance.relative]),
            scratch.block,
            scratch.pixels,
            scratch.seen,
            scratch.ids,
            scratch.uv,
            scratch.words,
        )
        ids, uv = np.empty(count, np.int32), np.empty((count, 2), np.float32)
        sort_by_id(scratch.ids, scratch.uv, scratch.words, scratch.ranks, ids, uv)
        return ids, uv

    def _scratch(self) -> _Scratch:
        """Return this thread's scratch memory, kept because allocation costs more than the work."""
        if not hasattr(self._threads, "scratch"):
            self._threads.scratch = _Scratch(self._index)
        scratch: _Scratch = self._threads.scratch
        return scratch


def check_size(name: str, image: Array, camera: Camera) -> None:
    """Raise ValueError unless ``image`` (H, W) has the camera's size."""
    size = (camera.height, camera.width)
    if image.shape != size:
        raise ValueError(f"{name} must be {size} as its camera says, got {image.shape}")


class _Scratch:
    """Scratch memory of one thread; of ``ids`` and ``uv`` only as much as a view sees is used."""

    def __init__(self, index: PointIndex) -> None:
        self.block = np.empty((4, BLOCK))
        self.pixels = np.empty(BLOCK, np.int64)
        self.seen = np.empty(BLOCK, np.bool_)
        self.ids = np.empty(len(index.ids), np.int32)
        self.uv = np.empty((len(index.ids), 2), np.float32)
        self.words = np.zeros(-(-index.size // _WORD), np.uint64)
        self.ranks = np.empty(len(self.words), np.int32)


def _numbers(camera: Camera) -> Array:
    """Return (9,) float64: fx, cx, fy, cy and, for a fisheye, its distortion and lens end."""
    K, numbers = camera.K, np.zeros(9)
    numbers[:4] = K[0, 0], K[0, 2], K[1, 1], K[1, 2]
    if camera.model == "OPENCV_FISHEYE":
        numbers[4:8], numbers[8] = camera.distortion, lens_end(camera.distortion)
    return numbers


def warm() -> None:
    """Load this module's compiled loops, or compile them."""
    camera = Camera("PINHOLE", np.eye(3), 2, 2)
    point, depth = np.ones((1, 3), np.float32), np.ones((2, 2), np.float32)
    Visibility(point).visible_points(camera, np.eye(4), depth, Tolerance(0.1, 0.1, 0.0))
