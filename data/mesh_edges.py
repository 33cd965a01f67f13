"""Edges of a mesh and how much the surface bends across them.

Every edge is listed at its lower vertex, so that the edges of a vertex lie together: they are
counted, put in their places and sorted a handful at a time, and nothing as long as the mesh is
ever sorted. Coincident vertices count as joined, so that meshes whose faces do not share vertices
keep their neighbours; they are found by hashing their coordinates.

Weights are computed in float32, each operation rounded, in the order that is written here; the
dot product of rows of three is (x + y) + z. NumPy's ``einsum`` gives the same bits.
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.types import Array

_MANY_EDGES = 32
"""Of a vertex; up to here moving each into place is the quickest sort."""


def mesh_edges(points: Array, triangles: Array) -> Array:
    """Edges (E, 2) int32 of a mesh, smaller vertex first, each once, sorted.

    Args:
        points: (N, 3) float32; those that stand on one another are chained by edges in order of
            their numbers. A point with a NaN stands on no other.
        triangles: (F, 3) of whole numbers in [0, N).

    Raises:
        ValueError: a triangle has a vertex that is not there.
    """
    triangles = np.ascontiguousarray(triangles)
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(points):
        found = f"{triangles.min()} to {triangles.max()}"
        raise ValueError(f"triangles of {len(points)} points have vertices {found}")
    return np.asarray(_edges(triangles, _twins(np.ascontiguousarray(points, np.float32))))


def edge_weights(points: Array, normals: Array, edges: Array) -> Array:
    """Weights (E,) float32 in [0, 2] of mesh edges (E, 2): 1 - cos of their normals' angle.

    Squared where the surface is convex, which is where the second vertex lies above the first
    along its own normal. ``points`` and ``normals`` (N, 3) float32. NaN where a normal has one.
    """
    points, normals = (np.ascontiguousarray(part, np.float32) for part in (points, normals))
    return np.asarray(_weights(points, normals, edges))


@compiled
def _twins(points: Array) -> Array:
    """The last point before each that has the same coordinates, (N,) int32; -1 for none."""
    size = 1
    while size < 2 * len(points):
        size *= 2
    # Adding 0 makes one of both zeros, which are equal but not of the same bits.
    bits = (points + np.float32(0)).view(np.uint32)
    table = np.full(size, -1, np.int32)
    twins = np.full(len(points), -1, np.int32)
    for i in range(len(points)):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        if x != x or y != y or z != z:
            continue
        mixed = np.uint64(bits[i, 0]) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ np.uint64(bits[i, 1])) * np.uint64(0xC2B2AE3D27D4EB4F)
        mixed = (mixed ^ (mixed >> np.uint64(29)) ^ np.uint64(bits[i, 2])) * np.uint64(
            0x9E3779B97F4A7C15
        )
        slot = np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(size - 1))
        while table[slot] >= 0:
            j = table[slot]
            if points[j, 0] == x and points[j, 1] == y and points[j, 2] == z:
                twins[i] = j
                break
            slot = (slot + 1) & (size - 1)
        table[slot] = i
    return twins


@compiled
def _edges(triangles: Array, twins: Array) -> Array:
    start, upper = _listed(triangles, twins)
    edges = np.empty((len(upper), 2), np.int32)
    count = 0
    for low in range(len(twins)):
        first, end = start[low], start[low + 1]
        if end - first > _MANY_EDGES:
            upper[first:end].sort()
        else:
            for i in range(first + 1, end):
                high, j = upper[i], i
                while j > first and upper[j - 1] > high:
                    upper[j] = upper[j - 1]
                    j -= 1
                upper[j] = high
        last = -1
        for i in range(first, end):
            if upper[i] != last:
                last = upper[i]
                edges[count, 0], edges[count, 1] = low, last
                count += 1
    return edges[:count]


@compiled
def _listed(triangles: Array, twins: Array) -> tuple[Array, Array]:
    """Sides of all triangles by their lower vertex: ``start`` (N + 1,), upper vertices (H,)."""
    start = np.zeros(len(twins) + 2, np.int64)  # Counted two places on, filled one place on.
    for face in range(len(triangles)):
        a, b, c = triangles[face, 0], triangles[face, 1], triangles[face, 2]
        start[min(a, b) + 2] += a != b
        start[min(b, c) + 2] += b != c
        start[min(c, a) + 2] += c != a
    for i in range(len(twins)):
        if twins[i] >= 0:
            start[twins[i] + 2] += 1
    for i in range(2, len(start)):
        start[i] += start[i - 1]
    upper = np.empty(start[-1], np.int32)
    for face in range(len(triangles)):
        for side in range(3):
            a, b = triangles[face, side], triangles[face, (side + 1) % 3]
            if a != b:
                low = min(a, b) + 1
                upper[start[low]] = max(a, b)
                start[low] += 1
    for i in range(len(twins)):
        if twins[i] >= 0:
            upper[start[twins[i] + 1]] = i
            start[twins[i] + 1] += 1
    return start[:-1], upper


@compiled
def _weights(points: Array, normals: Array, edges: Array) -> Array:
    weights = np.empty(len(edges), np.float32)
    for i in range(len(edges)):
        a, b = edges[i, 0], edges[i, 1]
        x, y, z = normals[b, 0], normals[b, 1], normals[b, 2]
        weight = np.float32(1) - (normals[a, 0] * x + normals[a, 1] * y + normals[a, 2] * z)
        if weight < 0:
            weight = np.float32(0)
        elif weight > 2:
            weight = np.float32(2)
        rise = (points[b, 0] - points[a, 0]) * x + (points[b, 1] - points[a, 1]) * y
        if rise + (points[b, 2] - points[a, 2]) * z > 0:
            weight *= weight
        weights[i] = weight
    return weights
