"""Depth images to a coloured mesh: a truncated signed distance field, by Open3D.

The field is Curless and Levoy's (1996), averaged over frames and cut into triangles where it is
zero. Open3D's threads give vertices and triangles in any order, so both are sorted: the same
frames give the same mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.meshio import Mesh
from data.open3d_library import open3d
from data.types import Array, Camera

VOXEL = 0.02
"""Edge of a voxel of the field, metres: about the spacing of the mesh's vertices."""
REACH = 5.0
"""Depth beyond it is not used, metres: phones and hand-held sensors blur with distance."""
_TRUNCATION = 4.0  # voxels
_BLOCK = 8  # voxels
_BLOCKS_AT_FIRST = 4096
_SEEN_ONCE = 0.5
_LEAST_TRIANGLES = 50


@dataclass(frozen=True, eq=False)
class DepthFrame:
    """``depth`` (h, w) float32 m, 0 = none; ``color`` (h, w, 3) uint8; the camera of both.

    ``world_to_camera`` (4, 4) float64, metres, OpenCV axes.
    """

    depth: Array
    color: Array
    camera: Camera
    world_to_camera: Array


def fuse_depth(frames: Iterable[DepthFrame], voxel: float = VOXEL) -> Mesh:
    """The surface that the frames show, without crumbs of a few triangles.

    Frames are taken one at a time; ``voxel`` is in metres. Triangles face the cameras. The mesh
    has none where no surface was in reach.
    """
    library = open3d()
    grid, is_empty = _grid(library, voxel), True
    for frame in frames:
        is_empty = not _integrate(library, grid, frame) and is_empty
    made = None if is_empty else grid.extract_triangle_mesh(weight_threshold=_SEEN_ONCE)
    if made is None or len(made.vertex.positions) == 0:
        return Mesh(*(np.zeros((0, 3), kind) for kind in (np.float32, np.uint8, np.int32)))
    colors = np.rint(made.vertex.colors.numpy() * 255).clip(0, 255).astype(np.uint8)
    mesh = _sorted(made.vertex.positions.numpy(), colors, made.triangle.indices.numpy())
    return _without_crumbs(mesh)


def _grid(library: ModuleType, voxel: float) -> Any:
    core = library.core
    return library.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight", "color"),
        (core.float32,) * 3,
        (1, 1, 3),
        voxel,
        _BLOCK,
        _BLOCKS_AT_FIRST,
        core.Device("CPU:0"),
    )


def _integrate(library: ModuleType, grid: Any, frame: DepthFrame) -> bool:
    """Add one frame to the field; whether it showed anything in reach."""
    if not ((frame.depth > 0) & (frame.depth < REACH)).any():
        return False
    tensor, image = library.core.Tensor, library.t.geometry.Image
    depth = image(tensor(np.ascontiguousarray(frame.depth, np.float32)))
    color = image(tensor(frame.color.astype(np.float32) / 255))
    # Open3D looks up floor(uv), so that a pixel's centre is at half a pixel here as everywhere.
    K = tensor(frame.camera.K)
    pose = tensor(np.ascontiguousarray(frame.world_to_camera))
    limits = 1.0, REACH, _TRUNCATION
    try:
        blocks = grid.compute_unique_block_coordinates(depth, K, pose, *limits)
    except RuntimeError as error:
        if "No block is touched" in str(error):  # a few pixels, which the search strode over
            return False
        raise
    grid.integrate(blocks, depth, color, K, pose, *limits)
    return True


def _sorted(points: Array, colors: Array, triangles: Array) -> Mesh:
    """Vertices by x, y and z, equal ones as one; triangles by their corners, none without area."""
    unique, place = np.unique(points, axis=0, return_inverse=True)
    place = place.reshape(-1)
    darkest = np.full((len(unique), 3), 255, np.uint8)
    np.minimum.at(darkest, place, colors)
    corners = place[triangles]
    first = corners.argmin(1)[:, None]
    corners = np.take_along_axis(corners, (first + np.arange(3)) % 3, axis=1)
    apart = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    corners = np.unique(corners[apart & (corners[:, 0] != corners[:, 2])], axis=0)
    return Mesh(np.asarray(unique, np.float32), darkest, corners.astype(np.int32))


def _without_crumbs(mesh: Mesh) -> Mesh:
    """Drop connected pieces of fewer than ``_LEAST_TRIANGLES`` triangles, and loose vertices."""
    num, corners = len(mesh.points), mesh.triangles
    edges = np.concatenate([corners[:, :2], corners[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(num, num))
    count, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece[corners[:, 0]], minlength=count)
    kept = sizes[piece] >= _LEAST_TRIANGLES
    new = np.cumsum(kept, dtype=np.int32) - 1
    triangles = new[corners[kept[corners[:, 0]]]]
    return Mesh(mesh.points[kept], mesh.colors[kept], triangles)
