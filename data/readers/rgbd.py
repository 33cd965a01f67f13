"""Read a user's RGB-D scan: posed images with a mesh or with depth to fuse; no annotation.

Depth is fused into a truncated signed distance field (Curless and Levoy 1996), averaged over
frames, whose zero level becomes triangles. Open3D's threads give vertices and triangles in any
order, so both are sorted: the same frames give the same mesh.

Depth images are registered to the colour camera, at its size or a smaller one. The world frame
is that of the poses and should have z up: the height above the floor is a feature of the student.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.errors import DataError
from data.geometry.meshes import Mesh, read_mesh, unique_rows, vertex_normals
from data.geometry.raycast import open3d
from data.images import UNREADABLE
from data.queries.prompts import GroupName
from data.readers.posed_frames import PosedFrames, read_pinhole
from data.readers.rgbd_layout import REMEDY, ScanPaths, check_name, read_split, scene_identity
from data.types import Array, Camera, GroundTruth, PointCloud, Scan, View

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
    first_point, new_index = unique_rows(points)
    darkest = np.full((len(first_point), 3), 255, np.uint8)
    np.minimum.at(darkest, new_index, colors)
    corners = new_index[triangles]
    first = corners.argmin(1)[:, None]
    corners = np.take_along_axis(corners, (first + np.arange(3)) % 3, axis=1)
    is_distinct = (corners[:, 0] != corners[:, 1]) & (corners[:, 1] != corners[:, 2])
    corners = corners[is_distinct & (corners[:, 0] != corners[:, 2])]
    corners = corners[unique_rows(corners)[0]].astype(np.int32)
    return Mesh(np.asarray(points[first_point], np.float32), darkest, corners)


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


__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]

_MILLIMETRE = np.float32(1e-3)
_INTEGER_MODES = ("I;16", "I;16B", "I")
_DEPTH_REMEDY = f"Depth images are 16-bit png files, one an image. {REMEDY}"


def read_scan(root: Path, scene_id: str, camera: str) -> Scan:
    """Read one scan; ``root`` is its folder, or a folder of scans. ``camera`` is ignored.

    Raises:
        DataError: a file is missing or damaged, files contradict each other, no usable view is
            left, or the depth images show no surface; the message names the file.
    """
    paths = ScanPaths.find(root, scene_id)
    frames = PosedFrames(paths.folder, check_name, REMEDY)
    images = frames.images()
    views = frames.views(images, read_pinhole(paths.intrinsics, images[min(images)], REMEDY))
    mesh = read_mesh(paths.mesh) if paths.mesh.exists() else _fused(paths, views)
    cloud = PointCloud(mesh.points, mesh.colors, vertex_normals(mesh.points, mesh.triangles))
    segment_ids = np.arange(len(cloud), dtype=np.int64)
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, _nothing_known(len(cloud)))


def read_group_names(root: Path, scene_id: str) -> list[GroupName]:
    """Return []: a user's scan has no annotated objects."""
    del root, scene_id
    return []


def _nothing_known(num_points: int) -> GroundTruth:
    return GroundTruth((), (), np.zeros(0, np.int32), np.zeros(1, np.int64), num_points)


def _fused(paths: ScanPaths, views: tuple[View, ...]) -> Mesh:
    if not paths.depth.is_dir():
        expected = f"a folder of depth images, or {paths.mesh.name} beside it"
        raise DataError(paths.depth, expected, "no such folder", REMEDY)
    mesh = fuse_depth(_depth_frames(paths, views))
    if len(mesh.triangles) == 0:
        expected = "depth images (millimetres) that show a surface within reach"
        raise DataError(paths.depth, expected, "none", "Check their unit, and the poses.")
    return mesh


def _depth_frames(paths: ScanPaths, views: tuple[View, ...]) -> Iterator[DepthFrame]:
    for view in views:
        depth = read_depth(paths.depth / f"{view.view_id}.png", view)
        try:
            with Image.open(view.image_path) as image:
                color = np.asarray(image.convert("RGB").resize(depth.shape[::-1]))
        except UNREADABLE as error:
            raise DataError(view.image_path, "an image", str(error), REMEDY) from error
        yield DepthFrame(depth, color, view.camera.scaled(*depth.shape), view.world_to_camera)


def read_depth(path: Path, view: View) -> Array:
    """Read a depth image as (h, w) float32 metres, 0 = none.

    Raises:
        DataError: the image is missing, damaged, not of 16 bits, or has another aspect ratio
            than the colour image.
    """
    camera = view.camera
    try:
        with Image.open(path) as image:
            if image.mode not in _INTEGER_MODES:
                raise DataError(path, "a depth image of 16 bits", image.mode, _DEPTH_REMEDY)
            depth = np.asarray(image)
    except FileNotFoundError:
        expected = f"the depth image of {view.image_path.name}"
        raise DataError(path, expected, "no such file", _DEPTH_REMEDY) from None
    except UNREADABLE as error:
        raise DataError(path, "a depth image", str(error), _DEPTH_REMEDY) from error
    height, width = depth.shape
    if abs(height * camera.width - width * camera.height) > max(camera.width, camera.height):
        expected = f"a depth image with the aspect ratio of {camera.width}x{camera.height}"
        remedy = f"Register depth to the colour camera. {REMEDY}"
        raise DataError(path, expected, f"{width}x{height}", remedy)
    if depth.min(initial=0) < 0 or depth.max(initial=0) > np.iinfo(np.uint16).max:
        found = f"values from {depth.min()} to {depth.max()}"
        raise DataError(path, "depth of 0 to 65535 mm", found, _DEPTH_REMEDY)
    return np.asarray(depth * _MILLIMETRE, np.float32)
