"""Superpoints: small pieces of surface from a mesh's edges, and which of them touch.

Found from the points alone, not from the mesh: real scans are one mesh and generated rooms are
many, and what touches should be the same in both.

Every edge is listed at its lower vertex, so that the edges of a vertex lie together: they are
counted, put in their places and sorted a handful at a time, and nothing as long as the mesh is
ever sorted. Coincident vertices count as joined, so that meshes whose faces do not share vertices
keep their neighbours; they are found by hashing their coordinates.

Weights are computed in float32, each operation rounded, in the order that is written here; the
dot product of rows of three is (x + y) + z. NumPy's ``einsum`` gives the same bits.

Graph-based segmentation (Felzenszwalb and Huttenlocher 2004) of the mesh, as ScanNet's
segmentator applies it: edges join in order of weight as long as the weight is not above either
side's own largest edge plus ``threshold / size``; then pieces under a minimal size join the
neighbour of their lightest edge. The weight of an edge is 1 - cos of its normals' angle,
squared where the surface is convex there (an object's own edges are mostly convex, borders
between objects mostly concave). Unlike the original, coincident vertices count as joined, so
that meshes whose faces do not share vertices keep their neighbours (``data.geometry.superpoints``).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from data.compiled import compiled
from data.parallel import num_threads
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
