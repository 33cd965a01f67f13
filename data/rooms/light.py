"""Light of a room, baked once per vertex: ambient occlusion, ceiling lamps and windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.raycast import Raycaster
from data.rooms.layout import Placed
from data.types import Array

_DIRECTIONS = 48
_REACH = 1.2
_OFFSET = 1e-3
_INTO_FACE = 0.15
_AMBIENT = np.array([0.50, 0.50, 0.51])
_BOUNCE = 0.55
_LAMP = np.array([0.62, 0.60, 0.55])
_WINDOW = np.array([0.36, 0.39, 0.43])


@dataclass(frozen=True, eq=False)
class Light:
    """Sources in the room frame, metres.

    ``lamps`` are ceiling lamps (x, y) at ``height``; ``windows`` (n, 2, 3) pairs of a point on
    a window and the direction into the room.
    """

    lamps: tuple[tuple[float, float], ...]
    height: float
    windows: Array


def make_light(
    size: tuple[float, float, float], placed: Sequence[Placed], rng: np.random.Generator
) -> Light:
    """One or two ceiling lamps and the windows of the layout."""
    w, d, h = size
    if rng.random() < 0.5:
        lamps: tuple[tuple[float, float], ...] = ((round(w / 2, 2), round(d / 2, 2)),)
    elif w > d:
        lamps = ((round(0.3 * w, 2), round(d / 2, 2)), (round(0.7 * w, 2), round(d / 2, 2)))
    else:
        lamps = ((round(w / 2, 2), round(0.3 * d, 2)), (round(w / 2, 2), round(0.7 * d, 2)))
    panes = []
    for item in placed:
        if item.model.label != "window":
            continue
        width, height = item.model.high[0], item.model.high[2]
        for x in (-0.5, 0.5):
            for z in (0.3, 0.7):
                local = np.array([[x * width, 0.12, z * height], [x * width, 1.12, z * height]])
                points = item.to_room(local)
                panes.append(np.stack([points[0], points[1] - points[0]]))
    return Light(lamps, h, np.stack(panes) if panes else np.zeros((0, 2, 3)))


def sphere_directions(count: int) -> Array:
    """(count, 3) unit vectors spread evenly (Fibonacci lattice), rounded to 1e-9."""
    index = np.arange(count) + 0.5
    z = 1 - 2 * index / count
    radius = np.sqrt(1 - z * z)
    angle = np.pi * (1 + 5**0.5) * index
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1).round(9)


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2])


def surface_starts(vertices: Array, normals: Array, triangles: Array) -> Array:
    """(V, 3) starts of rays: just above the surface and drawn off the edges it shares."""
    middles = vertices[triangles].mean(axis=1)
    count = np.maximum(np.bincount(triangles.ravel(), minlength=len(vertices)), 1)
    mean = np.empty_like(vertices)
    for axis in range(3):
        weights = np.repeat(middles[:, axis], 3)
        mean[:, axis] = np.bincount(triangles.ravel(), weights, len(vertices)) / count
    inwards = _INTO_FACE * (mean - vertices)
    along = inwards - _dot(inwards, normals)[:, None] * normals
    return np.asarray(vertices + along + _OFFSET * normals)


def _ambient(starts: Array, normals: Array, face_normals: Array, caster: Raycaster) -> Array:
    """(V,) 0..1: how open the space above each point is.

    Rays that leave the closed room or meet a surface from behind do not count.
    """
    ambient, total = np.zeros(len(starts)), np.full(len(starts), 1e-9)
    for direction in sphere_directions(_DIRECTIONS):
        cosine = _dot(normals, direction)
        rows = np.flatnonzero(cosine > 0.05)
        rays = np.broadcast_to(direction, (len(rows), 3))
        distance, triangle = caster.cast(starts[rows], rays)
        outside = (triangle >= 0) & (_dot(face_normals[triangle], direction) < 0)
        away = np.where(outside, np.minimum(distance / _REACH, 1.0), 0.0)
        ambient[rows] += cosine[rows] * away
        total[rows] += cosine[rows] * outside
    return np.asarray(ambient / total)


def _from_point(
    starts: Array, normals: Array, source: Array, caster: Raycaster
) -> tuple[Array, Array]:
    """Cosine-weighted light (V,) from a point, 0 in shadow, and the offsets (V, 3) to it."""
    to_light = source - starts
    square = _dot(to_light, to_light)
    distance = np.sqrt(square)
    cosine = _dot(normals, to_light) / np.maximum(distance, 1e-6)
    rows = np.flatnonzero(cosine > 0)
    shadow = caster.occluded(starts[rows], to_light[rows], 0.995)
    light = np.zeros(len(starts))
    light[rows] = cosine[rows] * ~shadow
    return light, to_light


def bake(
    starts: Array,
    normals: Array,
    face_normals: Array,
    caster: Raycaster,
    light: Light,
    from_room: Array,
) -> Array:
    """Light (V, 3) that reaches surface points ``starts`` with ``normals`` (V, 3)."""
    bounced = 1 + _BOUNCE * np.maximum(-normals[:, 2], 0)
    ambient = _ambient(starts, normals, face_normals, caster) * bounced
    total = ambient[:, None] * _AMBIENT
    for x, y in light.lamps:
        for dx, dy in ((-0.2, -0.1), (0.2, 0.1), (-0.1, 0.2), (0.1, -0.2)):
            source = _to_world(from_room, np.array([x + dx, y + dy, light.height - 0.08]))
            amount, offset = _from_point(starts, normals, source, caster)
            fall = 1 / (1 + _dot(offset, offset) / 12)
            total += (amount * fall / 4 / len(light.lamps) ** 0.5)[:, None] * _LAMP
    for point, inward in light.windows:
        source = _to_world(from_room, point)
        axis = _to_world(from_room, point + inward) - source
        amount, offset = _from_point(starts, normals, source, caster)
        square = _dot(offset, offset)
        beam = np.maximum(-_dot(offset, axis), 0) / np.sqrt(np.maximum(square, 1e-6))
        total += (amount * beam / (1 + square / 5) / 4)[:, None] * _WINDOW
    return np.asarray(total)


def _to_world(pose: Array, point: Array) -> Array:
    return np.asarray([_dot(pose[i, :3], point) + pose[i, 3] for i in range(3)])
