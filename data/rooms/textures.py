"""Solid textures: the colour of a point is a function of where it lies in its object.

One function colours mesh vertices and image pixels alike. Only integer hashing and basic
arithmetic in float64, so the same point has the same colour on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.compiled import compiled
from data.types import Array

Color = tuple[float, float, float]

PALETTE: dict[str, Color] = {
    "red": (0.74, 0.15, 0.14),
    "orange": (0.92, 0.50, 0.12),
    "yellow": (0.93, 0.80, 0.22),
    "green": (0.22, 0.55, 0.24),
    "blue": (0.18, 0.34, 0.74),
    "purple": (0.47, 0.23, 0.62),
    "pink": (0.93, 0.55, 0.68),
    "brown": (0.45, 0.27, 0.14),
    "white": (0.93, 0.92, 0.90),
    "grey": (0.52, 0.52, 0.53),
    "black": (0.12, 0.12, 0.13),
    "beige": (0.82, 0.73, 0.58),
}
KINDS = ("plain", "wood", "stripes", "checker", "speckle", "weave")


@dataclass(frozen=True)
class Texture:
    """One material.

    ``base`` and ``second`` are RGB in 0..1, mixed by the pattern of ``kind``; ``scale`` is the
    pattern's period in metres, ``axis`` the direction it runs along; ``glow`` is light of its
    own (0 none), ``color`` the palette name of the base.
    """

    kind: str
    base: Color
    second: Color
    scale: float = 0.1
    axis: int = 0
    glow: float = 0.0
    color: str = ""


def material(color: str, kind: str = "plain", **changes: object) -> Texture:
    """A texture of a palette colour, its pattern a darker shade of the same colour."""
    base = PALETTE[color]
    depth = {"plain": 0.9, "wood": 0.62, "weave": 0.8}.get(kind, 0.72)
    second = (base[0] * depth, base[1] * depth, base[2] * depth)
    values: dict[str, object] = {"kind": kind, "base": base, "second": second, "color": color}
    return Texture(**{**values, **changes})  # type: ignore[arg-type]


@compiled
def _hash(x: int, y: int, z: int) -> int:
    """Pseudo-random uint32 of an integer lattice point."""
    h = np.uint32(np.uint32(x) * np.uint32(0x9E3779B1))
    h = np.uint32(h ^ np.uint32(np.uint32(y) * np.uint32(0x85EBCA77)))
    h = np.uint32(h ^ np.uint32(np.uint32(z) * np.uint32(0xC2B2AE3D)))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x2C1B3C6D))
    h = np.uint32(h ^ (h >> np.uint32(12)))
    h = np.uint32(h * np.uint32(0x297A2D39))
    return int(h ^ (h >> np.uint32(15)))


@compiled
def _cell(value: float) -> int:
    return int(np.floor(value))


@compiled
def _lattice(x: float, y: float, z: float) -> float:
    """In [0, 1): one random value for every unit cell."""
    return _hash(_cell(x), _cell(y), _cell(z)) * (1.0 / 2**32)


@compiled
def _blended(low: float, high: float, share: float) -> float:
    return low + share * (high - low)


@compiled
def _plane(i: int, j: int, k: int, fx: float, fy: float) -> float:
    """Four lattice points at one height, blended."""
    unit = 1.0 / 2**32
    near = _blended(_hash(i, j, k) * unit, _hash(i + 1, j, k) * unit, fx)
    far = _blended(_hash(i, j + 1, k) * unit, _hash(i + 1, j + 1, k) * unit, fx)
    return _blended(near, far, fy)


@compiled
def _smooth(x: float, y: float, z: float) -> float:
    """In [0, 1): random values on unit lattice points, blended smoothly between them."""
    i, j, k = _cell(x), _cell(y), _cell(z)
    fx, fy, fz = x - i, y - j, z - k
    fx, fy, fz = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy), fz * fz * (3 - 2 * fz)
    return _blended(_plane(i, j, k, fx, fy), _plane(i, j, k + 1, fx, fy), fz)


@compiled
def _pattern(kind: int, x: float, y: float, z: float, scale: float, axis: int) -> float:
    """Share of the second colour at a point, metres in the object's frame; ``KINDS[kind]``."""
    u, v, w = x / scale, y / scale, z / scale
    along = u if axis == 0 else v if axis == 1 else w
    if kind == 0:  # plain
        return 0.8 * _smooth(u, v, w)
    if kind == 1:  # wood
        thin = 0.08  # Rings are stretched along the grain.
        u, v, w = (
            u * thin if axis == 0 else u,
            v * thin if axis == 1 else v,
            w * thin if axis == 2 else w,
        )
        ring = _smooth(u, v, w) * 4
        return float(abs(ring - np.floor(ring) - 0.5) * 1.6)
    if kind == 2:  # stripes
        return (_cell(along + 1e-4) & 1) * 0.9
    if kind == 3:  # checker
        return ((_cell(u + 1e-4) + _cell(v + 1e-4) + _cell(w + 1e-4)) & 1) * 0.8
    if kind == 4:  # speckle
        return min(max(_smooth(u * 3, v * 3, w * 3) * 5 - 2.8, 0.0), 1.0)
    pitch = 0.012  # Of a weave's threads, metres.
    threads = _cell(x / pitch + 1e-4) + _cell(y / pitch + 1e-4) + _cell(z / pitch + 1e-4)
    return 0.35 * (threads & 1) + 0.5 * _smooth(u, v, w)


@compiled
def albedo_at(
    table: Array, texture: int, x: float, y: float, z: float
) -> tuple[float, float, float]:
    """RGB in 0..1 of a point, metres in its object's frame; ``table`` of a ``TextureTable``."""
    row = table[texture]
    mix = _pattern(int(row[0]), x, y, z, row[1], int(row[2]))
    grain = 0.95 + 0.1 * _lattice(x / 0.007, y / 0.007, z / 0.007)
    return (
        (row[4] + mix * (row[7] - row[4])) * grain,
        (row[5] + mix * (row[8] - row[5])) * grain,
        (row[6] + mix * (row[9] - row[6])) * grain,
    )


@compiled
def _fill_noise(points: Array, values: Array) -> None:
    for i in range(len(points)):
        values[i] = _smooth(points[i, 0], points[i, 1], points[i, 2])


@compiled
def _fill_albedo(table: Array, texture_ids: Array, points: Array, colors: Array) -> None:
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        colors[i, 0], colors[i, 1], colors[i, 2] = albedo_at(table, texture_ids[i], x, y, z)


def smooth_noise(points: Array) -> Array:
    """(n,) in [0, 1): random values on unit lattice points, blended smoothly between them."""
    values = np.empty(len(points))
    _fill_noise(points, values)
    return values


class TextureTable:
    """Textures of one room, looked up by index for many points at once."""

    def __init__(self, textures: Sequence[Texture]) -> None:
        """Keep them as (n, 10) rows: kind, scale, axis, glow, base and second colour."""
        self.textures = tuple(textures)
        self.rows = np.array(
            [
                (KINDS.index(t.kind), t.scale, t.axis, t.glow, *t.base, *t.second)
                for t in self.textures
            ]
        )

    def albedo(self, texture_ids: Array, points: Array) -> Array:
        """(n, 3) RGB in 0..1 of ``points`` (n, 3), metres in their object's frame."""
        colors = np.empty((len(points), 3))
        _fill_albedo(self.rows, texture_ids, points, colors)
        return colors
