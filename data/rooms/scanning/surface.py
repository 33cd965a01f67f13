"""Compare a scan with the true surface: each vertex's object, the scan's error and its coverage."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from data.compiled import compiled
from data.rooms.room import Mesh
from data.types import Array

SAME_SURFACE = 0.06
"""Largest distance in metres between a scan's vertex and the object that it belongs to."""
COVERED = 0.05
"""Distance in metres within which the scan must have a vertex for a place to be covered."""
_FINEST = 1e9  # Squared distances are compared in steps of 1 / this, square metres.
_SLACK = 1e-4  # Metres; more than the error of a step.


class Nearest(NamedTuple):
    """The nearest surface of points: ``distance`` (N,) metres, ``owner`` (N,), an object's index.

    The distance is inf and the owner -1 where no surface is within reach.
    """

    distance: Array
    owner: Array


class _Cells(NamedTuple):
    """Triangles by cell of a grid: those that come within one edge of the cell.

    The grid begins at ``low`` (3,) and has ``size`` (3,) cells with edges of ``edge`` metres. Cell
    c has the triangles ``members[starts[c]:starts[c + 1]]``.
    """

    low: Array
    size: Array
    edge: float
    starts: Array
    members: Array


def nearest_surface(points: Array, mesh: Mesh, reach: float) -> Nearest:
    """Find the true surface nearest to each of ``points`` (N, 3), at most ``reach`` metres away.

    Where several objects' surfaces are equally near, the last object is taken: what stands on
    another thing comes after it.
    """
    corners = mesh.vertices[mesh.triangles]
    owners = mesh.vertex_objects[mesh.triangles[:, 0]]
    low = corners.min(axis=(0, 1)) - reach
    size = np.floor((corners.max(axis=(0, 1)) + reach - low) / reach).astype(np.int64) + 1
    spheres = np.empty((len(corners), 4))
    spheres[:, :3] = corners.mean(axis=1)
    offsets = corners - spheres[:, None, :3]
    spheres[:, 3] = np.sqrt((offsets * offsets).sum(axis=2).max(axis=1))
    cells = _Cells(low, size, reach, *_listed(corners, low, size, reach))
    distance, owner = np.full(len(points), np.inf), np.full(len(points), -1, np.int64)
    _search(points.astype(np.float64), corners, spheres, owners, cells, distance, owner)
    return Nearest(distance, owner)


def surface_errors(points: Array, near: Nearest, mesh: Mesh) -> Array:
    """Return the distance (N,) of points to the true surface.

    ``near`` is the result of ``nearest_surface``; for the points out of its reach the distance is
    that to the nearest vertex.
    """
    errors = near.distance.copy()
    beyond = np.flatnonzero(np.isinf(errors))
    if len(beyond):
        errors[beyond] = cKDTree(mesh.vertices).query(points[beyond])[0]
    return errors


def covered_shares(points: Array, mesh: Mesh, num_objects: int) -> Array:
    """Return the covered share of each object's surface, and of all: (num_objects + 1,).

    A share is by area. A place is covered if a point of the scan is within ``COVERED``. It is NaN
    for an object without visible surface.
    """
    corners = mesh.vertices[mesh.triangles]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.sqrt((cross * cross).sum(axis=1)) / 6
    weight = np.bincount(mesh.triangles.ravel(), np.repeat(area, 3), len(mesh.vertices))
    is_covered = np.zeros(len(mesh.vertices), bool)
    if len(points):
        distance = cKDTree(points).query(mesh.vertices, distance_upper_bound=COVERED)[0]
        is_covered = np.isfinite(distance)
    whole = np.bincount(mesh.vertex_objects, weight, num_objects)
    held = np.bincount(mesh.vertex_objects, weight * is_covered, num_objects)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.append(held, held.sum()) / np.append(whole, whole.sum()))


@compiled
def _listed(corners: Array, low: Array, size: Array, cell: float) -> tuple[Array, Array]:
    """Return ``starts`` and ``members`` of ``_Cells``."""
    starts = np.zeros(size[0] * size[1] * size[2] + 2, np.int64)
    members = np.empty(0, np.int32)
    for fill in range(2):
        if fill:
            for i in range(2, len(starts)):
                starts[i] += starts[i - 1]
            members = np.empty(starts[-1], np.int32)
        for face in range(len(corners)):
            first, last = np.empty(3, np.int64), np.empty(3, np.int64)
            for axis in range(3):
                a, b, c = corners[face, 0, axis], corners[face, 1, axis], corners[face, 2, axis]
                first[axis] = int(np.floor((min(a, min(b, c)) - cell - low[axis]) / cell))
                last[axis] = int(np.floor((max(a, max(b, c)) + cell - low[axis]) / cell))
                first[axis] = max(first[axis], 0)
                last[axis] = min(last[axis], size[axis] - 1)
            for i in range(first[0], last[0] + 1):
                for j in range(first[1], last[1] + 1):
                    for k in range(first[2], last[2] + 1):
                        at = (i * size[1] + j) * size[2] + k
                        if fill:
                            members[starts[at + 1]] = face
                            starts[at + 1] += 1
                        else:
                            starts[at + 2] += 1
    return starts[:-1], members


@compiled
def _search(
    points: Array,
    corners: Array,
    spheres: Array,
    owners: Array,
    cells: _Cells,
    distance: Array,
    owner: Array,
) -> None:
    """Fill ``distance`` and ``owner``; ``spheres`` (F, 4) are centres and radii of triangles."""
    low, size = cells.low, cells.size
    for n in range(len(points)):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        i = int(np.floor((x - low[0]) / cells.edge))
        j = int(np.floor((y - low[1]) / cells.edge))
        k = int(np.floor((z - low[2]) / cells.edge))
        if i < 0 or j < 0 or k < 0 or i >= size[0] or j >= size[1] or k >= size[2]:
            continue
        at = (i * size[1] + j) * size[2] + k
        nearest, steps, best_owner = cells.edge, np.inf, -1
        for entry in range(cells.starts[at], cells.starts[at + 1]):
            face = cells.members[entry]
            dx, dy, dz = x - spheres[face, 0], y - spheres[face, 1], z - spheres[face, 2]
            most = spheres[face, 3] + nearest + _SLACK
            if dx * dx + dy * dy + dz * dz > most * most:
                continue
            square = _square_distance(x, y, z, corners[face])
            found = np.rint(square * _FINEST)
            if found < steps or (found == steps and owners[face] > best_owner):
                nearest, steps, best_owner = np.sqrt(square), found, owners[face]
        if best_owner >= 0 and nearest <= cells.edge:
            distance[n], owner[n] = nearest, best_owner


@compiled
def _square_distance(x: float, y: float, z: float, triangle: Array) -> float:
    """Return the squared distance of a point to a triangle (3, 3) (Ericson 2005, section 5.1.5)."""
    ax, ay, az = triangle[0, 0], triangle[0, 1], triangle[0, 2]
    ux, uy, uz = triangle[1, 0] - ax, triangle[1, 1] - ay, triangle[1, 2] - az
    vx, vy, vz = triangle[2, 0] - ax, triangle[2, 1] - ay, triangle[2, 2] - az
    px, py, pz = x - ax, y - ay, z - az
    uu, vv = ux * ux + uy * uy + uz * uz, vx * vx + vy * vy + vz * vz
    uv = ux * vx + uy * vy + uz * vz
    up, vp = ux * px + uy * py + uz * pz, vx * px + vy * py + vz * pz
    # Dot products of both sides with the offset from the first, second and third corner.
    up_b, vp_b, up_c, vp_c = up - uu, vp - uv, up - uv, vp - vv
    part_c, part_b = up * vp_b - up_b * vp, up_c * vp - up * vp_c
    part_a = up_b * vp_c - up_c * vp_b
    # The nearest point is the first corner + s u + t v.
    if up <= 0 and vp <= 0:
        s, t = 0.0, 0.0
    elif up_b >= 0 and vp_b <= up_b:
        s, t = 1.0, 0.0
    elif vp_c >= 0 and up_c <= vp_c:
        s, t = 0.0, 1.0
    elif part_c <= 0 and up >= 0 and up_b <= 0:
        s, t = up / uu, 0.0
    elif part_b <= 0 and vp >= 0 and vp_c <= 0:
        s, t = 0.0, vp / vv
    elif part_a <= 0 and vp_b >= up_b and up_c >= vp_c:
        t = (vp_b - up_b) / ((vp_b - up_b) + (up_c - vp_c))
        s = 1 - t
    else:
        whole = part_a + part_b + part_c
        s, t = part_b / whole, part_c / whole
    dx, dy, dz = px - s * ux - t * vx, py - s * uy - t * vy, pz - s * uz - t * vz
    return float(dx * dx + dy * dy + dz * dz)


def warm() -> None:
    """Load this module's compiled loops, or compile them."""
    corners, one = np.eye(3), np.zeros(3, np.int64)
    mesh = Mesh(corners, corners, np.array([[0, 1, 2]]), one, one, corners)
    nearest_surface(corners, mesh, 1.0)
