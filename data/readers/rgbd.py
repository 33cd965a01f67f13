"""Read a user's RGB-D scan: posed images with a mesh or with depth to fuse; no annotation.

Depth images are registered to the colour camera, at its size or a smaller one. The world frame
is that of the poses and should have z up: the height above the floor is a feature of the student.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.errors import DataError
from data.geometry.depth_fusion import DepthFrame, fuse_depth
from data.geometry.meshes import Mesh, read_mesh, vertex_normals
from data.images import UNREADABLE
from data.queries.prompts import GroupName
from data.readers.posed_frames import PosedFrames, read_pinhole
from data.readers.rgbd_layout import REMEDY, ScanPaths, check_name, read_split, scene_identity
from data.types import Array, GroundTruth, PointCloud, Scan, View

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
