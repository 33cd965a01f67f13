"""Scan a room: choose camera poses that see every object, weld the mesh, and group objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.rooms.catalog import LABELS
from data.rooms.layout import free_floor
from data.rooms.render import vertex_colors
from data.rooms.room import Room, apply
from data.types import Array

_WALL_DISTANCE = 0.45
_CLEARANCE = 0.3
_POSITIONS = 64
_SAMPLES = 16
_TAN_ACROSS, _TAN_UP = 1.15, 0.75
_GOOD_DISTANCE = 2.5
_SAME_PLACE = 1.6


def look_at(eyes: Array, targets: Array) -> Array:
    """Return world_to_camera (C, 4, 4), OpenCV axes, of upright cameras at ``eyes`` (C, 3).

    Each camera looks at its target (C, 3).
    """
    forward = _unit(targets - eyes)
    level = np.stack([forward[:, 1], -forward[:, 0], np.zeros(len(forward))], axis=1)
    right = _unit(level)
    down = np.stack(
        [
            forward[:, 1] * right[:, 2] - forward[:, 2] * right[:, 1],
            forward[:, 2] * right[:, 0] - forward[:, 0] * right[:, 2],
            forward[:, 0] * right[:, 1] - forward[:, 1] * right[:, 0],
        ],
        axis=1,
    )
    poses = np.tile(np.eye(4), (len(eyes), 1, 1))
    for row, axis in enumerate((right, down, forward)):
        poses[:, row, :3] = axis
        along = axis[:, 0] * eyes[:, 0] + axis[:, 1] * eyes[:, 1] + axis[:, 2] * eyes[:, 2]
        poses[:, row, 3] = -along
    return poses


def _unit(v: Array) -> Array:
    x, y, z = v[:, :1], v[:, 1:2], v[:, 2:]
    return np.asarray(v / np.sqrt(x * x + y * y + z * z))


def _positions(room: Room, rng: np.random.Generator) -> Array:
    """Draw camera positions (P, 3) in the world, in free space."""
    floor = free_floor(room.size, room.placed, rng, _POSITIONS, _CLEARANCE, _WALL_DISTANCE)
    heights = rng.uniform(1.2, 1.8, size=(len(floor), 1)).round(3)
    return apply(room.from_room, np.concatenate([floor, heights], axis=1))


def _samples(room: Room, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draw points (S, 3) on the furniture; return them and each point's object (S,)."""
    points: list[Array] = []
    owners: list[Array] = []
    for index, item in enumerate(room.objects):
        rows = np.flatnonzero(room.mesh.vertex_objects == index)
        if item.label not in LABELS or len(rows) == 0:
            continue
        chosen = rows[rng.integers(len(rows), size=_SAMPLES)]
        points.append(room.mesh.vertices[chosen] + 0.01 * room.mesh.normals[chosen])
        owners.append(np.full(_SAMPLES, len(owners)))
    return np.concatenate(points), np.concatenate(owners)


def _seen(room: Room, positions: Array, points: Array) -> Array:
    """(P, S) bool: a point is visible from a position."""
    starts = np.repeat(positions, len(points), axis=0)
    rays = np.tile(points, (len(positions), 1)) - starts
    hidden = room.caster.occluded(starts, rays, 1.0)
    return ~hidden.reshape(len(positions), len(points))


def _in_view(poses: Array, points: Array) -> Array:
    """(C, S) bool: a point is inside the central part of a camera's picture."""
    frame = [
        poses[:, row, 0, None] * points[:, 0]
        + poses[:, row, 1, None] * points[:, 1]
        + poses[:, row, 2, None] * points[:, 2]
        + poses[:, row, 3, None]
        for row in range(3)
    ]
    x, y, z = frame
    return np.asarray((z > 0.2) & (np.abs(x) < _TAN_ACROSS * z) & (np.abs(y) < _TAN_UP * z))


def choose_poses(room: Room, count: int) -> list[Array]:
    """Choose ``count`` poses (4, 4) world_to_camera greedily: each sees the least seen objects."""
    rng = np.random.default_rng([*room.seed, 2])
    positions = _positions(room, rng)
    points, owners = _samples(room, rng)
    num_objects = int(owners[-1]) + 1
    visible = _seen(room, positions, points)
    stands = np.repeat(np.arange(len(positions)), num_objects)
    targets = np.stack([points[owners == k].mean(axis=0) for k in range(num_objects)])
    aims = np.tile(targets, (len(positions), 1))
    aims = aims + rng.uniform(-0.6, 0.6, size=aims.shape).round(3) * [1, 1, 0.4]
    is_far = ((aims - positions[stands])[:, :2] ** 2).sum(axis=1) > 0.25
    stands, aims = stands[is_far], aims[is_far]
    poses = look_at(positions[stands], aims)
    in_view = _in_view(poses, points) & visible[stands]
    square_distances = ((points[None] - positions[:, None]) ** 2).sum(axis=2)
    nearness = np.minimum(1.0, _GOOD_DISTANCE / np.sqrt(np.maximum(square_distances, 1e-6)))
    worth = (in_view * nearness[stands]).reshape(len(poses), num_objects, _SAMPLES).mean(axis=2)
    worth[worth < 0.1] = 0
    seen_so_far, similarity = np.zeros(num_objects), np.zeros(len(poses))
    chosen = []
    for _ in range(count):
        gain = (worth / (0.3 + seen_so_far)).sum(axis=1) / (1 + 3 * similarity)
        best = int(np.argmax(gain.round(9)))
        seen_so_far += worth[best]
        similarity += _alike(positions[stands], poses, best)
        chosen.append(poses[best])
    return chosen


def _alike(eyes: Array, poses: Array, chosen: int) -> Array:
    """(C,) in 0..1: similarity of each candidate to candidate ``one``, in place and direction."""
    offset = eyes - eyes[chosen]
    distance = np.sqrt(offset[:, 0] ** 2 + offset[:, 1] ** 2)
    forward = poses[:, 2, :3]
    cosine = (forward * forward[chosen]).sum(axis=1)
    return np.asarray(np.maximum(1 - distance / _SAME_PLACE, 0) * np.maximum(cosine, 0))


@dataclass(frozen=True, eq=False)
class Group:
    """An annotation group: the vertices of one object.

    ``index`` is the object's index in ``room.objects``; ``group_id`` and ``object_id`` are
    ScanNet++'s ``id`` and ``objectId``, which differ; ``vertex_ids`` (n,) are sorted. ``centroid``
    (3,), ``lengths`` (3,) (full sizes) and ``axes`` (3, 3) (columns) are the box in the world.
    """

    index: int
    label: str
    group_id: int
    object_id: int
    vertex_ids: Array
    centroid: Array
    lengths: Array
    axes: Array


@dataclass(frozen=True, eq=False)
class RoomScan:
    """A scanned room: ``vertices`` (V, 3) float32 m, ``colors`` (V, 3) uint8, ``triangles`` (F, 3).

    Triangles are int32. ``groups`` are in file order; ``owners`` (V,) is the index of each
    vertex's object in ``room.objects``, -1 for a vertex that belongs to none.
    """

    vertices: Array
    colors: Array
    triangles: Array
    owners: Array
    groups: tuple[Group, ...]


def scan_room(room: Room) -> RoomScan:
    """Weld the vertices of each object and make the annotation groups.

    A pillow belongs to its own group and to that of the object it lies on. Group order, ``id``
    and ``objectId`` are three different numberings, so that a confusion of them is detected.
    """
    mesh, colors = room.mesh, vertex_colors(room)
    key = (mesh.vertices * 1e5).round().astype(np.int64)
    order = np.lexsort((key[:, 2], key[:, 1], key[:, 0], mesh.vertex_objects))
    sorted_key = np.concatenate([mesh.vertex_objects[order, None], key[order]], axis=1)
    is_new = np.ones(len(order), bool)
    is_new[1:] = (sorted_key[1:] != sorted_key[:-1]).any(axis=1)
    label = np.empty(len(order), np.int64)
    label[order] = np.cumsum(is_new) - 1
    first = order[is_new]
    counts = np.bincount(label)
    mean = np.stack([np.bincount(label, colors[:, c]) / counts for c in range(3)], axis=1)
    triangles = label[mesh.triangles]
    solid = (triangles != np.roll(triangles, 1, axis=1)).all(axis=1)
    owners = mesh.vertex_objects[first]
    vertices = mesh.vertices[first].astype(np.float32)
    groups = annotation_groups(room, owners)
    return RoomScan(
        vertices,
        (mean + 0.5).astype(np.uint8),
        triangles[solid].astype(np.int32),
        owners,
        groups,
    )


def annotation_groups(room: Room, owners: Array) -> tuple[Group, ...]:
    """Make a group for each object from the object of each vertex, ``owners`` (V,)."""
    rng = np.random.default_rng([*room.seed, 3])
    count = len(room.objects)
    order = rng.permutation(count)
    shift = int(rng.integers(2, max(3, count - 2)))
    groups = []
    for position, index in enumerate(int(value) for value in order):
        item = room.objects[index]
        members = [index]
        members += [
            other
            for other, thing in enumerate(room.objects)
            if thing.support == index and thing.label == "pillow"
        ]
        middle, half = (item.low + item.high) / 2, (item.high - item.low) / 2
        centroid = item.translation + (item.rotation * middle).sum(axis=1)
        groups.append(
            Group(
                index,
                item.label,
                (position + 1) % count + 1,
                (position + shift) % count + 1,
                np.flatnonzero(np.isin(owners, members)),
                centroid,
                2 * half,
                item.rotation,
            )
        )
    return tuple(groups)
