"""Render a scan from outside, through its near walls and ceiling, with orbit cameras.

A scene is ray cast once per viewpoint. The vertex and the colour of every sample are kept, so that
``stages.report.pictures`` can recolour a picture for any mask. Walls and ceiling that face away
from the camera are omitted, which depends on the mesh's winding. The winding is checked against
the views, whose cameras lie in free space; where it is inconsistent, rays start behind the near
walls and under the ceiling instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.geometry.cameras import pixel_centers, unproject
from data.geometry.raycast import Raycaster
from data.types import Array, Camera, Scene

_ELEVATION = np.deg2rad(48.0)
_DISTANCE = 2.6
_MARGIN = 0.03


def orbit_cameras(
    low: Array, high: Array, sides: Sequence[tuple[float, int]], size: tuple[int, int]
) -> tuple[Camera, list[Array]]:
    """Return a pinhole camera and ``world_to_camera`` poses such that all see the whole box.

    ``low`` and ``high`` (3,) metres are the box. ``sides`` holds an azimuth in radians and 1 for a
    camera above or -1 for one below; ``size`` is (height, width) in pixels. The pinhole is shared
    by all poses, so that the box keeps its size and place from picture to picture.
    """
    poses = [_pose(low, high, azimuth, up) for azimuth, up in sides]
    box = np.stack(np.meshgrid(*zip(low, high), indexing="ij"), axis=-1).reshape(8, 3)
    corners_in_camera = np.concatenate([box @ pose[:3, :3].T + pose[:3, 3] for pose in poses])
    ab = corners_in_camera[:, :2] / corners_in_camera[:, 2:]
    pixels = np.array([size[1], size[0]])
    focal = float(((1 - 2 * _MARGIN) * pixels / np.maximum(np.ptp(ab, axis=0), 1e-9)).min())
    cx, cy = pixels / 2 - focal * (ab.min(axis=0) + ab.max(axis=0)) / 2
    K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])
    return Camera("PINHOLE", K, size[0], size[1]), poses


def _pose(low: Array, high: Array, azimuth: float, up: int) -> Array:
    center, radius = (low + high) / 2, np.linalg.norm(high - low) / 2 + 1e-6
    outward = np.array(
        [
            np.cos(_ELEVATION) * np.cos(azimuth),
            np.cos(_ELEVATION) * np.sin(azimuth),
            np.sin(_ELEVATION) * up,
        ]
    )
    forward = -outward
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ (center + outward * _DISTANCE * radius)
    return pose


_SUPERSAMPLE = 2
_PROBE_RAYS = 2048
_TRUSTED_SHARE = 0.8
_WALL_SLAB = 0.3
_CEILING_SHARE = 0.04


@dataclass(frozen=True, eq=False)
class Viewpoint:
    """A scene rendered from one side: a picture of P pixels with S samples in each.

    ``outward`` (3,) float64 points from the scene to the camera. ``vertex`` (P, S) int64 is the
    mesh vertex nearest to the surface at a sample, -1 outside the scene; ``color`` (P, S, 3)
    float32 is its pale colour and ``light`` (P, S) its brightness in [0, 1]; ``picture`` (H, W, 4)
    uint8 RGBA shows the scene without a mask.
    """

    vertex: Array
    color: Array
    light: Array
    picture: Array
    outward: Array

    def shown(self, mask: Array) -> Array:
        """Return the samples that show a point of ``mask`` (N,) bool, (P, S) bool."""
        return np.asarray(np.append(mask, False)[self.vertex])


def render_upper_corners(scene: Scene, width: int, height: int) -> list[Viewpoint]:
    """Render the scene from its four upper corners, ``width`` x ``height`` pixels.

    The list is empty for a scene without triangles.
    """
    sides = [(np.arctan2(y, x), 1) for x, y in ((1, 1), (-1, 1), (-1, -1), (1, -1))]
    return list(_render_from(scene, [[side] for side in sides], width, height))


def render_from_below(scene: Scene, width: int, height: int) -> list[Viewpoint]:
    """Render the scene from a lower corner, through the floor, which shows the ceiling."""
    return list(_render_from(scene, [[(np.pi / 4, -1)]], width, height))


def render_orbit(
    scene: Scene, azimuths: Sequence[float], width: int, height: int
) -> Iterator[Viewpoint]:
    """Render the scene from above, from each azimuth (radians) in turn, at one magnification.

    Nothing is yielded for a scene without triangles.
    """
    yield from _render_from(scene, [[(azimuth, 1) for azimuth in azimuths]], width, height)


def extent(scene: Scene) -> tuple[Array, Array]:
    """Return the 0.5th and 99.5th percentile (3,) of x, y, z, metres, without stray points."""
    low, high = np.percentile(scene.cloud.points.astype(np.float64), [0.5, 99.5], axis=0)
    return low, high


def below_ceiling(scene: Scene, box: tuple[Array, Array]) -> Array:
    """Find triangles below the ceiling, the top 4 % of the scan's ``extent``, (F,) bool."""
    ceiling = box[1][2] - _CEILING_SHARE * (box[1][2] - box[0][2])
    return np.asarray(scene.cloud.points[scene.triangles, 2].min(axis=1) < ceiling)


def _render_from(
    scene: Scene, turns: Sequence[Sequence[tuple[float, int]]], width: int, height: int
) -> Iterator[Viewpoint]:
    """Render each side (see ``orbit_cameras``); the sides of one turn share a magnification."""
    if not len(scene.triangles) or not len(scene.cloud):
        return
    box = extent(scene)
    normals = _face_normals(scene.cloud.points, scene.triangles)
    facing = _facing(scene, normals)
    size = height * _SUPERSAMPLE, width * _SUPERSAMPLE
    for sides in turns:
        camera, poses = orbit_cameras(*box, sides, size)
        for pose in poses:
            yield _render(scene, normals * facing, bool(facing), box, camera, pose)


def free_side(scene: Scene) -> int:
    """Return 1 for a mesh whose normals point into free space, -1 for the reverse winding.

    0 where that is unknown: without triangles, or where triangles are wound both ways.
    """
    points, triangles = scene.cloud.points, scene.triangles
    return _facing(scene, _face_normals(points, triangles)) if len(triangles) else 0


def _face_normals(points: Array, triangles: Array) -> Array:
    a, b, c = (points[triangles[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return np.asarray(normal / np.maximum(length, 1e-12))


def _facing(scene: Scene, normals: Array) -> int:
    """Return 1 where triangles face free space, -1 for the reverse winding, 0 for a mixture.

    Free space contains the cameras: a triangle that a camera sees first must face it.
    """
    centers = [view.camera_center for view in scene.views][:8]
    if not centers:
        return 1
    rays = np.random.default_rng(0).normal(size=(_PROBE_RAYS, 3))
    caster = Raycaster(scene.cloud.points, scene.triangles)
    toward = hits = 0
    for center in centers:
        _, triangle = caster.cast(center, rays)
        hit = triangle >= 0
        dots = _dot(normals[triangle[hit]], rays[hit])
        toward += int(np.count_nonzero(dots < 0))
        hits += int(hit.sum())
    share = toward / max(hits, 1)
    if hits == 0 or share >= _TRUSTED_SHARE:
        return 1
    return -1 if share <= 1 - _TRUSTED_SHARE else 0


def _render(
    scene: Scene,
    normals: Array,
    cull: bool,
    box: tuple[Array, Array],
    camera: Camera,
    pose: Array,
) -> Viewpoint:
    """Cast one ray through every sample and shade the surface that it hits."""
    points, triangles = scene.cloud.points, scene.triangles
    camera_to_world = np.linalg.inv(pose)
    eye = camera_to_world[:3, 3]
    seen = unproject(camera, _samples(camera)).astype(np.float32)
    eye, turn = eye.astype(np.float32), camera_to_world[:3, :3].astype(np.float32)
    rays = np.einsum("nj,ij->ni", seen, turn)
    origins = np.broadcast_to(eye, rays.shape)
    kept = np.ones(len(triangles), bool)
    if eye[2] > box[1][2]:
        kept = below_ceiling(scene, box)
    if cull:
        kept &= _dot(normals, points[triangles[:, 0]] - eye) < 0
    else:
        origins = eye + rays * _entry(eye, rays, box)[:, None]
    vertex = np.full(len(rays), -1, np.int64)
    color = np.zeros((len(rays), 3), np.float32)
    if kept.any():
        distance, triangle = Raycaster(points, triangles[kept]).cast(origins, rays)
        hit = np.flatnonzero(triangle >= 0)
        spots = origins[hit] + rays[hit] * distance[hit, None]
        ids = np.flatnonzero(kept)[triangle[hit]]
        ring = triangles[ids]
        weights = _barycentric(points[ring], spots)
        vertex[hit] = ring[np.arange(len(ring)), weights.argmax(axis=1)]
        mixed = np.einsum("nkc,nk->nc", scene.cloud.colors[ring].astype(np.float32), weights)
        color[hit] = mixed * _shade(normals[ids], rays[hit])[:, None]
    size = camera.height // _SUPERSAMPLE, camera.width // _SUPERSAMPLE
    return _viewpoint(vertex, color, size, -camera_to_world[:3, 2])


def _samples(camera: Camera) -> Array:
    """Return sample positions (P * S, 2) float64, all samples of one pixel together."""
    rows, columns = camera.height // _SUPERSAMPLE, camera.width // _SUPERSAMPLE
    grid = pixel_centers(camera.height, camera.width)
    blocks = grid.reshape(rows, _SUPERSAMPLE, columns, _SUPERSAMPLE, 2)
    return np.asarray(blocks.swapaxes(1, 2).reshape(-1, 2))


def _viewpoint(vertex: Array, color: Array, size: tuple[int, int], outward: Array) -> Viewpoint:
    height, width = size
    gray = color @ np.array([0.299, 0.587, 0.114], np.float32)
    pale = (0.22 * color + 0.45 * gray[:, None] + 0.33 * 255).astype(np.float32)
    vertex, pale = vertex.reshape(height * width, -1), pale.reshape(height * width, -1, 3)
    picture = mean_color(pale, vertex >= 0).reshape(height, width, 4)
    return Viewpoint(vertex, pale, gray.reshape(vertex.shape) / 255, picture, outward)


def mean_color(color: Array, inside: Array) -> Array:
    """Average samples (P, S, 3) to (P, 4) uint8 RGBA; only those ``inside`` (P, S) count."""
    weight = inside.astype(np.float32)
    total = weight.sum(axis=1, keepdims=True)
    mean = np.einsum("psc,ps->pc", color, weight) / np.maximum(total, 1)
    alpha = 255 * total / inside.shape[1]
    return np.asarray(np.rint(np.concatenate([mean, alpha], axis=1)).clip(0, 255), np.uint8)


def _dot(a: Array, b: Array) -> Array:
    """Return the dot products of rows, (n,)."""
    return np.asarray(np.einsum("ij,ij->i", a, b))


def _shade(normals: Array, rays: Array) -> Array:
    """Return brightness factors (n,): surfaces seen head-on are lighter than grazed ones."""
    cosine = np.abs(_dot(normals, rays)) / np.sqrt(_dot(rays, rays))
    return np.asarray(0.72 + 0.28 * cosine)


def _barycentric(corners: Array, spots: Array) -> Array:
    """Return weights (n, 3) in [0, 1] of the corners (n, 3, 3) of triangles at points (n, 3)."""
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = spots - corners[:, 0]
    d11, d12, d22 = _dot(edge1, edge1), _dot(edge1, edge2), _dot(edge2, edge2)
    d31, d32 = _dot(offset, edge1), _dot(offset, edge2)
    area = np.maximum(d11 * d22 - d12 * d12, np.float32(1e-18))
    v, w = (d22 * d31 - d12 * d32) / area, (d11 * d32 - d12 * d31) / area
    weights = np.stack([1 - v - w, v, w], axis=1)
    np.clip(weights, 0, 1, out=weights)
    weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.float32(1e-12))
    return weights


def _entry(eye: Array, rays: Array, box: tuple[Array, Array]) -> Array:
    """Return the distance (n,) along each ray to the box without its near walls and ceiling."""
    low, high = box[0].copy(), box[1].copy()
    near_high = eye > high
    slab = np.minimum(_WALL_SLAB, (high - low) / 4)
    low, high = np.where(eye < low, low + slab, low), np.where(near_high, high - slab, high)
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.minimum((low - eye) / rays, (high - eye) / rays)
    return np.asarray(np.nan_to_num(first, nan=0.0, posinf=0.0, neginf=0.0).max(axis=1).clip(0))
