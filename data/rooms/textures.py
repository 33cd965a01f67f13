"""Solid textures: the colour of a point is a function of where it lies in its object.

One function colours mesh vertices and image pixels alike. Only integer hashing and basic
arithmetic in float64, so the same point has the same colour on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


def _hash(x: Array, y: Array, z: Array) -> Array:
    """Pseudo-random uint32 of integer lattice points (any integer arrays)."""
    h = x.astype(np.uint32) * np.uint32(0x9E3779B1)
    h ^= y.astype(np.uint32) * np.uint32(0x85EBCA77)
    h ^= z.astype(np.uint32) * np.uint32(0xC2B2AE3D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x2C1B3C6D)
    h ^= h >> np.uint32(12)
    h *= np.uint32(0x297A2D39)
    h ^= h >> np.uint32(15)
    return h


def lattice_noise(points: Array) -> Array:
    """(n,) in [0, 1): one random value for every unit cell of ``points`` (n, 3)."""
    cell = np.floor(points).astype(np.int64)
    return np.asarray(_hash(cell[:, 0], cell[:, 1], cell[:, 2]) * (1.0 / 2**32))


def smooth_noise(points: Array) -> Array:
    """(n,) in [0, 1): random values on unit lattice points, blended smoothly between them."""
    cell = np.floor(points)
    f = points - cell
    f = f * f * (3 - 2 * f)
    low = cell.astype(np.int64)
    corner = [[low[:, axis], low[:, axis] + 1] for axis in range(3)]

    def value(i: int, j: int, k: int) -> Array:
        return np.asarray(_hash(corner[0][i], corner[1][j], corner[2][k]) * (1.0 / 2**32))

    def along_x(j: int, k: int) -> Array:
        first = value(0, j, k)
        return np.asarray(first + f[:, 0] * (value(1, j, k) - first))

    def along_y(k: int) -> Array:
        first = along_x(0, k)
        return np.asarray(first + f[:, 1] * (along_x(1, k) - first))

    first = along_y(0)
    return np.asarray(first + f[:, 2] * (along_y(1) - first))


def _pattern(kind: str, points: Array, scale: Array, axis: Array) -> Array:
    """(n,) share of the second colour at ``points`` (n, 3) metres in the object's frame."""
    units = points / scale[:, None]
    rows = np.arange(len(points))
    if kind == "plain":
        return np.asarray(0.8 * smooth_noise(units))
    if kind == "wood":
        stretch = np.full((len(points), 3), 1.0)
        stretch[rows, axis] = 0.08
        ring = smooth_noise(units * stretch) * 4
        return np.asarray(np.abs(ring - np.floor(ring) - 0.5) * 1.6)
    if kind == "stripes":
        return np.asarray((np.floor(units[rows, axis] + 1e-4).astype(np.int64) & 1) * 0.9)
    if kind == "checker":
        cells = np.floor(units + 1e-4).astype(np.int64)
        return np.asarray((cells[:, 0] + cells[:, 1] + cells[:, 2] & 1) * 0.8)
    if kind == "speckle":
        return np.clip(smooth_noise(units * 3) * 5 - 2.8, 0, 1)
    threads = np.floor(points / 0.012 + 1e-4).astype(np.int64).sum(axis=1) & 1
    return np.asarray(0.35 * threads + 0.5 * smooth_noise(units))


class TextureTable:
    """Textures of one room, looked up by index for many points at once."""

    def __init__(self, textures: Sequence[Texture]) -> None:
        self.textures = tuple(textures)
        self._kind = np.array([KINDS.index(t.kind) for t in textures])
        self._base = np.array([t.base for t in textures])
        self._second = np.array([t.second for t in textures])
        self._scale = np.array([t.scale for t in textures])
        self._axis = np.array([t.axis for t in textures])
        self.glow = np.array([t.glow for t in textures])

    def albedo(self, texture_ids: Array, points: Array) -> Array:
        """(n, 3) RGB in 0..1 of ``points`` (n, 3), metres in their object's frame."""
        mix = np.empty(len(points))
        kinds = self._kind[texture_ids]
        for code, kind in enumerate(KINDS):
            rows = np.flatnonzero(kinds == code)
            if len(rows):
                ids = texture_ids[rows]
                mix[rows] = _pattern(kind, points[rows], self._scale[ids], self._axis[ids])
        base = self._base[texture_ids]
        color = base + mix[:, None] * (self._second[texture_ids] - base)
        grain = 0.95 + 0.1 * lattice_noise(points / 0.007)
        return np.asarray(color * grain[:, None])
