"""Cut a mesh into superpoints (small pieces of surface), and find the superpoints that touch.

Superpoints come from graph-based segmentation (Felzenszwalb and Huttenlocher 2004) of the mesh,
as in ScanNet's segmentator: edges are taken in order of weight and join two pieces if the weight
is at most each piece's largest edge plus ``threshold / size``; then pieces below a minimal size
join the neighbour across their lightest edge. The weight of an edge is 1 - cos of the angle
between its normals, squared where the surface is convex (edges within an object are mostly
convex, borders between objects mostly concave). Coincident vertices, found by hashing their
coordinates, count as connected, so that meshes whose faces do not share vertices keep their
neighbours. Two things can be added to the original (``Cutting``): the squared difference of the
ends' colours in the weight, for flat things on a wall, and averaged normals, for a sensor's noise.

Edges are grouped by their lower vertex, so that only short lists are sorted. Weights are
computed in float32, each operation rounded, in the order of the code; the dot product of rows of
three is (x + y) + z, which gives the same bits as NumPy's ``einsum``.

Touching superpoints are found from the points, not the mesh: a real scan is one mesh and a
generated room is many, and both must give the same neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from data.compiled import compiled
from data.parallel import num_threads
from data.types import Array, Neighbours, PointCloud, Scene

REACH = 0.1
"""Distance in metres below which the points of two superpoints touch."""
_NEIGHBOURS = 9
"""Number of nearest points that are examined for each point, the point itself included."""
_COLOR_SCALE = 40.0
"""Difference of mean colours, in 8-bit steps, at which an affinity falls to 1/e of its value."""
_FEW_CONTACTS = 4.0


def neighbours_of(scene: Scene) -> Neighbours:
    """Return a scene's touching superpoints; compute them if the scene does not hold them."""
    if scene.neighbours is not None:
        return scene.neighbours
    return touching_superpoints(scene.cloud, scene.superpoint_ids, REACH)


def affinity_matrix(neighbours: Neighbours) -> sparse.csr_matrix:
    """Return the (S, S) symmetric sparse matrix of affinities; 0 where superpoints do not touch."""
    first, second = neighbours.pairs.T
    values = np.concatenate([neighbours.affinity, neighbours.affinity])
    where = np.concatenate([first, second]), np.concatenate([second, first])
    size = (neighbours.num_superpoints, neighbours.num_superpoints)
    return sparse.coo_matrix((values, where), shape=size).tocsr()


def touching_superpoints(cloud: PointCloud, superpoint_ids: Array, reach: float) -> Neighbours:
    """Find the pairs of superpoints that have points within ``reach`` metres of each other.

    The affinity of a pair is near 1 if their colours are similar and they meet in many points
    without a crease. It is near 0 if their colours differ or a concave crease separates them, as
    between an object and its support.

    Args:
        cloud: N points with colours and normals.
        superpoint_ids: (N,) int32, 0..S-1.
        reach: metres; only the nearest eight points of each point are examined.
    """
    num = int(superpoint_ids.max(initial=-1)) + 1
    count = max(1, min(_NEIGHBOURS, len(cloud)))
    distance, near = cKDTree(cloud.points).query(
        cloud.points, count, distance_upper_bound=reach, workers=num_threads()
    )
    here, column = np.nonzero(np.isfinite(distance.reshape(len(cloud), count)))
    there = near.reshape(len(cloud), count)[here, column]
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
    """(P,) concavity of the surface between two points: 0 if flat or convex, 1 at a right angle."""
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


_MANY_EDGES = 32
"""Number of a vertex's edges up to which insertion sort is the fastest."""


def mesh_edges(points: Array, triangles: Array) -> Array:
    """Return the edges (E, 2) int32 of a mesh, smaller vertex first, each once, sorted.

    Args:
        points: (N, 3) float32; coincident points are connected by edges, in order of their
            indices. A point with a NaN coincides with no other.
        triangles: (F, 3) integers in [0, N).

    Raises:
        ValueError: a triangle's vertex does not exist.
    """
    triangles = np.ascontiguousarray(triangles)
    if triangles.size and not 0 <= triangles.min() <= triangles.max() < len(points):
        found = f"{triangles.min()} to {triangles.max()}"
        raise ValueError(f"triangles of {len(points)} points have vertices {found}")
    return np.asarray(_edges(triangles, _twins(np.ascontiguousarray(points, np.float32))))


class Cutting(NamedTuple):
    """How a mesh is cut into superpoints.

    Attributes:
        threshold: scale of the pieces; a larger value gives larger pieces.
        min_points: pieces with fewer points join a neighbour if they have one.
        color: weight of the squared CIELAB difference of an edge's ends; 0 for none. Colours are
            averaged with those of the adjacent vertices twice before.
        smoothing: rounds of averaging normals with those of the adjacent vertices.
    """

    threshold: float
    min_points: int
    color: float = 0.0
    smoothing: int = 0


_COLOR_ROUNDS = 2


def averaged(values: Array, edges: Array, rounds: int) -> Array:
    """Average values (N, C) of vertices with those of the adjacent ones; returns (N, C) float32."""
    values = np.asarray(values, np.float32)
    if rounds == 0:
        return values
    ends = np.concatenate([edges, edges[:, ::-1]])
    shape = (len(values), len(values))
    adjacent = sparse.coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape).tocsr()
    counts = 1 + np.diff(adjacent.indptr)[:, None]
    for _ in range(rounds):
        values = np.asarray((values + adjacent @ values) / counts, np.float32)
    return values


def color_weights(colors: Array, edges: Array) -> Array:
    """Return the squared CIELAB difference (E,) float32 of the averaged colours of edges' ends.

    ``colors`` (N, 3) are sRGB in 8 bits.
    """
    import cv2

    scaled = np.asarray(colors, np.float32)[None] / np.float32(255)
    lab = np.asarray(cv2.cvtColor(scaled, cv2.COLOR_RGB2Lab))[0]
    smooth = averaged(lab, edges, _COLOR_ROUNDS)
    steps = smooth[edges[:, 0]] - smooth[edges[:, 1]]
    return np.asarray(np.einsum("ec,ec->e", steps, steps))


def edge_weights(points: Array, normals: Array, edges: Array) -> Array:
    """Return weights (E,) float32 in [0, 2] of mesh edges (E, 2): 1 - cos of the normals' angle.

    A weight is squared where the surface is convex: where the first vertex lies below the second
    one's tangent plane. ``points`` and ``normals`` are (N, 3) float32. The weight is NaN where a
    normal has a NaN.
    """
    points, normals = (np.ascontiguousarray(part, np.float32) for part in (points, normals))
    return np.asarray(_weights(points, normals, edges))


@compiled
def _twins(points: Array) -> Array:
    """Return (N,) int32: the last earlier point with the same coordinates as each; -1 for none."""
    size = 1
    while size < 2 * len(points):
        size *= 2
    # Adding 0 turns -0.0 into 0.0: both are equal but have different bits.
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
    """Group the edges by their lower vertex: offsets ``start`` (N + 1,), upper vertices (H,)."""
    # Counts are stored two entries later and write positions one entry later.
    start = np.zeros(len(twins) + 2, np.int64)
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


_DIGIT, _DIGITS = 11, 3  # Radix sort: bits of a digit, and digits of a float32.
_DIGIT_MASK = np.uint64((1 << _DIGIT) - 1)
_NAN = np.uint64(0x7FC00000)


def superpoints(cloud: PointCloud, triangles: Array, cutting: Cutting) -> Array:
    """Over-segment a mesh: superpoint ids (N,) int32, 0..S-1 in order of first point.

    ``triangles`` (F, 3) int32 index the cloud's points.

    Raises:
        ValueError: a triangle's vertex does not exist.
    """
    edges, normals = mesh_edges(cloud.points, triangles), cloud.normals
    if cutting.smoothing > 0:
        normals = _unit(averaged(normals, edges, cutting.smoothing))
    weights = edge_weights(cloud.points, normals, edges)
    if cutting.color > 0:
        weights += np.float32(cutting.color) * color_weights(cloud.colors, edges)
    ends, costs = _taken(edges, _by_weight(weights))
    limits = float(cutting.threshold), cutting.min_points
    return np.asarray(_segment(ends, costs, len(cloud), *limits))


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


def compact_segments(segment_ids: Array) -> Array:
    """Renumber a dataset's segments (N,) as superpoint ids 0..S-1, int32, by their first point."""
    _, first, inverse = np.unique(segment_ids, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return np.asarray(rank[inverse])


@compiled
def _by_weight(weights: Array) -> Array:
    """Sort edges by weight with a radix sort: return keys (E,) uint64, NaN last, stable.

    A key holds the weight's bits above the edge's index. Non-negative floats have the order of
    their bits.
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
        position, shift = 0, np.uint64(32 + _DIGIT * digit)
        for value in range(1 << _DIGIT):
            position, counts[digit, value] = position + counts[digit, value], position
        for i in range(len(keys)):
            value_of = (keys[i] >> shift) & _DIGIT_MASK
            spare[counts[digit, value_of]] = keys[i]
            counts[digit, value_of] += 1
        keys, spare = spare, keys
    return keys


@compiled
def _taken(edges: Array, keys: Array) -> tuple[Array, Array]:
    """Return edges (E, 2) and weights (E,) in order of ``keys``, for sequential reading."""
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
    """Return each point's superpoint (N,) int32; ``ends`` is sorted by cost and overwritten."""
    parent = np.arange(num_points).astype(np.int32)
    pieces = np.empty((num_points, 2))  # Limit and size of a piece; both are read together.
    pieces[:, 0], pieces[:, 1] = threshold, 1
    num_pending = 0
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
            # Kept for the pieces that are still small; pieces never shrink.
            ends[num_pending, 0], ends[num_pending, 1] = a, b
            num_pending += 1
    for i in range(num_pending):
        a, b = _find(parent, ends[i, 0]), _find(parent, ends[i, 1])
        if a != b and (pieces[a, 1] < min_points or pieces[b, 1] < min_points):
            low, high = min(a, b), max(a, b)
            parent[high] = low
            pieces[low, 1] += pieces[high, 1]
    return _numbered(parent)


@compiled
def _numbered(parent: Array) -> Array:
    """Number the pieces by their first point, which is the root: parents come before children."""
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
    cloud = PointCloud(corners, np.zeros((3, 3), np.uint8), corners)
    superpoints(cloud, np.array([[0, 1, 2]], np.int32), Cutting(1.0, 1, 1.0, 1))
