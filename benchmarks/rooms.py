"""Synthetic inputs: a furnished box room as a dense mesh, and cameras inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.geometry.raycast import Raycaster
from data.types import Array, Camera, PointCloud, Scene, View

_ROOM = ((0.0, 0.0, 0.0), (6.0, 5.0, 2.6))
_FURNITURE = (
    ((0.2, 0.3, 0.0), (2.1, 1.9, 0.5)),
    ((4.6, 0.2, 0.0), (5.8, 0.9, 0.75)),
    ((4.8, 1.2, 0.0), (5.3, 1.7, 0.9)),
    ((0.1, 3.6, 0.0), (0.5, 4.8, 2.0)),
    ((2.6, 2.2, 0.0), (3.6, 2.9, 0.45)),
    ((2.2, 4.2, 0.0), (4.2, 4.9, 0.8)),
    ((5.3, 3.6, 0.0), (5.9, 4.2, 1.7)),
)
_NOISE = 0.002


def box_mesh(low: Array, high: Array, spacing: float, inward: bool) -> tuple[Array, Array, Array]:
    """Vertices (V, 3), triangles (F, 3) and normals (V, 3) of a box, one grid a face."""
    vertices, triangles, normals = [], [], []
    start = 0
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        across, along = (
            np.linspace(low[a], high[a], int(np.ceil((high[a] - low[a]) / spacing)) + 1)
            for a in (u, v)
        )
        index = np.arange(len(across) * len(along)).reshape(len(across), len(along))
        a, b, c, d = (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
        corners = np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3)
        for side in (0, 1):
            face = np.empty((index.size, 3))
            face[:, u], face[:, v] = (g.ravel() for g in np.meshgrid(across, along, indexing="ij"))
            face[:, axis] = (low, high)[side][axis]
            outward = bool(side) != inward
            normal = np.zeros((index.size, 3))
            normal[:, axis] = 1.0 if outward else -1.0
            vertices.append(face)
            normals.append(normal)
            triangles.append((corners if outward else corners[:, ::-1]) + start)
            start += index.size
    return np.concatenate(vertices), np.concatenate(triangles), np.concatenate(normals)


def room_mesh(spacing: float) -> tuple[Array, Array, Array]:
    """Vertices float64, triangles int32 and normals float64 of the room and its furniture."""
    boxes = [box_mesh(np.array(_ROOM[0]), np.array(_ROOM[1]), spacing, True)]
    boxes += [box_mesh(np.array(low), np.array(high), spacing, False) for low, high in _FURNITURE]
    starts = np.cumsum([0, *(len(box[0]) for box in boxes)])
    triangles = np.concatenate([box[1] + start for box, start in zip(boxes, starts)])
    points, normals = (np.concatenate([box[part] for box in boxes]) for part in (0, 2))
    return points, triangles.astype(np.int32), normals


def scanned_room(num_points: int, seed: int = 0) -> tuple[PointCloud, Array]:
    """A cloud of roughly ``num_points`` with 2 mm noise, and its triangles (F, 3) int32."""
    boxes = (_ROOM, *_FURNITURE)
    edges = [np.subtract(high, low) for low, high in boxes]
    area = sum(2 * (e[0] * e[1] + e[1] * e[2] + e[2] * e[0]) for e in edges)
    points, triangles, normals = room_mesh(float(np.sqrt(area / num_points)))
    random = np.random.default_rng(seed)
    points = points + random.normal(0, _NOISE, points.shape)
    normals = normals + random.normal(0, 0.05, normals.shape)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colors = random.integers(0, 256, points.shape, np.uint8)
    return PointCloud(points.astype("f4"), colors, normals.astype("f4")), triangles


def room_views(num_views: int, height: int, width: int) -> tuple[View, ...]:
    """Cameras on a ring inside the room, 75 degrees wide."""
    focal = width / 2 / np.tan(np.radians(37.5))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    camera = Camera("PINHOLE", K, height, width)
    angles = np.arange(num_views) * 2 * np.pi / num_views
    return tuple(
        View(f"view{i}", camera, _pose(angle), Path(f"view{i}.JPG"))
        for i, angle in enumerate(angles)
    )


def room_scene(num_points: int, num_views: int, height: int, width: int) -> Scene:
    """The room with ``room_views`` and their depth maps."""
    cloud, triangles = scanned_room(num_points)
    views = room_views(num_views, height, width)
    caster = Raycaster(*room_mesh(10.0)[:2])
    depths = [caster.render(view.camera, view.world_to_camera)[0] for view in views]
    superpoint_ids = np.zeros(len(cloud), np.int32)
    return Scene("room", cloud, triangles, superpoint_ids, views, depths)


def _pose(angle: float) -> Array:
    """World to camera (4, 4): from the ring at head height towards the room's middle."""
    middle = np.array([3.0, 2.5, 0.8])
    eye = np.array([3.0 + 1.8 * np.cos(angle), 2.5 + 1.5 * np.sin(angle), 1.6])
    forward = (middle - eye) / np.linalg.norm(middle - eye)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ eye
    return pose
