"""Superpoints: graph-based segmentation of a mesh, in plain Python from faces to numbers.

Edges are pairs in a set, single precision is what ``array("f")`` rounds to, and the weights are
sorted by the list's own sort. ``after_numpy`` is the same with the edges and weights that NumPy
makes in one go; there only the joining is Python.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from data.types import Array

Row = Sequence[float]
Edge = tuple[int, int]


class UnionFind:
    """Disjoint sets with sizes and each set's largest joined edge plus its allowance."""

    def __init__(self, count: int, threshold: float) -> None:
        self.parent = list(range(count))
        self.size = [1] * count
        self.limit = [threshold] * count
        self.threshold = threshold

    def find(self, item: int) -> int:
        """The representative of a set."""
        parent = self.parent
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    def join(self, a: int, b: int, weight: float) -> None:
        """Join two representatives by an edge."""
        if b < a:
            a, b = b, a
        self.parent[b] = a
        self.size[a] += self.size[b]
        self.limit[a] = weight + self.threshold / self.size[a]


def superpoints(
    points: Sequence[Row],
    normals: Sequence[Row],
    triangles: Sequence[Sequence[int]],
    threshold: float,
    min_points: int,
) -> list[int]:
    """Superpoint of each point, numbered in order of first point; all inputs are lists of rows."""
    edges = _edges(points, triangles)
    costs = _weights(points, normals, edges)
    order = sorted(range(len(edges)), key=costs.__getitem__)
    pairs = [edges[place] for place in order]
    return _joined(len(points), pairs, [costs[place] for place in order], threshold, min_points)


def after_numpy(
    points: Array, normals: Array, triangles: Array, threshold: float, min_points: int
) -> list[int]:
    """The same of arrays, with NumPy up to the sorted edges."""
    edges = _numpy_edges(points, triangles)
    weights = _numpy_weights(points, normals, edges)
    order = np.argsort(weights, kind="stable")
    pairs, costs = edges[order].tolist(), weights[order].tolist()
    return _joined(len(points), pairs, costs, threshold, min_points)


def _joined(
    count: int, pairs: Sequence[Sequence[int]], costs: list[float], threshold: float, smallest: int
) -> list[int]:
    sets = UnionFind(count, threshold)
    for (start, end), cost in zip(pairs, costs):
        a, b = sets.find(start), sets.find(end)
        if a != b and cost <= sets.limit[a] and cost <= sets.limit[b]:
            sets.join(a, b, cost)
    for (start, end), cost in zip(pairs, costs):
        a, b = sets.find(start), sets.find(end)
        if a != b and (sets.size[a] < smallest or sets.size[b] < smallest):
            sets.join(a, b, cost)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(sets.find(i), len(numbers)) for i in range(count)]


def _edges(points: Sequence[Row], triangles: Sequence[Sequence[int]]) -> list[Edge]:
    """Edges of the mesh, each once and sorted, with coincident vertices joined."""
    edges: set[Edge] = set()
    for a, b, c in triangles:
        edges.add((a, b) if a < b else (b, a))
        edges.add((b, c) if b < c else (c, b))
        edges.add((a, c) if a < c else (c, a))
    last: dict[tuple[float, ...], int] = {}
    for i, point in enumerate(points):
        place = tuple(point)
        if place in last:
            edges.add((last[place], i))
        last[place] = i
    return sorted(edge for edge in edges if edge[0] != edge[1])


def _weights(
    points: Sequence[Row], normals: Sequence[Row], edges: Sequence[Edge]
) -> Sequence[float]:
    """1 - cos of the normals' angle in single precision, squared where the surface is convex."""
    start, end = [a for a, _ in edges], [b for _, b in edges]
    steps = [array("f", [points[b][axis] - points[a][axis] for a, b in edges]) for axis in range(3)]
    turned = [_column(normals, end, axis) for axis in range(3)]
    rise = _dot(turned, steps)
    straight = _dot([_column(normals, start, axis) for axis in range(3)], turned)
    bend = array("f", [1 - cosine for cosine in straight])
    kept = [min(max(value, 0.0), 2.0) for value in bend]
    return array("f", [b * b if up > 0 else b for b, up in zip(kept, rise)])


def _column(rows: Sequence[Row], numbers: Sequence[int], axis: int) -> list[float]:
    return [rows[i][axis] for i in numbers]


def _dot(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> Sequence[float]:
    """(x + y) + z of the products of three columns; each operation is rounded to float32."""
    x, y, z = (array("f", [a * b for a, b in zip(*both)]) for both in zip(first, second))
    both = array("f", [a + b for a, b in zip(x, y)])
    return array("f", [a + b for a, b in zip(both, z)])


def _numpy_edges(points: Array, triangles: Array) -> Array:
    """Edges (E, 2) int64 of the mesh, each once, with coincident vertices joined."""
    by_place = np.lexsort((points[:, 2], points[:, 1], points[:, 0]))
    same = np.all(np.diff(points[by_place], axis=0) == 0, axis=1)
    pairs = [triangles[:, [i, j]].astype(np.int64) for i, j in ((0, 1), (1, 2), (0, 2))]
    pairs.append(np.column_stack([by_place[:-1][same], by_place[1:][same]]))
    sides = np.sort(np.concatenate(pairs), axis=1)
    keys = np.sort(sides[:, 0] * len(points) + sides[:, 1])
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    edges = np.column_stack([keys // len(points), keys % len(points)])
    return np.asarray(edges[edges[:, 0] != edges[:, 1]])


def _numpy_weights(points: Array, normals: Array, edges: Array) -> Array:
    """1 - cos of the normals' angle (E,) float32, squared where the surface is convex."""
    start, end = edges[:, 0], edges[:, 1]
    bend = np.clip(1 - np.einsum("ek,ek->e", normals[start], normals[end]), 0, 2)
    rise = np.einsum("ek,ek->e", normals[end], points[end] - points[start])
    bend[rise > 0] **= 2
    return np.asarray(bend)
