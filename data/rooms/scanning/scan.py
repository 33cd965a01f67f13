"""Scan a room: walk, measure depth, fuse it into one mesh, and find out what the scan holds.

The mesh has holes where nobody looked or the sensor failed, and joins objects that touch. Truth
stays exact: a vertex belongs to the object whose true surface is nearest, if that is within 6 cm,
and else to none; the drift of the poses is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.errors import UserError
from data.geometry.depth_fusion import DepthFrame, fuse_depth
from data.rooms.queries import Fact
from data.rooms.render import Renderer
from data.rooms.room import Room
from data.rooms.scan import RoomScan, annotation_groups
from data.rooms.scanning.photographs import exposures
from data.rooms.scanning.sensors import SENSORS, angles_of_incidence, measure
from data.rooms.scanning.surface import (
    SAME_SURFACE,
    covered_shares,
    nearest_surface,
    surface_errors,
)
from data.rooms.scanning.walk import Walk, take_walk
from data.types import Array, Camera, SurfaceTruth

_COLOR_STRIDE = 2
_LEAST_VERTICES = 30
_LEAST_COVERED = 0.3


@dataclass(frozen=True)
class Scanning:
    """How a room is scanned.

    ``sensor`` is a key of ``SENSORS``; ``views`` is the number of depth images; ``drift`` is the
    root mean square of the poses' error, in metres and degrees; ``clutter`` is the usual number of
    small things in the room; ``voxel`` (metres) is that of depth fusion.
    """

    sensor: str = "kinect"
    views: int = 60
    drift: tuple[float, float] = (0.008, 0.3)
    clutter: int = 40
    voxel: float = 0.03


@dataclass(frozen=True, eq=False)
class ScannedRoom:
    """A room's scan: ``surface`` is what it holds of the true surface.

    ``is_held`` (objects,) bool tells of which objects the scan holds enough to ask for them.
    """

    scan: RoomScan
    surface: SurfaceTruth
    is_held: Array


def walk_through(room: Room, pictures: Sequence[Array], scanning: Scanning) -> Walk:
    """Walk through a room past the poses of its pictures, each world_to_camera (4, 4)."""
    sensor = SENSORS[scanning.sensor]
    reach = sensor.near, sensor.far
    return take_walk(room, pictures, sensor.camera, reach, scanning.views, scanning.drift)


def channel_gains(room: Room, walk: Walk) -> Array:
    """Return the gains (n, 3) of RGB at the poses of a walk, for pictures and colour frames."""
    return exposures(len(walk.true), np.random.default_rng([*room.seed, 9]))


def scan_walk(render: Renderer, walk: Walk, scanning: Scanning) -> ScannedRoom:
    """Fuse the depth of a walk to a mesh and give each vertex its true object.

    ``render`` is a renderer of the room through any camera. Raises UserError for a scan without
    any surface.
    """
    room = render.room
    mesh = fuse_depth(depth_frames(render, walk, scanning.sensor), scanning.voxel)
    if not len(mesh.triangles):
        raise UserError(
            f"generate: a scan of {len(walk.depth)} depth images holds no surface. Raise "
            "generate.scan_views, or lower generate.voxel."
        )
    near = nearest_surface(mesh.points, room.mesh, SAME_SURFACE)
    shares = covered_shares(mesh.points, room.mesh, len(room.objects))
    errors = surface_errors(mesh.points, near, room.mesh)
    median, ninetieth = np.percentile(errors, (50, 90)).tolist()
    groups = annotation_groups(room, near.owner)
    scan = RoomScan(
        mesh.points,
        mesh.colors,
        mesh.triangles,
        near.owner,
        tuple(group for group in groups if len(group.vertex_ids)),
    )
    counts = np.bincount(near.owner[near.owner >= 0], minlength=len(room.objects))
    is_held = (counts >= _LEAST_VERTICES) & (shares[:-1] >= _LEAST_COVERED)
    return ScannedRoom(scan, SurfaceTruth(float(shares[-1]), median, ninetieth), is_held)


def depth_frames(render: Renderer, walk: Walk, sensor_name: str) -> Iterator[DepthFrame]:
    """Measure depth at the true poses of a walk; the frames have the believed ones."""
    room, sensor = render.room, SENSORS[sensor_name]
    camera, gains = sensor.camera, channel_gains(room, walk)
    colored = render.through(_color_camera(camera))
    corners = room.mesh.vertices[room.mesh.triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for index in walk.depth.tolist():
        pose = walk.true[index]
        depth, ids = room.caster.render(camera, pose)
        angle = _angles(camera, pose, depth, ids, normals)
        rng = np.random.default_rng([*room.seed, 10, index])
        measured = measure(sensor, depth, angle, rng)
        seen = np.ascontiguousarray(ids[::_COLOR_STRIDE, ::_COLOR_STRIDE])
        image = colored.shade(pose, seen.ravel()).image
        table = np.clip(np.arange(256)[:, None] * gains[index] + 0.5, 0, 255).astype(np.uint8)
        color = np.stack([table[image[..., k], k] for k in range(3)], axis=-1)
        color = color.repeat(_COLOR_STRIDE, axis=0).repeat(_COLOR_STRIDE, axis=1)
        yield DepthFrame(measured, color, camera, walk.believed[index])


def _color_camera(camera: Camera) -> Camera:
    """Return the camera of every other pixel of an image: its pixel centres are centres there."""
    K = camera.K.copy()
    K[:2] /= _COLOR_STRIDE
    K[:2, 2] += 0.5 - 0.5 / _COLOR_STRIDE
    height, width = camera.height // _COLOR_STRIDE, camera.width // _COLOR_STRIDE
    return Camera(camera.model, K, height, width)


def _angles(camera: Camera, pose: Array, depth: Array, ids: Array, normals: Array) -> Array:
    K = camera.K
    across = (np.arange(camera.width) + 0.5 - K[0, 2]) / K[0, 0]
    along = (np.arange(camera.height) + 0.5 - K[1, 2]) / K[1, 1]
    rotation = np.ascontiguousarray(pose[:3, :3])
    return np.asarray(angles_of_incidence(ids, normals, rotation, across, along, depth))


def scanned_facts(facts: Sequence[Fact], room: Room, scanned: ScannedRoom) -> list[Fact]:
    """Return the facts of a room as its scan has them; colours stay those of the materials.

    An object of which the scan holds too little keeps its true place and size, because it is in the
    room; it is not to be asked for.
    """
    held = {g.object_id: g for g in scanned.scan.groups if scanned.is_held[g.index]}
    floor = float(room.from_room[2, 3])
    known = []
    for fact in facts:
        group = held.get(fact.object_id)
        if group is None:
            known.append(replace(fact, is_held=False))
            continue
        points = scanned.scan.vertices[group.vertex_ids].astype(np.float64)
        bottom, top = points[:, 2].min() - floor, points[:, 2].max() - floor
        # Distances between objects need no finer points than those of the room's own mesh.
        apart = points[:: 1 + len(points) // max(len(fact.points), 1)]
        known.append(replace(fact, points=apart, bottom=float(bottom), top=float(top)))
    return known
