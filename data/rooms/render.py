"""Render pictures of a room with its fisheye camera.

Open3D finds only the triangle that a pixel's ray hits. The hit point, its light and its colour
are computed here with basic arithmetic, so that pictures do not depend on the ray tracer's
rounding.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np

from data.compiled import compiled
from data.geometry.cameras import pixel_centers, unproject
from data.rooms import room as rooms
from data.rooms.room import Mesh, Room
from data.rooms.shapes import face_normals
from data.rooms.textures import TextureTable, albedo_at, material
from data.types import Array, Camera

_KNEE = 0.78
Vector = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Picture:
    """A rendered picture.

    ``image`` (H, W, 3) uint8 RGB; ``depth`` (H, W) float32 metres along z, 0 = no surface;
    ``object_ids`` (H, W) int32 indices into ``room.objects``, -1 = no surface.
    """

    image: Array
    depth: Array
    object_ids: Array

    def pixels_of(self, num_objects: int) -> Array:
        """Count the pixels of each object: (num_objects,)."""
        return np.bincount(self.object_ids[self.object_ids >= 0], minlength=num_objects)


@compiled
def _tone(linear: float) -> int:
    """Map light times albedo to 0..255: linear, with a soft shoulder instead of clipping."""
    over = max(linear - _KNEE, 0.0)
    room = 1 - _KNEE
    soft = min(linear, _KNEE) + over * room / (over + room)
    return int(max(soft, 0.0) * 255 + 0.5)


@compiled
def _color_at(
    frame: Array, table: Array, texture: int, point: Vector, light: Vector
) -> tuple[int, int, int]:
    """Compute the RGB of a world point from its object's row of ``_frames``, texture and light."""
    dx, dy = point[0] - frame[2], point[1] - frame[3]
    x, y = frame[0] * dx + frame[1] * dy, frame[0] * dy - frame[1] * dx
    red, green, blue = albedo_at(table, texture, x, y, point[2] - frame[4])
    glow = table[texture, 3]
    return (
        _tone(red * max(light[0], glow)),
        _tone(green * max(light[1], glow)),
        _tone(blue * max(light[2], glow)),
    )


@compiled
def _shade(
    frames: Array,
    table: Array,
    points: Array,
    objects: Array,
    textures: Array,
    light: Array,
    colors: Array,
) -> None:
    for i in range(len(points)):
        point = (points[i, 0], points[i, 1], points[i, 2])
        shine = (light[i, 0], light[i, 1], light[i, 2])
        colors[i, 0], colors[i, 1], colors[i, 2] = _color_at(
            frames[objects[i]], table, textures[i], point, shine
        )


def _frames(room: Room) -> Array:
    """Return (objects, 5): cosine, sine and origin of each object's frame."""
    rows = [(o.rotation[0, 0], o.rotation[1, 0], *o.translation) for o in room.objects]
    return np.array(rows)


def vertex_colors(room: Room) -> Array:
    """Compute the RGB (V, 3) uint8 of each vertex, as in a rendered picture."""
    mesh = room.mesh
    colors = np.empty((len(mesh.vertices), 3), np.uint8)
    which = (mesh.vertex_objects, mesh.vertex_textures, mesh.light)
    _shade(_frames(room), room.textures.rows, mesh.vertices, *which, colors)
    return colors


class Renderer:
    """Renders one room through one camera; all that is independent of the pose is kept."""

    def __init__(self, room: Room, camera: Camera) -> None:
        self.room = room
        self._aim(camera)
        self._faces = _face_table(room.mesh)
        self._frames = _frames(room)
        self._objects = room.mesh.vertex_objects[room.mesh.triangles[:, 0]].astype(np.int32)
        self._textures = room.mesh.vertex_textures[room.mesh.triangles[:, 0]].astype(np.int32)

    def __call__(self, world_to_camera: Array) -> Picture:
        """Render the picture from a pose (4, 4), world to camera, OpenCV axes, metres."""
        center, directions = self._world_rays(world_to_camera)
        _, triangles = self.room.caster.cast(center, directions)
        return self._paint(center, directions, triangles)

    def _aim(self, camera: Camera) -> None:
        self.camera = camera
        rays = unproject(camera, pixel_centers(camera.height, camera.width))
        self._usable = np.flatnonzero(np.isfinite(rays).all(axis=1))
        self._rays = rays[self._usable].round(7)

    def through(self, camera: Camera) -> Renderer:
        """Return a renderer of the same room through another camera."""
        other = copy(self)
        other._aim(camera)
        return other

    def shade(self, world_to_camera: Array, triangles: Array) -> Picture:
        """Render the picture of which the triangle that each pixel shows is known already.

        ``triangles`` (H * W,) are in the order of the pixels, -1 for none; the camera is a pinhole.
        """
        return self._paint(*self._world_rays(world_to_camera), triangles)

    def _world_rays(self, world_to_camera: Array) -> tuple[Array, Array]:
        """Return the camera's centre (3,) and the directions (n, 3) of its rays, in the world."""
        rotation = world_to_camera[:3, :3]
        center = -_turned(rotation, world_to_camera[:3, 3][None])[0]
        return center, _turned(rotation, self._rays)

    def _paint(self, center: Array, directions: Array, triangles: Array) -> Picture:
        height, width = self.camera.height, self.camera.width
        image = np.zeros((height * width, 3), np.uint8)
        depth = np.zeros(height * width, np.float32)
        owners = np.full(height * width, -1, np.int32)
        _paint(
            (center[0], center[1], center[2]),
            (self._usable, directions, triangles),
            (self._faces, self._objects, self._textures),
            (self._frames, self.room.textures.rows),
            (image, depth, owners),
        )
        shape = (height, width)
        return Picture(image.reshape(*shape, 3), depth.reshape(shape), owners.reshape(shape))


@compiled
def _paint(
    center: Vector,
    rays: tuple[Array, Array, Array],
    faces: tuple[Array, Array, Array],
    materials: tuple[Array, Array],
    picture: tuple[Array, Array, Array],
) -> None:
    """Fill colour, depth and object of each ray's pixel; light is interpolated over each face.

    ``rays`` are pixels (n,), directions (n, 3) and triangles (n,); ``faces`` are the table of
    ``_face_table`` and the triangles' objects and textures; ``materials`` are ``_frames`` and the
    rows of textures; ``picture`` are the arrays to fill, indexed by pixel.
    """
    pixels, directions, triangles = rays
    for i in range(len(triangles)):
        face = triangles[i]
        if face < 0:
            continue
        row = faces[0][face]
        dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
        depth = row[3] - (row[0] * center[0] + row[1] * center[1] + row[2] * center[2])
        along = row[0] * dx + row[1] * dy + row[2] * dz
        depth = depth / (1e-12 if abs(along) < 1e-12 else along)
        x, y, z = center[0] + depth * dx, center[1] + depth * dy, center[2] + depth * dz
        second = min(max(row[4] * x + row[5] * y + row[6] * z + row[7], 0.0), 1.0)
        third = min(max(row[8] * x + row[9] * y + row[10] * z + row[11], 0.0), 1.0)
        light = (
            row[12] + second * row[15] + third * row[18],
            row[13] + second * row[16] + third * row[19],
            row[14] + second * row[17] + third * row[20],
        )
        owner, pixel = faces[1][face], pixels[i]
        picture[0][pixel, 0], picture[0][pixel, 1], picture[0][pixel, 2] = _color_at(
            materials[0][owner], materials[1], faces[2][face], (x, y, z), light
        )
        picture[1][pixel], picture[2][pixel] = depth, owner


def _face_table(mesh: Mesh) -> Array:
    """Return (F, 21): a triangle's plane, planes of its second and third barycentric weight, light.

    The light is the first corner's RGB and its differences to the other two corners.
    """
    corners, light = mesh.vertices[mesh.triangles], mesh.light[mesh.triangles]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    normal = face_normals(corners)
    area = np.maximum((normal * normal).sum(axis=1), 1e-30)[:, None]
    to_second, to_third = np.cross(second, normal) / area, np.cross(normal, first) / area
    rows = [normal, (normal * corners[:, 0]).sum(axis=1)[:, None]]
    for slope in (to_second, to_third):
        rows += [slope, -(slope * corners[:, 0]).sum(axis=1)[:, None]]
    rows += [light[:, 0], light[:, 1] - light[:, 0], light[:, 2] - light[:, 0]]
    return np.concatenate(rows, axis=1)


def _turned(rotation: Array, rows: Array) -> Array:
    """Compute ``rows @ rotation`` for (n, 3) and (3, 3) without BLAS: equal bits everywhere."""
    x, y, z = rows[:, :1], rows[:, 1:2], rows[:, 2:]
    return np.asarray(x * rotation[0] + y * rotation[1] + z * rotation[2])


def warm() -> None:
    """Load the compiled loops of rooms, or compile them; cast no ray and start no thread."""
    rooms.warm()
    numbers, point = np.zeros(1, np.int64), np.zeros((1, 3))
    frames, rows = np.ones((1, 5)), TextureTable([material("red")]).rows
    _shade(frames, rows, point, numbers, numbers, point, np.empty((1, 3), np.uint8))
    short, missed = numbers.astype(np.int32), np.full(1, -1, np.int64)
    picture = np.empty((1, 3), np.uint8), np.empty(1, np.float32), np.empty(1, np.int32)
    faces = np.ones((1, 21)), short, short
    _paint((0.0, 0.0, 0.0), (numbers, point, missed), faces, (frames, rows), picture)


def fisheye_camera(height: int, width: int, seed: tuple[int, ...]) -> Camera:
    """Make a room's fisheye camera: about 115 degrees wide, with slightly random parameters."""
    rng = np.random.default_rng([*seed, 4])
    focal = 0.495 * width * float(rng.uniform(0.98, 1.02))
    offset = rng.uniform(-0.008, 0.008, size=2)
    fx, fy = round(focal, 4), round(focal * float(rng.uniform(0.998, 1.002)), 4)
    cx, cy = width * (0.5 + offset[0]), height * (0.5 + offset[1])
    K = np.array([[fx, 0, round(cx, 4)], [0, fy, round(cy, 4)], [0, 0, 1.0]])
    bend = rng.uniform(0.9, 1.1, size=4)
    lens = tuple(round(float(k * b), 7) for k, b in zip((-0.03, 0.004, -0.002, 0.0004), bend))
    return Camera("OPENCV_FISHEYE", K, height, width, lens)


def anonymisation_mask(height: int, width: int, view: int) -> Array:
    """Make an anonymisation mask (H, W) uint8, 255 = valid; one view in eight has a patch of 0."""
    mask = np.full((height, width), 255, np.uint8)
    if view % 8 == 5:
        mask[height - height // 12 :, 2 * width // 5 : 3 * width // 5] = 0
    return mask
