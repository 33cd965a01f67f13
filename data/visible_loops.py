"""The rule of ``data.visibility`` as compiled loops over blocks of points.

Coordinates are computed in float64 as ``data.cameras`` computes them, one block of a
``PointIndex`` after the other, so that what a block needs stays in the fastest cache. Each loop
does one simple thing to a whole block: such loops become vector instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from data.compiled import compiled
from data.point_index import BLOCK
from data.types import Array


@compiled
def find(
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
    """Write ids and pixels of the visible points, block by block; how many.

    Each one's bit in ``words``, all 0 before, is set.
    """
    surfaces, shown = depth.ravel(), valid.ravel()
    count = 0
    for block in blocks:
        start = block * BLOCK
        end = min(start + BLOCK, len(ids))
        size = end - start  # Rows are cut one by one: of a cut-out of all, none counts as dense.
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
    """Camera coordinates of points (n,): ``a`` = x / z, ``b`` = y / z, and z.

    Sums in the order of ``data.cameras.transform``, so that both round alike.
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
    """``a`` and ``b`` become columns and rows, rounded as they are stored.

    ``pixels`` (n,) is which pixel of the image that is. Points outside it, or too near, get
    pixel 0 and z NaN, which compares false with every depth.
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
    """Whether each point (n,) stands on the surface that its pixel shows: ``seen`` (n,) bool."""
    absolute, relative = tolerance[1], tolerance[2]
    # Nothing in this loop waits for what it reads, so that many pixels are on their way at once.
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
    """Append those of the points (n,) that are seen to the ``count`` found; the new count."""
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
def order(
    found_ids: Array, found_uv: Array, words: Array, ranks: Array, ids: Array, uv: Array
) -> None:
    """Write what was found in the order of its ids: (L,), (L, 2); the bits are cleared again.

    A point's place is the number of bits before its own.
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
        place = ranks[point >> 6] + _ones(below)
        uv[place, 0] = found_uv[i, 0]
        uv[place, 1] = found_uv[i, 1]
    for w in range(len(words)):
        words[w] = 0


@compiled
def _ones(word: Any) -> Any:
    """Bits that are set in a uint64."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    pairs = np.uint64(0x3333333333333333)
    word = (word & pairs) + ((word >> np.uint64(2)) & pairs)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))
