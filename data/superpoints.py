"""Superpoints: small pieces of surface that no object's border should cross.

Graph-based segmentation (Felzenszwalb and Huttenlocher 2004) of the mesh, as ScanNet's
segmentator applies it: edges join in order of weight as long as the weight is not above either
side's own largest edge plus ``threshold / size``; then pieces under a minimal size join the
neighbour of their lightest edge. The weight of an edge is 1 - cos of its normals' angle,
squared where the surface is convex there (an object's own edges are mostly convex, borders
between objects mostly concave). Unlike the original, coincident vertices count as joined, so
that meshes whose faces do not share vertices keep their neighbours (``data.mesh_edges``).
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.mesh_edges import edge_weights, mesh_edges
from data.types import Array

_DIGIT, _DIGITS = 11, 3  # Bits of a digit, and digits of a float32.
_DIGIT_MASK = np.uint64((1 << _DIGIT) - 1)
_NAN = np.uint64(0x7FC00000)


def superpoints(
    points: Array,
    normals: Array,
    triangles: Array,
    threshold: float,
    min_points: int,
) -> Array:
    """Over-segment a mesh: superpoint ids (N,) int32, 0..S-1 in order of first point.

    Args:
        points: (N, 3) float32 metres.
        normals: (N, 3) float32 unit.
        triangles: (F, 3) int32.
        threshold: scale of the pieces; larger joins more.
        min_points: smaller pieces join a neighbour, where they have one.

    Raises:
        ValueError: a triangle has a vertex that is not there.
    """
    edges = mesh_edges(points, triangles)
    ends, costs = _taken(edges, _by_weight(edge_weights(points, normals, edges)))
    return np.asarray(_segment(ends, costs, len(points), float(threshold), min_points))


def compact_segments(segment_ids: Array) -> Array:
    """A dataset's own segments (N,) as superpoint ids 0..S-1, int32, in order of first point."""
    _, first, inverse = np.unique(segment_ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return np.asarray(rank[inverse])


@compiled
def _by_weight(weights: Array) -> Array:
    """Keys (E,) uint64 of the edges in order of weight, NaN last, equal ones in order of number.

    A key is the weight's bits above the edge's number. A radix sort: floats that are not negative
    have the order of their bits.
    """
    bits = weights.view(np.uint32)
    keys, spare = np.empty(len(weights), np.uint64), np.empty(len(weights), np.uint64)
    counts = np.zeros((_DIGITS, 1 << _DIGIT), np.int64)
    for i in range(len(weights)):
        key = np.uint64(bits[i]) if weights[i] == weights[i] else _NAN
        keys[i] = (key << np.uint64(32)) | np.uint64(i)
        for digit in range(_DIGITS):
            counts[digit, (key >> np.uint64(_DIGIT * digit)) & _DIGIT_MASK] += 1
    for digit in range(_DIGITS):
        place, shift = 0, np.uint64(32 + _DIGIT * digit)
        for value in range(1 << _DIGIT):
            place, counts[digit, value] = place + counts[digit, value], place
        for i in range(len(keys)):
            value_of = (keys[i] >> shift) & _DIGIT_MASK
            spare[counts[digit, value_of]] = keys[i]
            counts[digit, value_of] += 1
        keys, spare = spare, keys
    return keys


@compiled
def _taken(edges: Array, keys: Array) -> tuple[Array, Array]:
    """Edges (E, 2) and costs (E,) in order of ``keys``, so that joining reads them one by one."""
    ends, bits = np.empty((len(keys), 2), np.int32), np.empty(len(keys), np.uint32)
    for i in range(len(keys)):
        edge = np.uint32(keys[i])
        ends[i, 0], ends[i, 1] = edges[edge, 0], edges[edge, 1]
        bits[i] = keys[i] >> np.uint64(32)
    return ends, bits.view(np.float32)


@compiled
def _find(parent: Array, item: int) -> int:
    while True:
        above: int = parent[item]
        if above == item:
            return item
        top = parent[above]
        if top == above:
            return above
        parent[item] = top
        item = top


@compiled
def _segment(
    ends: Array, costs: Array, num_points: int, threshold: float, min_points: int
) -> Array:
    """Superpoint (N,) int32 of every point; edges stand in order of cost, and are used up."""
    parent = np.arange(num_points).astype(np.int32)
    pieces = np.empty((num_points, 2))  # Limit and size side by side: both are read together.
    pieces[:, 0], pieces[:, 1] = threshold, 1
    left = 0
    for i in range(len(ends)):
        a, b = _find(parent, ends[i, 0]), _find(parent, ends[i, 1])
        if a == b:
            continue
        low, high = min(a, b), max(a, b)
        if costs[i] <= pieces[a, 0] and costs[i] <= pieces[b, 0]:
            parent[high] = low
            pieces[low, 1] += pieces[high, 1]
            pieces[low, 0] = costs[i] + threshold / pieces[low, 1]
        elif pieces[a, 1] < min_points or pieces[b, 1] < min_points:
            ends[left, 0], ends[left, 1] = a, b  # No piece shrinks: other edges are done with.
            left += 1
    for i in range(left):
        a, b = _find(parent, ends[i, 0]), _find(parent, ends[i, 1])
        if a != b and (pieces[a, 1] < min_points or pieces[b, 1] < min_points):
            low, high = min(a, b), max(a, b)
            parent[high] = low
            pieces[low, 1] += pieces[high, 1]
    return _numbered(parent)


@compiled
def _numbered(parent: Array) -> Array:
    """Pieces numbered by their first point, which is their root: every parent stands earlier."""
    ids = np.empty(len(parent), np.int32)
    count = 0
    for i in range(len(parent)):
        if parent[i] == i:
            ids[i] = count
            count += 1
        else:
            ids[i] = ids[parent[i]]
    return ids


def warm() -> None:
    """Load the compiled loops of superpoints, or compile them."""
    corners = np.eye(3, dtype=np.float32)
    superpoints(corners, corners, np.array([[0, 1, 2]], np.int32), 1.0, 1)
