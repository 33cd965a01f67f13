"""Primitive surfaces as triangle grids: boxes, rounded boxes and bodies of revolution.

Every surface is closed or a rectangle, triangles turn counter-clockwise seen from outside,
grid edges are at most ``spacing`` long (diagonals up to 1.42 times that). Coordinates are
rounded to 10 micrometres so that they do not depend on the last bit of a sine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from data.types import Array

Vector = tuple[float, float, float]
_FACES = ((0, 1, 2), (1, 2, 0), (2, 0, 1))


@dataclass(frozen=True, eq=False)
class Surface:
    """``vertices`` (n, 3) float64 m, ``normals`` (n, 3) unit, ``triangles`` (m, 3) int64."""

    vertices: Array
    normals: Array
    triangles: Array

    def moved(self, x: float, y: float, z: float) -> Surface:
        """The surface shifted by a vector in metres."""
        return Surface(self.vertices + np.array([x, y, z]), self.normals, self.triangles)

    def turned(self, axis: int, cosine: float, sine: float) -> Surface:
        """The surface turned about a coordinate axis through the origin."""
        i, j = (axis + 1) % 3, (axis + 2) % 3
        parts = []
        for array in (self.vertices, self.normals):
            turned = array.copy()
            turned[:, i] = cosine * array[:, i] - sine * array[:, j]
            turned[:, j] = sine * array[:, i] + cosine * array[:, j]
            parts.append(turned)
        return Surface(parts[0], parts[1], self.triangles)


def merge(surfaces: Sequence[Surface]) -> Surface:
    """Several surfaces as one, not welded."""
    starts = np.cumsum([0] + [len(s.vertices) for s in surfaces])
    return Surface(
        np.concatenate([s.vertices for s in surfaces]),
        np.concatenate([s.normals for s in surfaces]),
        np.concatenate([s.triangles + start for s, start in zip(surfaces, starts)]),
    )


def _steps(length: float, spacing: float) -> int:
    return max(1, int(np.ceil(length / spacing - 1e-9)))


def _quads(rows: int, columns: int) -> Array:
    """Triangles (2 * (rows - 1) * (columns - 1), 3) of a row-major vertex grid."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1, :-1].ravel(), index[1:, :-1].ravel()
    c, d = index[1:, 1:].ravel(), index[:-1, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def rectangle(corner: Vector, u: Vector, v: Vector, spacing: float) -> Surface:
    """Rectangle from ``corner`` along ``u`` and ``v``; its normal is u x v."""
    start, first, second = np.array(corner), np.array(u), np.array(v)
    rows = _steps(float(np.sqrt((first * first).sum())), spacing) + 1
    columns = _steps(float(np.sqrt((second * second).sum())), spacing) + 1
    s, t = np.meshgrid(np.linspace(0, 1, rows), np.linspace(0, 1, columns), indexing="ij")
    points = start + s.reshape(-1, 1) * first + t.reshape(-1, 1) * second
    normal = np.cross(first, second)
    normal = normal / np.sqrt((normal * normal).sum())
    return Surface(points.round(5), np.tile(normal, (len(points), 1)), _quads(rows, columns))


def box(low: Vector, high: Vector, spacing: float) -> Surface:
    """Closed box with hard edges (each side has vertices of its own)."""
    sides = []
    size = np.subtract(high, low)
    for u, v, w in _FACES:
        first, second = np.zeros(3), np.zeros(3)
        first[u], second[v] = size[u], size[v]
        top, bottom = np.array(low, float), np.array(low, float)
        top[w] = high[w]
        sides.append(rectangle(_vector(top), _vector(first), _vector(second), spacing))
        sides.append(rectangle(_vector(bottom), _vector(second), _vector(first), spacing))
    return merge(sides)


def _vector(array: Array) -> Vector:
    return float(array[0]), float(array[1]), float(array[2])


def rounded_box(low: Vector, high: Vector, roundness: float, spacing: float) -> Surface:
    """Box blown up towards an ellipsoid: ``roundness`` 0 is the box, 1 the ellipsoid."""
    flat = weld(box(low, high, spacing))
    center, half = np.add(low, high) / 2, np.subtract(high, low) / 2
    p = (flat.vertices - center) / half
    q = p * p
    ball = np.empty_like(p)
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        inside = 1 - q[:, j] / 2 - q[:, k] / 2 + q[:, j] * q[:, k] / 3
        ball[:, i] = p[:, i] * np.sqrt(np.maximum(inside, 0))
    shape = center + half * (p + roundness * (ball - p))
    return with_normals(shape.round(5), flat.triangles)


def lathe(profile: Sequence[tuple[float, float]], spacing: float, sides: int = 0) -> Surface:
    """Body of revolution about z; ``profile`` lists (radius, height), bottom to top outside.

    Start and end at radius 0 to close the body. Corners of the profile stay sharp. ``sides``
    0 takes as many as the spacing asks for, at least 12.
    """
    widest = max(radius for radius, _ in profile)
    count = sides or max(12, _steps(2 * np.pi * widest, spacing))
    angle = 2 * np.pi * np.arange(count + 1) / count
    cosine, sine = np.cos(angle).round(9), np.sin(angle).round(9)
    bands = []
    for (r0, z0), (r1, z1) in zip(profile[:-1], profile[1:]):
        length = float(np.sqrt((r1 - r0) ** 2 + (z1 - z0) ** 2))
        if length < 1e-9:
            continue
        t = np.linspace(0, 1, _steps(length, spacing) + 1)
        radius, height = r0 + (r1 - r0) * t, z0 + (z1 - z0) * t
        points = np.stack(
            [
                np.outer(cosine, radius).ravel(),
                np.outer(sine, radius).ravel(),
                np.tile(height, count + 1),
            ],
            axis=1,
        ).round(5)
        out, up = (z1 - z0) / length, -(r1 - r0) / length
        turn = np.repeat(np.stack([cosine * out, sine * out, np.full(count + 1, up)], 1), len(t), 0)
        bands.append(Surface(points, turn, _quads(count + 1, len(t))))
    return weld(merge(bands), keep_normals=True)


def weld(surface: Surface, keep_normals: bool = False) -> Surface:
    """Join vertices at the same place (and, if asked, of the same normal); drop slivers."""
    key = (surface.vertices * 1e5).round().astype(np.int64)
    if keep_normals:
        key = np.concatenate([key, (surface.normals * 1e3).round().astype(np.int64)], axis=1)
    _, first, inverse = np.unique(key, axis=0, return_index=True, return_inverse=True)
    triangles = inverse.reshape(-1)[surface.triangles]
    corners = surface.vertices[first][triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    solid = (cross * cross).sum(axis=1) > 1e-16
    return Surface(surface.vertices[first], surface.normals[first], triangles[solid])


def with_normals(vertices: Array, triangles: Array) -> Surface:
    """A surface whose vertex normals are the area-weighted means of its triangles'."""
    corners = vertices[triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            weights = np.bincount(triangles[:, corner], cross[:, axis], len(vertices))
            normals[:, axis] += weights
    length = np.sqrt((normals * normals).sum(axis=1, keepdims=True))
    return Surface(vertices, normals / np.maximum(length, 1e-12), triangles)


def shaped(surface: Surface, change: Callable[[Array], Array]) -> Surface:
    """The surface with its vertices (n, 3) passed through ``change``; sides stay facing out."""
    return with_normals(change(surface.vertices).round(5), surface.triangles)
