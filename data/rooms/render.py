"""Pictures of a room: ray casting finds the triangle, everything else is float64 arithmetic.

Open3D only says which triangle a pixel's ray meets; where exactly, in what light and of what
colour is computed here with basic arithmetic, so that pictures do not depend on how a ray
tracer rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.cameras import pixel_centers, unproject
from data.rooms.room import Mesh, Room
from data.types import Array, Camera

_KNEE = 0.78
_CHUNK = 16384


@dataclass(frozen=True, eq=False)
class Picture:
    """What one camera sees.

    ``image`` (H, W, 3) uint8 RGB; ``depth`` (H, W) float32 metres along z, 0 = nothing;
    ``object_ids`` (H, W) int32 positions in ``room.objects``, -1 = nothing.
    """

    image: Array
    depth: Array
    object_ids: Array


def tone(linear: Array) -> Array:
    """Light times albedo to uint8: straight, with a shoulder instead of clipping."""
    over = np.maximum(linear - _KNEE, 0)
    room = 1 - _KNEE
    soft = np.minimum(linear, _KNEE) + over * room / (over + room)
    return np.asarray((np.maximum(soft, 0) * 255 + 0.5).astype(np.uint8))


def shade(room: Room, points: Array, objects: Array, textures: Array, light: Array) -> Array:
    """Colours (n, 3) uint8 of world points (n, 3) of given object, texture and light (n, 3)."""
    frames = np.stack([(o.rotation[0, 0], o.rotation[1, 0], *o.translation) for o in room.objects])[
        objects
    ]
    cosine, sine = frames[:, 0], frames[:, 1]
    dx, dy = points[:, 0] - frames[:, 2], points[:, 1] - frames[:, 3]
    local = np.empty((len(points), 3))
    local[:, 0] = cosine * dx + sine * dy
    local[:, 1] = cosine * dy - sine * dx
    local[:, 2] = points[:, 2] - frames[:, 4]
    albedo = room.textures.albedo(textures, local)
    glow = room.textures.glow[textures][:, None]
    return tone(albedo * np.maximum(light, glow))


def vertex_colors(room: Room) -> Array:
    """(V, 3) uint8: what a camera would see at each vertex."""
    mesh = room.mesh
    return shade(room, mesh.vertices, mesh.vertex_objects, mesh.vertex_textures, mesh.light)


class Renderer:
    """Renders one room through one camera; what depends on no pose is computed once."""

    def __init__(self, room: Room, camera: Camera) -> None:
        self.room, self.camera = room, camera
        rays = unproject(camera, pixel_centers(camera.height, camera.width))
        self._usable = np.flatnonzero(np.isfinite(rays).all(axis=1))
        self._rays = rays[self._usable].round(7)
        self._faces = _face_table(room.mesh)
        self._objects = room.mesh.vertex_objects[room.mesh.triangles[:, 0]].astype(np.int32)
        self._textures = room.mesh.vertex_textures[room.mesh.triangles[:, 0]].astype(np.int32)

    def __call__(self, world_to_camera: Array) -> Picture:
        """The picture from a pose (4, 4), world to camera, OpenCV axes, metres."""
        rotation = world_to_camera[:3, :3]
        center = -_turned(rotation, world_to_camera[:3, 3][None])[0]
        directions = _turned(rotation, self._rays)
        _, triangle = self.room.caster.cast(center, directions)
        height, width = self.camera.height, self.camera.width
        image = np.zeros((height * width, 3), np.uint8)
        depth = np.zeros(height * width, np.float32)
        owners = np.full(height * width, -1, np.int32)
        for start in range(0, len(triangle), _CHUNK):
            faces = triangle[start : start + _CHUNK]
            hit = np.flatnonzero(faces >= 0)
            pixels = self._usable[start : start + _CHUNK][hit]
            rays = directions[start : start + _CHUNK][hit]
            colors, along = self._surface(center, rays, faces[hit])
            image[pixels], depth[pixels] = colors, along
            owners[pixels] = self._objects[faces[hit]]
        shape = (height, width)
        return Picture(image.reshape(*shape, 3), depth.reshape(shape), owners.reshape(shape))

    def _surface(self, center: Array, rays: Array, faces: Array) -> tuple[Array, Array]:
        """Colours (n, 3) and depths (n,) where rays meet faces, light blended over each face."""
        table = self._faces[faces]
        depth = table[:, 3] - (
            table[:, 0] * center[0] + table[:, 1] * center[1] + table[:, 2] * center[2]
        )
        along = table[:, 0] * rays[:, 0] + table[:, 1] * rays[:, 1] + table[:, 2] * rays[:, 2]
        depth = depth / np.where(np.abs(along) < 1e-12, 1e-12, along)
        points = center + depth[:, None] * rays
        x, y, z = points[:, 0], points[:, 1], points[:, 2]
        second = table[:, 4] * x + table[:, 5] * y + table[:, 6] * z + table[:, 7]
        third = table[:, 8] * x + table[:, 9] * y + table[:, 10] * z + table[:, 11]
        second, third = np.clip(second, 0, 1)[:, None], np.clip(third, 0, 1)[:, None]
        light = table[:, 12:15] + second * table[:, 15:18] + third * table[:, 18:21]
        objects, textures = self._objects[faces], self._textures[faces]
        return shade(self.room, points, objects, textures, light), depth


def _face_table(mesh: Mesh) -> Array:
    """(F, 21) per triangle: plane, planes of the second and third weight, light and slopes."""
    corners, light = mesh.vertices[mesh.triangles], mesh.light[mesh.triangles]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = np.cross(first, second)
    area = np.maximum((normal * normal).sum(axis=1), 1e-30)[:, None]
    to_second, to_third = np.cross(second, normal) / area, np.cross(normal, first) / area
    rows = [normal, (normal * corners[:, 0]).sum(axis=1)[:, None]]
    for slope in (to_second, to_third):
        rows += [slope, -(slope * corners[:, 0]).sum(axis=1)[:, None]]
    rows += [light[:, 0], light[:, 1] - light[:, 0], light[:, 2] - light[:, 0]]
    return np.concatenate(rows, axis=1)


def _turned(rotation: Array, rows: Array) -> Array:
    """``rows @ rotation`` for (n, 3) and (3, 3), without BLAS."""
    x, y, z = rows[:, :1], rows[:, 1:2], rows[:, 2:]
    return np.asarray(x * rotation[0] + y * rotation[1] + z * rotation[2])


def render_view(room: Room, camera: Camera, world_to_camera: Array) -> Picture:
    """One picture; for many through one camera keep a ``Renderer``."""
    return Renderer(room, camera)(world_to_camera)
