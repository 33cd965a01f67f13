"""A box room with three boxes in it, small enough for unit tests, geometry known exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.geometry.raycast import Raycaster
from data.types import Array, Camera, GroundTruth, PointCloud, Prompt, PromptTruth, Scene, View

ROOM = ((0.0, 0.0, 0.0), (4.0, 3.0, 2.4))
BOXES = {
    11: ("bed", (0.3, 0.3, 0.0), (1.9, 1.5, 0.5), (40, 60, 200)),
    12: ("table", (2.6, 0.4, 0.0), (3.6, 1.2, 0.7), (150, 90, 40)),
    13: ("chair", (2.7, 2.0, 0.0), (3.2, 2.5, 0.9), (200, 40, 40)),
}
_FACES = ((0, 1, 2, 0), (0, 1, 2, 1), (1, 2, 0, 0), (1, 2, 0, 1), (2, 0, 1, 0), (2, 0, 1, 1))


def box_mesh(low: Array, high: Array, spacing: float, inward: bool) -> tuple[Array, ...]:
    """Vertices, triangles and vertex normals of a box of grids, one grid a face."""
    vertices, triangles, normals = [], [], []
    count = 0
    for u, v, w, side in _FACES:
        nu = int(np.ceil((high[u] - low[u]) / spacing)) + 1
        nv = int(np.ceil((high[v] - low[v]) / spacing)) + 1
        grid_u, grid_v = np.meshgrid(
            np.linspace(low[u], high[u], nu), np.linspace(low[v], high[v], nv), indexing="ij"
        )
        face = np.empty((nu * nv, 3))
        face[:, u], face[:, v] = grid_u.ravel(), grid_v.ravel()
        face[:, w] = high[w] if side else low[w]
        index = np.arange(nu * nv).reshape(nu, nv)
        a, b = index[:-1, :-1].ravel(), index[1:, :-1].ravel()
        c, d = index[1:, 1:].ravel(), index[:-1, 1:].ravel()
        quads = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
        outward = bool(side) != inward
        triangles.append((quads if outward else quads[:, ::-1]) + count)
        normal = np.zeros(3)
        normal[w] = 1.0 if outward else -1.0
        vertices.append(face)
        normals.append(np.tile(normal, (nu * nv, 1)))
        count += nu * nv
    return np.concatenate(vertices), np.concatenate(triangles), np.concatenate(normals)


def look_at(eye: tuple[float, ...], target: tuple[float, ...]) -> Array:
    """(4, 4) world_to_camera of a camera at ``eye`` that sees ``target`` in its centre."""
    forward = np.subtract(target, eye) / np.linalg.norm(np.subtract(target, eye))
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ np.asarray(eye)
    return pose


def make_tiny_scene(
    scene_id: str = "00000000aa", spacing: float = 0.1, height: int = 96, width: int = 128
) -> tuple[Scene, GroundTruth]:
    """The room, its three boxes as objects 11, 12 and 13, and six views from the corners."""
    parts = [box_mesh(np.array(ROOM[0]), np.array(ROOM[1]), spacing, True)]
    paints = [(200, 200, 190)]
    for _, low, high, color in BOXES.values():
        parts.append(box_mesh(np.array(low), np.array(high), spacing, False))
        paints.append(color)
    sizes = [len(part[0]) for part in parts]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    points = np.concatenate([part[0] for part in parts]).astype(np.float32)
    triangles = np.concatenate([p[1] + s for p, s in zip(parts, starts)]).astype(np.int32)
    normals = np.concatenate([part[2] for part in parts]).astype(np.float32)
    colors = np.repeat(np.array(paints, np.uint8), sizes, axis=0)
    superpoint_ids = np.repeat(np.arange(len(parts)), sizes).astype(np.int32)
    K = np.array([[70.0, 0, width / 2], [0, 70.0, height / 2], [0, 0, 1]])
    camera = Camera("PINHOLE", K, height, width)
    eyes = [(x, y, 1.6) for x in (0.2, 2.0, 3.8) for y in (0.2, 2.8)]
    views = tuple(
        View(f"view{i}", camera, look_at(eye, (2.1, 1.4, 0.4)), Path(f"view{i}.JPG"))
        for i, eye in enumerate(eyes)
    )
    caster = Raycaster(points, triangles)
    depths = [caster.render(camera, view.world_to_camera)[0] for view in views]
    scene = Scene(
        scene_id, PointCloud(points, colors, normals), triangles, superpoint_ids, views, depths
    )
    truth = GroundTruth(
        tuple(BOXES),
        tuple(box[0] for box in BOXES.values()),
        np.arange(starts[1], starts[-1], dtype=np.int32),
        (starts[1:] - starts[1]).astype(np.int64),
        len(points),
    )
    return scene, truth


def make_tiny_prompts(scene_id: str = "00000000aa") -> tuple[list[Prompt], list[PromptTruth]]:
    """One prompt an object, one for two objects, one for an absent object."""
    rows = [
        ("where can I sleep?", "implicit", (11,), "bed"),
        ("the table", "referring", (12,), "table"),
        ("the red chair", "referring", (13,), "chair"),
        ("the furniture on the right", "multiple", (12, 13), "furniture"),
        ("the toilet", "absent", (), "toilet"),
    ]
    prompts = [
        Prompt(f"{scene_id}_{i:04d}", scene_id, text, task)
        for i, (text, task, _, _) in enumerate(rows)
    ]
    truths = [
        PromptTruth(prompt.prompt_id, ids, name) for prompt, (_, _, ids, name) in zip(prompts, rows)
    ]
    return prompts, truths
