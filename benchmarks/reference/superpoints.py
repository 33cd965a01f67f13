"""Superpoints: graph-based segmentation of a mesh with a union-find in plain Python.

Edges and their weights come from NumPy on both sides; here only the joining is Python.
"""

from __future__ import annotations

import numpy as np

from data.types import Array


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
    points: Array, normals: Array, triangles: Array, threshold: float, min_points: int
) -> Array:
    """Superpoint of each point (N,), numbered in order of first point."""
    edges = _edges(points, triangles)
    weights = _weights(points, normals, edges)
    order = np.argsort(weights, kind="stable")
    pairs, costs = edges[order].tolist(), weights[order].tolist()
    sets = UnionFind(len(points), threshold)
    for (start, end), cost in zip(pairs, costs):
        a, b = sets.find(start), sets.find(end)
        if a != b and cost <= sets.limit[a] and cost <= sets.limit[b]:
            sets.join(a, b, cost)
    for (start, end), cost in zip(pairs, costs):
        a, b = sets.find(start), sets.find(end)
        if a != b and (sets.size[a] < min_points or sets.size[b] < min_points):
            sets.join(a, b, cost)
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(sets.find(i), len(numbers)) for i in range(len(points))])


def _edges(points: Array, triangles: Array) -> Array:
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


def _weights(points: Array, normals: Array, edges: Array) -> Array:
    """1 - cos of the normals' angle (E,) float32, squared where the surface is convex."""
    start, end = edges[:, 0], edges[:, 1]
    bend = np.clip(1 - np.einsum("ek,ek->e", normals[start], normals[end]), 0, 2)
    rise = np.einsum("ek,ek->e", normals[end], points[end] - points[start])
    bend[rise > 0] **= 2
    return np.asarray(bend)
