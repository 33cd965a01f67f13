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
_AMBIENT = np.array([0.50, 0.50, 0.51])
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


def _openness(
    starts: Array, normals: Array, face_normals: Array, caster: Raycaster
) -> tuple[Array, Array]:
    """Ambient light (V,) 0..1, and the share (V,) of rays that meet a front side.

    Rays that leave the closed room or meet a surface from behind start inside something.
    """
    ambient, total = np.zeros(len(starts)), np.zeros(len(starts))
    front, count = np.zeros(len(starts)), np.zeros(len(starts))
    for direction in sphere_directions(_DIRECTIONS):
        cosine = _dot(normals, direction)
        rows = np.flatnonzero(cosine > 0.05)
        rays = np.broadcast_to(direction, (len(rows), 3))
        distance, triangle = caster.cast(starts[rows], rays)
        outside = (triangle >= 0) & (_dot(face_normals[triangle], direction) < 0)
        away = np.where(outside, np.minimum(distance / _REACH, 1.0), 0.0)
        ambient[rows] += cosine[rows] * away
        total[rows] += cosine[rows]
        front[rows] += outside & (distance > 0.01)
        count[rows] += 1
    return ambient / np.maximum(total, 1e-9), front / np.maximum(count, 1)


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
    vertices: Array,
    normals: Array,
    triangles: Array,
    caster: Raycaster,
    light: Light,
    from_room: Array,
) -> tuple[Array, Array]:
    """Light (V, 3) reaching each vertex and its openness (V,): 0 where nothing can see it."""
    corners = vertices[triangles]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    face_normals = np.cross(first, second)
    starts = vertices + _OFFSET * normals
    ambient, openness = _openness(starts, normals, face_normals, caster)
    total = ambient[:, None] * _AMBIENT
    lit = np.flatnonzero(openness > 0)
    where, facing = starts[lit], normals[lit]
    for x, y in light.lamps:
        for dx, dy in ((-0.2, -0.1), (0.2, 0.1), (-0.1, 0.2), (0.1, -0.2)):
            source = _to_world(from_room, np.array([x + dx, y + dy, light.height - 0.08]))
            amount, offset = _from_point(where, facing, source, caster)
            fall = 1 / (1 + _dot(offset, offset) / 12)
            total[lit] += (amount * fall / 4 / len(light.lamps) ** 0.5)[:, None] * _LAMP
    for point, inward in light.windows:
        source = _to_world(from_room, point)
        axis = _to_world(from_room, point + inward) - source
        amount, offset = _from_point(where, facing, source, caster)
        square = _dot(offset, offset)
        beam = np.maximum(-_dot(offset, axis), 0) / np.sqrt(np.maximum(square, 1e-6))
        strength = amount * beam / (1 + square / 5) / 4
        total[lit] += strength[:, None] * _WINDOW
    return total, openness


def _to_world(pose: Array, point: Array) -> Array:
    return np.asarray([_dot(pose[i, :3], point) + pose[i, 3] for i in range(3)])
