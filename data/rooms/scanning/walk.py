"""Walk through a room with a hand-held camera: its true poses, and those it is believed to have.

The camera stops at the poses of the pictures and looks about from there and from places near by,
each time at what it has seen least. Tracking drifts meanwhile: the believed poses, which files
hold and by which depth is fused, leave the true ones by a random walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.rooms.catalog import STRUCTURE
from data.rooms.room import Room, apply
from data.types import Array, Camera

_POINTS = 1000
_NEAR_BY = 2
_ASIDE, _CLEAR = 0.5, 0.15
_HEIGHTS = (0.9, 1.75)
_YAWS, _PITCHES = 12, (-50.0, -22.0, 6.0, 34.0)
_WORTH = {"floor": 0.5, "wall": 0.5, "ceiling": 0.2}
_WORN = 0.4  # Worth of a point that was seen once more.
_STEEPEST = np.cos(np.deg2rad(80))
_TURN_COST = 0.5  # Metres of way that a turn by one radian is worth.
FASTEST, FASTEST_TURN = 0.5, float(np.deg2rad(40))
"""Metres and radians a second; poses follow each other in seconds."""


@dataclass(frozen=True, eq=False)
class Walk:
    """The poses of a walk in the order of time, world_to_camera, OpenCV axes, metres.

    ``true`` and ``believed`` are (n, 4, 4); ``pictures`` (p,) are the poses at which pictures were
    taken, ``depth`` (d,) those at which depth was measured, both ascending.
    """

    true: Array
    believed: Array
    pictures: Array
    depth: Array

    def motion(self, index: int) -> Array:
        """Return how points move in the camera's frame at a pose, a second: (2, 3) float64.

        The first row is the rotation vector in radians, the second the translation in metres.
        """
        before, after = max(index - 1, 0), min(index + 1, len(self.true) - 1)
        if before == after:
            return np.zeros((2, 3))
        first, last = self.true[before], self.true[after]
        turn = rotation_vector(last[:3, :3] @ first[:3, :3].T) / (after - before)
        path = (center(last) - center(first)) / (after - before)
        turn = turn * min(1.0, FASTEST_TURN / max(float(np.linalg.norm(turn)), 1e-9))
        path = path * min(1.0, FASTEST / max(float(np.linalg.norm(path)), 1e-9))
        return np.stack([turn, -self.true[index][:3, :3] @ path])


def take_walk(
    room: Room,
    pictures: Sequence[Array],
    camera: Camera,
    reach: tuple[float, float],
    views: int,
    drift: tuple[float, float],
) -> Walk:
    """Walk through a room past the poses of its pictures, each (4, 4).

    ``camera`` is the depth camera, which measures from ``reach[0]`` to ``reach[1]`` metres at
    ``views`` poses: at those of the pictures, and where these are fewer at further ones. ``drift``
    is the root mean square of the believed poses' error, in metres and in degrees.
    """
    rng = np.random.default_rng([*room.seed, 8])
    further = _further_poses(room, pictures, camera, reach, views - len(pictures), rng)
    poses = np.stack([*pictures, *further])
    order = tour(poses)
    true = poses[order]
    is_picture = np.flatnonzero(order < len(pictures))
    depth = np.arange(len(true))
    if views < len(true):
        depth = np.unique(np.linspace(0, len(true) - 1, views).round().astype(int))
    return Walk(true, drifted(true, *drift, rng), is_picture, depth)


def center(pose: Array) -> Array:
    """Return the position (3,) of a camera, metres."""
    return np.asarray(-pose[:3, :3].T @ pose[:3, 3])


def rotation_vector(rotation: Array) -> Array:
    """Return axis times angle (3,), radians, of a rotation (3, 3) by less than 180 degrees."""
    r = rotation
    twice = np.array([r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    sine, cosine = np.linalg.norm(twice) / 2, (np.trace(r) - 1) / 2
    if sine < 1e-9:
        return np.zeros(3)
    return np.asarray(twice / 2 / sine * np.arctan2(sine, cosine))


def rotation_matrix(vector: Array) -> Array:
    """Return the rotation (3, 3) of a rotation vector (3,), radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def random_walk(steps: int, columns: int, rng: np.random.Generator) -> Array:
    """Draw a random walk (steps, columns) with mean 0 whose expected mean square is 1 a column.

    A walk of n unit steps less its mean has the expected mean square (n^2 - 1) / (6 n).
    """
    walk = np.cumsum(rng.standard_normal((steps, columns)), axis=0)
    if steps < 2:
        return np.zeros((steps, columns))
    return np.asarray((walk - walk.mean(axis=0)) / np.sqrt((steps**2 - 1) / (6 * steps)))


def drifted(true: Array, metres: float, degrees: float, rng: np.random.Generator) -> Array:
    """Move poses (n, 4, 4) by a random walk of their positions and one of their directions.

    The root mean square of the distances between true and drifted positions is ``metres`` on
    average, that of the angles ``degrees``.
    """
    shifts, turns = np.split(random_walk(len(true), 6, rng) / np.sqrt(3), 2, axis=1)
    believed = np.tile(np.eye(4), (len(true), 1, 1))
    for pose, moved, shift, turn in zip(true, believed, shifts, turns):
        moved[:3, :3] = rotation_matrix(np.deg2rad(degrees) * turn) @ pose[:3, :3]
        moved[:3, 3] = -moved[:3, :3] @ (center(pose) + metres * shift)
    return believed


def tour(poses: Array) -> Array:
    """Order poses (n, 4, 4) as a way of short steps and turns from the first: indices (n,)."""
    eyes = np.stack([center(pose) for pose in poses])
    ahead = poses[:, 2, :3]
    order, is_left = [0], np.ones(len(poses), bool)
    is_left[0] = False
    while is_left.any():
        last = order[-1]
        way = np.sqrt(((eyes - eyes[last]) ** 2).sum(axis=1))
        turn = np.arccos(np.clip((ahead * ahead[last]).sum(axis=1), -1, 1))
        cost = np.where(is_left, way + _TURN_COST * turn, np.inf)
        order.append(int(np.argmin(cost.round(9))))
        is_left[order[-1]] = False
    return np.array(order)


def _further_poses(
    room: Room,
    pictures: Sequence[Array],
    camera: Camera,
    reach: tuple[float, float],
    count: int,
    rng: np.random.Generator,
) -> list[Array]:
    """Choose ``count`` poses near those of the pictures; each sees what is seen least so far."""
    if count <= 0:
        return []
    eyes = np.stack([center(pose) for pose in pictures])
    stands = _stands(room, eyes, rng)
    points, normals, worth = _points(room, rng)
    visible = _visible(room, stands, points, normals, reach)
    candidates, sees = [], []
    for stand, is_visible in zip(stands, visible):
        poses = _directions(stand, rng)
        candidates.append(poses)
        sees.append(_in_view(poses, points, camera) & is_visible)
    # The stands begin with the places of the pictures.
    seen = _in_view(np.stack(pictures), points, camera) & visible[: len(eyes)]
    poses, in_view = np.concatenate(candidates), np.concatenate(sees).T.copy()  # (S, C)
    worth = worth * _WORN ** seen.sum(axis=0)
    gain = _sum(in_view, worth)
    chosen: list[Array] = []
    while len(chosen) < count:
        best = int(np.argmax(gain.round(6)))
        chosen.append(poses[best])
        newly = np.flatnonzero(in_view[:, best])
        gain -= _sum(in_view[newly], (1 - _WORN) * worth[newly])
        worth[newly] *= _WORN
        gain[best] = -np.inf
    return chosen


def _sum(in_view: Array, worth: Array) -> Array:
    """Add the worth (S,) of the points in view, (S, C) bool, of each candidate, without BLAS."""
    total = np.zeros(in_view.shape[1])
    for row, value in zip(in_view, worth.tolist()):
        total[row] += value
    return total


def _stands(room: Room, eyes: Array, rng: np.random.Generator) -> Array:
    """Return ``eyes`` (p, 3) and free positions near them, (s, 3) in the world."""
    to_room = np.linalg.inv(room.from_room)
    near = np.repeat(apply(to_room, eyes), _NEAR_BY, axis=0)
    near[:, :2] += rng.uniform(-_ASIDE, _ASIDE, size=(len(near), 2))
    near[:, 2] = rng.uniform(*_HEIGHTS, size=len(near))
    width, depth, _ = room.size
    is_free = (near[:, 0] > _CLEAR) & (near[:, 0] < width - _CLEAR)
    is_free &= (near[:, 1] > _CLEAR) & (near[:, 1] < depth - _CLEAR)
    for item in room.placed:
        body = item.body.grown(_CLEAR)
        is_free &= ~(
            body.holds(near[:, 0], near[:, 1])
            & (near[:, 2] > body.z0 - _CLEAR)
            & (near[:, 2] < body.z1 + _CLEAR)
        )
    return np.concatenate([eyes, apply(room.from_room, near[is_free])])


def _points(room: Room, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Draw points (S, 3) of the surface, their normals (S, 3), and what seeing them is worth."""
    mesh = room.mesh
    rows = rng.integers(len(mesh.vertices), size=_POINTS)
    labels = [item.label for item in room.objects]
    worth = np.array([_WORTH[label] if label in STRUCTURE else 1.0 for label in labels])
    points = mesh.vertices[rows] + 0.01 * mesh.normals[rows]
    return points, mesh.normals[rows], worth[mesh.vertex_objects[rows]]


def _visible(
    room: Room, stands: Array, points: Array, normals: Array, reach: tuple[float, float]
) -> Array:
    """(P, S) bool: a sensor at a stand can measure a point, if it looks there."""
    offsets = points[None] - stands[:, None]
    distance = np.sqrt((offsets * offsets).sum(axis=2))
    is_facing = -(offsets * normals).sum(axis=2) > _STEEPEST * distance
    within = (distance > reach[0]) & (distance < reach[1])
    starts = np.repeat(stands, len(points), axis=0)
    is_hidden = room.caster.occluded(starts, offsets.reshape(-1, 3), 1.0)
    return np.asarray(is_facing & within & ~is_hidden.reshape(distance.shape))


def _directions(stand: Array, rng: np.random.Generator) -> Array:
    """Return poses (n, 4, 4) at a stand (3,) that look all around, up and down."""
    yaw = np.tile(rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(_YAWS) / _YAWS, len(_PITCHES))
    pitch = np.repeat(np.deg2rad(_PITCHES), _YAWS)
    cosine, sine, up = np.cos(yaw), np.sin(yaw), np.sin(pitch)
    flat, level = np.cos(pitch), np.zeros(len(yaw))
    poses = np.tile(np.eye(4), (len(yaw), 1, 1))
    poses[:, 0, :3] = np.stack([sine, -cosine, level], axis=1)
    poses[:, 1, :3] = np.stack([up * cosine, up * sine, -flat], axis=1)
    poses[:, 2, :3] = np.stack([flat * cosine, flat * sine, up], axis=1)
    poses[:, :3, 3] = -(poses[:, :3, :3] @ stand)
    return poses


def _in_view(poses: Array, points: Array, camera: Camera) -> Array:
    """(C, S) bool: a point falls into the image of a pinhole camera at a pose."""
    x, y, z = (
        poses[:, row, 0, None] * points[:, 0]
        + poses[:, row, 1, None] * points[:, 1]
        + poses[:, row, 2, None] * points[:, 2]
        + poses[:, row, 3, None]
        for row in range(3)
    )
    K = camera.K
    u, v = K[0, 0] * x + K[0, 2] * z, K[1, 1] * y + K[1, 2] * z
    inside = (u > 0) & (u < camera.width * z) & (v > 0) & (v < camera.height * z)
    return np.asarray((z > 0) & inside)
