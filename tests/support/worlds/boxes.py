"""Rooms of boxes: points on the surfaces of boxes, each box one or more superpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.types import Array, PointCloud, Scene
from stages.relations.solve import Answer

Box = tuple[float, float, float, float, float, float]
"""x, y, z of the lower corner, then the size along x, y, z, metres."""
STEP = 0.06


def surface(box: Box) -> tuple[Array, Array]:
    """Points (n, 3) on the six sides of a box, and their normals."""
    low, size = np.array(box[:3]), np.array(box[3:])
    points, normals = [], []
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        ticks = [np.linspace(0, size[k], max(2, int(size[k] / STEP) + 1)) for k in others]
        grid = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 2)
        for end in (0.0, 1.0):
            side = np.empty((len(grid), 3))
            side[:, others], side[:, axis] = grid, end * size[axis]
            points.append(low + side)
            normal = np.zeros(3)
            normal[axis] = 2 * end - 1
            normals.append(np.broadcast_to(normal, side.shape))
    return np.concatenate(points), np.concatenate(normals)


def wall(start: Sequence[float], end: Sequence[float], height: float = 2.5) -> tuple[Array, Array]:
    """Points of an upright wall between two points of the floor, its normal to the left of it."""
    a, b = np.array(start, float), np.array(end, float)
    length = float(np.linalg.norm(b - a))
    along = np.linspace(0, 1, int(length / STEP) + 1)
    up = np.linspace(0, height, int(height / STEP) + 1)
    t, z = (part.reshape(-1) for part in np.meshgrid(along, up, indexing="ij"))
    flat = a + t[:, None] * (b - a)
    direction = (b - a) / length
    normal = np.array([-direction[1], direction[0], 0.0])
    return np.column_stack([flat, z]), np.broadcast_to(normal, (len(t), 3))


class BoxRoom:
    """A room of 5 x 4 m with walls, a floor and named boxes; one superpoint a box and a wall.

    ``turn`` degrees and ``shift`` (3,) metres move all of it, as scans lie anywhere.
    """

    def __init__(
        self,
        things: Mapping[str, Sequence[Box]],
        turn: float = 0.0,
        shift: Sequence[float] = (0.0, 0.0, 0.0),
    ) -> None:
        floor, up = surface((0, 0, -0.02, 5, 4, 0.02))
        corners = [(0, 0), (5, 0), (5, 4), (0, 4), (0, 0)]
        sides = [wall(a, b) for a, b in zip(corners, corners[1:])]
        parts = [(floor, up), *sides]
        self.superpoints: dict[str, list[int]] = {"floor": [0], "wall": [1, 2, 3, 4]}
        for name, boxes in things.items():
            for box in boxes:
                self.superpoints.setdefault(name, []).append(len(parts))
                parts.append(surface(box))
        points = np.concatenate([part[0] for part in parts])
        normals = np.concatenate([part[1] for part in parts])
        ids = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        moved = (points @ rotation.T + np.array(shift)).astype(np.float32)
        colors = np.full((len(points), 3), 128, np.uint8)
        cloud = PointCloud(moved, colors, (normals @ rotation.T).astype(np.float32))
        self.scene = Scene("boxes", cloud, np.zeros((0, 3), np.int32), ids.astype(np.int32), (), ())
        self.count = len(parts)

    def answer(self, name: str) -> Answer:
        """Return the true answer to a name."""
        mask = np.isin(np.arange(self.count), self.superpoints[name])
        return Answer(mask, mask.astype(np.float32))
