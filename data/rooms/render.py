"""Pictures of a room: ray casting finds the triangle, everything else is float64 arithmetic.

Open3D only says which triangle a pixel's ray meets; where exactly, in what light and of what
colour is computed here with basic arithmetic, so that pictures do not depend on how a ray
tracer rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.cameras import pixel_centers, unproject
from data.rooms.room import Room
from data.types import Array, Camera

_KNEE = 0.78


@dataclass(frozen=True, eq=False)
class Picture:
    """``image`` (H, W, 3) uint8 RGB; ``depth`` (H, W) float32 m along z, 0 = nothing;

    ``object_ids`` (H, W) int32: positions in ``room.objects``, -1 = nothing.
    """

    image: Array
    depth: Array
    object_ids: Array


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def tone(linear: Array) -> Array:
    """Light times albedo to uint8: straight, with a shoulder instead of clipping."""
    over = np.maximum(linear - _KNEE, 0)
    room = 1 - _KNEE
    soft = np.minimum(linear, _KNEE) + over * room / (over + room)
    return np.asarray((np.maximum(soft, 0) * 255 + 0.5).astype(np.uint8))


def shade(room: Room, points: Array, objects: Array, textures: Array, light: Array) -> Array:
    """Colours (n, 3) uint8 of world points (n, 3) of given object, texture and light (n, 3)."""
    rotations = np.stack([item.rotation for item in room.objects])
    centers = np.stack([item.translation for item in room.objects])
    away = points - centers[objects]
    turn = rotations[objects]
    local = np.stack([_dot(turn[:, :, axis], away) for axis in range(3)], axis=1)
    albedo = room.textures.albedo(textures, local)
    glow = room.textures.glow[textures][:, None]
    return tone(albedo * np.maximum(light, glow))


def vertex_colors(room: Room) -> Array:
    """(V, 3) uint8: what a camera would see at each vertex."""
    mesh = room.mesh
    return shade(room, mesh.vertices, mesh.vertex_objects, mesh.vertex_textures, mesh.light)


class Renderer:
    """Renders one room through one camera; what depends on neither pose is computed once."""

    def __init__(self, room: Room, camera: Camera) -> None:
        self.room, self.camera = room, camera
        rays = unproject(camera, pixel_centers(camera.height, camera.width))
        self._usable = np.flatnonzero(np.isfinite(rays).all(axis=1))
        self._rays = rays[self._usable].round(7)
        mesh = room.mesh
        corners = mesh.vertices[mesh.triangles]
        self._corner = corners[:, 0]
        first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        normal = np.cross(first, second)
        area = np.maximum(_dot(normal, normal), 1e-30)[:, None]
        self._normal = normal
        self._to_first = np.cross(second, normal) / area
        self._to_second = np.cross(normal, first) / area

    def __call__(self, world_to_camera: Array) -> Picture:
        """The picture from a pose (4, 4), world to camera, OpenCV axes, metres."""
        rotation = world_to_camera[:3, :3]
        center = -_columns(rotation, world_to_camera[:3, 3][None])[0]
        directions = _columns(rotation, self._rays)
        _, triangle = self.room.caster.cast(center, directions)
        hit = np.flatnonzero(triangle >= 0)
        rays, faces = directions[hit], triangle[hit]
        normal, corner = self._normal[faces], self._corner[faces]
        along = _dot(normal, rays)
        along = np.where(np.abs(along) < 1e-12, 1e-12, along)
        depth = _dot(normal, corner - center) / along
        points = center + depth[:, None] * rays
        colors, objects = self._surface(points, faces, points - corner)
        height, width = self.camera.height, self.camera.width
        pixels = self._usable[hit]
        image = np.zeros((height * width, 3), np.uint8)
        depths = np.zeros(height * width, np.float32)
        owners = np.full(height * width, -1, np.int32)
        image[pixels], depths[pixels], owners[pixels] = colors, depth, objects
        shape = (height, width)
        return Picture(image.reshape(*shape, 3), depths.reshape(shape), owners.reshape(shape))

    def _surface(self, points: Array, faces: Array, offsets: Array) -> tuple[Array, Array]:
        """Colours and owners of points on faces, light blended between the corners."""
        mesh = self.room.mesh
        second = np.clip(_dot(self._to_first[faces], offsets), 0, 1)
        third = np.clip(_dot(self._to_second[faces], offsets), 0, 1)
        first = np.maximum(1 - second - third, 0)
        corners = mesh.triangles[faces]
        light = (
            first[:, None] * mesh.light[corners[:, 0]]
            + second[:, None] * mesh.light[corners[:, 1]]
            + third[:, None] * mesh.light[corners[:, 2]]
        )
        objects = mesh.vertex_objects[corners[:, 0]]
        textures = mesh.vertex_textures[corners[:, 0]]
        return shade(self.room, points, objects, textures, light), objects


def _columns(rotation: Array, rows: Array) -> Array:
    """``rows @ rotation`` for (n, 3) and (3, 3), without BLAS."""
    x, y, z = rows[:, :1], rows[:, 1:2], rows[:, 2:]
    return np.asarray(x * rotation[0] + y * rotation[1] + z * rotation[2])


def render_view(room: Room, camera: Camera, world_to_camera: Array) -> Picture:
    """One picture; for many through one camera keep a ``Renderer``."""
    return Renderer(room, camera)(world_to_camera)
