"""Fuse depth images into a mesh with a truncated signed distance field (Curless and Levoy 1996).

The field is averaged over frames, and its zero level becomes triangles. Open3D's threads give
vertices and triangles in any order, so both are sorted: the same frames give the same mesh.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.geometry.meshes import Mesh
from data.geometry.raycast import open3d
from data.types import Array, Camera

VOXEL = 0.02
"""Edge of a voxel of the distance field, metres: about the spacing of the mesh's vertices."""
REACH = 5.0
"""Largest depth that is used, metres: phones and hand-held sensors get noisy with distance."""
_TRUNCATION = 4.0  # voxels
_BLOCK = 8  # voxels
_BLOCKS_AT_FIRST = 4096
_SEEN_ONCE = 0.5
_LEAST_TRIANGLES = 50


@dataclass(frozen=True, eq=False)
class DepthFrame:
    """A depth frame: ``depth`` (h, w) float32 m, 0 = none; ``color`` (h, w, 3) uint8; its camera.

    ``world_to_camera`` (4, 4) float64, metres, OpenCV axes.
    """

    depth: Array
    color: Array
    camera: Camera
    world_to_camera: Array


def fuse_depth(frames: Iterable[DepthFrame], voxel: float = VOXEL) -> Mesh:
    """Fuse depth frames into a mesh, without connected pieces of a few triangles.

    Frames are consumed one at a time; ``voxel`` is in metres. Triangles face the cameras. The
    mesh is empty if no frame has a surface within ``REACH``.
    """
    library = open3d()
    grid, is_empty = _grid(library, voxel), True
    for frame in frames:
        is_empty = not _integrate(library, grid, frame) and is_empty
    raw_mesh = None if is_empty else grid.extract_triangle_mesh(weight_threshold=_SEEN_ONCE)
    if raw_mesh is None or len(raw_mesh.vertex.positions) == 0:
        return Mesh(*(np.zeros((0, 3), kind) for kind in (np.float32, np.uint8, np.int32)))
    colors = np.rint(raw_mesh.vertex.colors.numpy() * 255).clip(0, 255).astype(np.uint8)
    mesh = _sorted(raw_mesh.vertex.positions.numpy(), colors, raw_mesh.triangle.indices.numpy())
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
    """Add one frame to the field; return whether it has a surface within ``REACH``."""
    if not ((frame.depth > 0) & (frame.depth < REACH)).any():
        return False
    tensor, image = library.core.Tensor, library.t.geometry.Image
    depth = image(tensor(np.ascontiguousarray(frame.depth, np.float32)))
    color = image(tensor(frame.color.astype(np.float32) / 255))
    # Open3D reads the pixel floor(uv), so the intrinsics need no shift of half a pixel.
    K = tensor(frame.camera.K)
    pose = tensor(np.ascontiguousarray(frame.world_to_camera))
    limits = 1.0, REACH, _TRUNCATION
    try:
        blocks = grid.compute_unique_block_coordinates(depth, K, pose, *limits)
    except RuntimeError as error:
        if "No block is touched" in str(error):  # Open3D samples depth; a few pixels are missed.
            return False
        raise
    grid.integrate(blocks, depth, color, K, pose, *limits)
    return True


def _sorted(points: Array, colors: Array, triangles: Array) -> Mesh:
    """Sort vertices by x, y, z and merge equal ones; sort triangles and drop degenerate ones."""
    unique, new_index = np.unique(points, axis=0, return_inverse=True)
    new_index = new_index.reshape(-1)
    darkest = np.full((len(unique), 3), 255, np.uint8)
    np.minimum.at(darkest, new_index, colors)
    corners = new_index[triangles]
    first = corners.argmin(1)[:, None]
    corners = np.take_along_axis(corners, (first + np.arange(3)) % 3, axis=1)
    is_distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    corners = np.unique(corners[is_distinct & (corners[:, 0] != corners[:, 2])], axis=0)
    return Mesh(np.asarray(unique, np.float32), darkest, corners.astype(np.int32))


def _without_crumbs(mesh: Mesh) -> Mesh:
    """Drop connected pieces of fewer than ``_LEAST_TRIANGLES`` triangles, and loose vertices."""
    num, corners = len(mesh.points), mesh.triangles
    edges = np.concatenate([corners[:, :2], corners[:, 1:]])
    graph = coo_array((np.ones(len(edges), bool), tuple(edges.T)), shape=(num, num))
    count, piece = connected_components(graph, directed=False)
    sizes = np.bincount(piece[corners[:, 0]], minlength=count)
    is_kept = sizes[piece] >= _LEAST_TRIANGLES
    new_index = np.cumsum(is_kept, dtype=np.int32) - 1
    triangles = new_index[corners[is_kept[corners[:, 0]]]]
    return Mesh(mesh.points[is_kept], mesh.colors[is_kept], triangles)
