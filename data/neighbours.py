"""Which superpoints touch, how much, and how likely they are one object.

Found from the points alone, not from the mesh: real scans are one mesh and generated rooms are
many, and what touches should be the same in both.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from data.threads import num_threads
from data.types import Array, Neighbours, PointCloud, Scene

REACH = 0.1
"""Superpoints with points this close touch, metres."""
_NEIGHBOURS = 9
"""Nearest points looked at around each, itself among them."""
_COLOR_SCALE = 40.0
"""Difference of mean colours, in 8-bit steps, at which an affinity falls to 1/e."""
_FEW_CONTACTS = 4.0


def neighbours_of(scene: Scene) -> Neighbours:
    """A scene's touching superpoints: as they were found when it was prepared, else found now."""
    if scene.neighbours is not None:
        return scene.neighbours
    return touching_superpoints(scene.cloud, scene.superpoint_ids, REACH)


def affinity_matrix(neighbours: Neighbours) -> sparse.csr_matrix:
    """(S, S) symmetric matrix of affinities, 0 where two superpoints do not touch."""
    first, second = neighbours.pairs.T
    values = np.concatenate([neighbours.affinity, neighbours.affinity])
    where = np.concatenate([first, second]), np.concatenate([second, first])
    size = (neighbours.num_superpoints, neighbours.num_superpoints)
    return sparse.coo_matrix((values, where), shape=size).tocsr()


def touching_superpoints(cloud: PointCloud, superpoint_ids: Array, reach: float) -> Neighbours:
    """Superpoints that have points within ``reach`` metres of each other.

    An affinity is near 1 for two of like colour that meet in many points without a crease, near 0
    where a concave crease, as between a thing and what it stands on, or another colour parts them.

    Args:
        cloud: N points with colours and normals.
        superpoint_ids: (N,) int32, 0..S-1.
        reach: metres; only the nearest eight points of each are looked at.
    """
    num = int(superpoint_ids.max(initial=-1)) + 1
    count = max(1, min(_NEIGHBOURS, len(cloud)))
    distance, near = cKDTree(cloud.points).query(
        cloud.points, count, distance_upper_bound=reach, workers=num_threads()
    )
    here, place = np.nonzero(np.isfinite(distance.reshape(len(cloud), count)))
    there = near.reshape(len(cloud), count)[here, place]
    across = superpoint_ids[here] != superpoint_ids[there]
    here, there = here[across], there[across]
    ends = np.sort(np.stack([superpoint_ids[here], superpoint_ids[there]], 1), axis=1)
    keys, inverse, contacts = np.unique(
        ends[:, 0].astype(np.int64) * num + ends[:, 1], return_inverse=True, return_counts=True
    )
    pairs = np.stack([keys // max(num, 1), keys % max(num, 1)], axis=1).astype(np.int32)
    crease = np.bincount(inverse, _creases(cloud, here, there), len(keys)) / np.maximum(contacts, 1)
    color = _mean_colors(cloud.colors, superpoint_ids, num)
    apart = np.linalg.norm(color[pairs[:, 0]] - color[pairs[:, 1]], axis=1) / _COLOR_SCALE
    affinity = np.exp(-4 * crease - apart) * contacts / (contacts + _FEW_CONTACTS)
    return Neighbours(pairs, affinity.astype(np.float32), num)


def _creases(cloud: PointCloud, here: Array, there: Array) -> Array:
    """(P,) how concave the surface is between two points: 0 flat or convex, 1 a right angle."""
    step = cloud.points[there] - cloud.points[here]
    length = np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    rise = np.einsum("ij,ij->i", cloud.normals[here], step / length)
    fall = np.einsum("ij,ij->i", cloud.normals[there], -step / length)
    turned = 1 - np.einsum("ij,ij->i", cloud.normals[here], cloud.normals[there])
    return np.asarray(np.where(rise + fall > 0, np.clip(turned, 0, 1), 0), np.float64)


def _mean_colors(colors: Array, superpoint_ids: Array, num: int) -> Array:
    sizes = np.maximum(np.bincount(superpoint_ids, minlength=num), 1)
    sums = [np.bincount(superpoint_ids, colors[:, k], num) for k in range(3)]
    return np.stack(sums, axis=1) / sizes[:, None]
