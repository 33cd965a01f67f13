"""Superpoints: small pieces of surface that no object's border should cross.

Graph-based segmentation (Felzenszwalb and Huttenlocher 2004) of the mesh, as ScanNet's
segmentator applies it: edges join in order of weight as long as the weight is not above either
side's own largest edge plus ``threshold / size``; then pieces under a minimal size join the
neighbour of their lightest edge. The weight of an edge is 1 - cos of its normals' angle,
squared where the surface is convex there (an object's own edges are mostly convex, borders
between objects mostly concave). Unlike the original, coincident vertices count as joined, so
that meshes whose faces do not share vertices keep their neighbours.
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.types import Array


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
    """
    edges = mesh_edges(points, triangles)
    weights = edge_weights(points, normals, edges)
    order = np.argsort(weights, kind="stable")
    return compact_segments(
        _segment(edges[order], weights[order], len(points), float(threshold), min_points)
    )


def compact_segments(segment_ids: Array) -> Array:
    """A dataset's own segments (N,) as superpoint ids 0..S-1, int32, in order of first point."""
    _, first, inverse = np.unique(segment_ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return np.asarray(rank[inverse])


def mesh_edges(points: Array, triangles: Array) -> Array:
    """Edges (E, 2) int64, smaller vertex first, each once, sorted; coincident vertices joined."""
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.concatenate([sides.astype(np.int64), _coincident(points)])
    low, high = edges.min(axis=1), edges.max(axis=1)
    # A sort beats np.unique's hashing by far on millions of keys.
    keys = np.sort(low[low != high] * len(points) + high[low != high])
    keys = keys[np.diff(keys, prepend=-1) != 0]
    return np.stack(np.divmod(keys, len(points)), axis=1)


def _coincident(points: Array) -> Array:
    """Pairs (P, 2) int64 that chain the vertices standing on one another."""
    order = np.lexsort(points.T)
    ordered = points[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1)
    return np.stack([order[:-1][same], order[1:][same]], axis=1)


def edge_weights(points: Array, normals: Array, edges: Array) -> Array:
    """Weights (E,) float32 in [0, 2] of mesh edges (E, 2)."""
    a, b = edges.T
    weights = 1 - np.einsum("ij,ij->i", normals[a], normals[b])
    convex = np.einsum("ij,ij->i", normals[b], points[b] - points[a]) > 0
    weights = np.clip(weights, 0, 2)
    return np.asarray(np.where(convex, weights * weights, weights), np.float32)


def superpoint_pairs(superpoint_ids: Array, triangles: Array) -> Array:
    """Superpoints that share a mesh edge: (P, 2) int32, smaller first, each once, sorted."""
    ids = superpoint_ids.astype(np.int64)
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    a, b = ids[sides[:, 0]], ids[sides[:, 1]]
    count = int(ids.max(initial=0)) + 1
    keys = np.unique(np.minimum(a, b)[a != b] * count + np.maximum(a, b)[a != b])
    return np.stack(np.divmod(keys, count), axis=1).astype(np.int32)


@compiled
def _find(parent: Array, item: int) -> int:
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = parent[item]
    return item


@compiled
def _segment(
    edges: Array, weights: Array, num_points: int, threshold: float, min_points: int
) -> Array:
    """Root (N,) of every point; ``edges`` (E, 2) stand in order of ``weights``."""
    parent = np.arange(num_points)
    size = np.ones(num_points, np.int64)
    limit = np.full(num_points, threshold)
    for smallest in (0, min_points):
        for i in range(len(edges)):
            a = _find(parent, edges[i, 0])
            b = _find(parent, edges[i, 1])
            if a == b:
                continue
            fits = weights[i] <= limit[a] and weights[i] <= limit[b]
            small = size[a] < smallest or size[b] < smallest
            if (smallest == 0 and fits) or small:
                low, high = min(a, b), max(a, b)
                parent[high] = low
                size[low] += size[high]
                limit[low] = weights[i] + threshold / size[low]
    for i in range(num_points):
        parent[i] = _find(parent, i)
    return parent
