"""Part an answer into instances: pieces of surface that are each one thing.

Superpoints of an answer that come within ``REACH`` of each other are one thing; walls are parted by
the plane that they lie in, because they touch at their corners and doors part them. All positions
are in the room's frame: turned about the vertical axis so that the smallest rectangle around the
floor plan lies along x and y, with the floor at z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, QhullError, cKDTree

from data.geometry.meshes import floor_height
from data.types import Array, Scene

REACH = 0.1
"""Metres between the cells of two superpoints up to which they are one thing."""
_CELL = 0.05
_LEAST_STRENGTH = 0.5
"""Of the strongest instance's; weaker ones are crumbs or mistakes, not things. The strength is the
evidence times the root of the size: what few points or low scores speak for is less."""
_MOST_POINTS = 3000
_FLAT = ("wall",)
_SAME_DIRECTION, _SAME_PLANE = 0.8, 0.25


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing of a room.

    ``superpoints`` are its numbers (n,), ``points`` (m, 3) at most 3,000 of its points, metres in
    the room's frame, ``size`` the number of all. ``evidence`` in [0, 1] is how sure the answer is
    of it, relative to the surest instance.
    """

    superpoints: Array
    points: Array
    size: int
    evidence: float

    @cached_property
    def low(self) -> Array:
        """(3,) the lower end of its box, without the outermost percent of its points."""
        return np.asarray(np.percentile(self.points, 1, axis=0))

    @cached_property
    def high(self) -> Array:
        """(3,) the upper end of its box."""
        return np.asarray(np.percentile(self.points, 99, axis=0))

    @cached_property
    def centre(self) -> Array:
        """(3,) the middle of its box."""
        return np.asarray((self.low + self.high) / 2)

    @cached_property
    def tree(self) -> cKDTree:
        """Its points, for nearest neighbours."""
        return cKDTree(self.points)


class RoomSpace:
    """A scan in its room's frame, with what parting answers into instances needs."""

    def __init__(self, scene: Scene) -> None:
        """Turn the scan into its room's frame; ``corners`` (4, 2) are those of its floor plan."""
        cloud, self._ids = scene.cloud, scene.superpoint_ids
        self.turn = turn_of(cloud.points[:, :2])
        flat = cloud.points[:, :2].astype(np.float64) @ self.turn
        self._floor = floor_height(cloud.points)
        self.points = np.column_stack([flat, cloud.points[:, 2] - self._floor])
        self.num_superpoints = int(self._ids.max(initial=-1)) + 1
        self.low, self.high = np.percentile(flat, 0.5, axis=0), np.percentile(flat, 99.5, axis=0)
        self.sizes = np.bincount(self._ids, minlength=self.num_superpoints)
        turned = np.column_stack([cloud.normals[:, :2] @ self.turn, cloud.normals[:, 2]])
        self._normals = self._means(turned)
        self._centres = self._means(self.points)
        order = np.argsort(self._ids, kind="stable")
        self._members = np.split(order, np.cumsum(self.sizes)[:-1])
        centres = [view.camera_center for view in scene.views]
        eyes = np.array(centres, np.float64).reshape(-1, 3)[:, :2]
        self.eyes = eyes @ self.turn

    def _means(self, values: Array) -> Array:
        sums = [np.bincount(self._ids, column, self.num_superpoints) for column in values.T]
        return np.stack(sums, axis=1) / np.maximum(self.sizes, 1)[:, None]

    def in_scan(self, point: Array) -> Array:
        """Return a point (3,) of the room's frame in the scan's frame."""
        return np.append(self.turn @ point[:2], point[2] + self._floor)

    @property
    def middle(self) -> Array:
        """(2,) the middle of the floor plan."""
        return np.asarray((self.low + self.high) / 2)

    @property
    def corners(self) -> Array:
        """(4, 2) the corners of the floor plan."""
        (x0, y0), (x1, y1) = self.low, self.high
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])

    def instances(self, head: str, mask: Array, probs: Array) -> list[Instance]:
        """Part the answer to ``head`` into instances, the largest first.

        Args:
            head: the words that were asked; walls are parted by planes.
            mask: (S,) bool, the superpoints of the answer.
            probs: (S,) how sure the answer is of each superpoint.
        """
        inside = np.flatnonzero(mask & (self.sizes > 0))
        if not len(inside):
            return []
        is_flat = head.split()[-1] in _FLAT
        part = self._planes(inside) if is_flat else self._touching(inside)
        sizes = np.bincount(part, self.sizes[inside])
        sure = np.bincount(part, self.sizes[inside] * probs[inside]) / np.maximum(sizes, 1)
        strength = sure * np.sqrt(sizes)
        kept = np.flatnonzero(strength >= _LEAST_STRENGTH * strength.max())
        most = max(float(sure[kept].max()), 1e-9)
        ordered = kept[np.argsort(-sizes[kept], kind="stable")]
        return [
            self._instance(inside[part == number], float(sure[number]) / most)
            for number in ordered.tolist()
        ]

    def _instance(self, superpoints: Array, evidence: float) -> Instance:
        rows = np.concatenate([self._members[number] for number in superpoints.tolist()])
        step = -(-len(rows) // _MOST_POINTS)
        return Instance(superpoints, self.points[rows[::step]], len(rows), evidence)

    def _touching(self, inside: Array) -> Array:
        """Number superpoints (n,) by the thing they belong to: those in cells near each other."""
        rows = np.concatenate([self._members[number] for number in inside.tolist()])
        owners = np.repeat(np.arange(len(inside)), self.sizes[inside])
        cells = np.floor(self.points[rows] / _CELL).astype(np.int64)
        places, cell_of = np.unique(cells, axis=0, return_inverse=True)
        cell_of = cell_of.reshape(-1)
        near = cKDTree(places).query_pairs(REACH / _CELL + 1e-6, output_type="ndarray")
        count = len(inside)
        first = np.concatenate([owners, count + near[:, 0]])
        second = np.concatenate([count + cell_of, count + near[:, 1]])
        size = count + len(places)
        graph = coo_matrix((np.ones(len(first)), (first, second)), shape=(size, size))
        parts = connected_components(graph, directed=False)[1][:count]
        return np.unique(parts, return_inverse=True)[1].reshape(-1)

    def _planes(self, inside: Array) -> Array:
        """Number superpoints (n,) by the plane they lie in, the largest superpoints deciding."""
        part = np.full(len(inside), -1)
        planes: list[tuple[Array, float]] = []
        for place in np.argsort(-self.sizes[inside], kind="stable").tolist():
            normal, centre = self._normals[inside[place]], self._centres[inside[place]]
            length = float(np.linalg.norm(normal))
            unit = normal / max(length, 1e-9)
            fits = [
                number
                for number, (direction, offset) in enumerate(planes)
                if unit @ direction > _SAME_DIRECTION
                and abs(direction @ centre - offset) < _SAME_PLANE
            ]
            if not fits:
                planes.append((unit, float(unit @ centre)))
                fits = [len(planes) - 1]
            part[place] = fits[0]
        return np.unique(part, return_inverse=True)[1].reshape(-1)


def turn_of(flat: Array) -> Array:
    """Return the rotation (2, 2) that lays points (N, 2) along the axes: ``points @ turn``.

    It is that of the rectangle of the smallest area around them, which has a side along one of the
    convex hull's (Freeman and Shapira 1975); turned by less than 45 degrees.
    """
    points = np.asarray(flat, np.float64)
    try:
        hull = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return np.eye(2)
    sides = np.roll(hull, -1, axis=0) - hull
    angles = np.unique(np.round(np.arctan2(sides[:, 1], sides[:, 0]) % (np.pi / 2), 6))
    best, least = 0.0, np.inf
    for angle in angles.tolist():
        extent = np.ptp(hull @ _rotation(angle), axis=0)
        area = float(extent[0] * extent[1])
        if area < least - 1e-9:
            best, least = angle, area
    return _rotation(best if best <= np.pi / 4 else best - np.pi / 2)


def _rotation(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])
