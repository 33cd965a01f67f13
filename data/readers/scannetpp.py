"""ScanNet++ scans (v1 and v2): mesh, overlapping objects, DSLR cameras and images.

Poses come from COLMAP and are checked against the nerfstudio file through its axis change.
COLMAP always describes the fisheye; the pinhole camera of the undistorted images comes from
``transforms_undistorted.json``. Both give pixel coordinates with centres at 0.5: ScanNet++
puts the undistorted principal point at (W / 2, H / 2), the middle of the image.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.colmap import ColmapImage, read_cameras, read_images
from data.errors import DataError
from data.images import ImageFolder, check_image
from data.meshio import read_mesh, vertex_normals
from data.nerfstudio import Frame, Transforms, read_transforms
from data.readers.scannetpp_annotation import (
    ground_truth,
    read_group_names,
    read_groups,
    read_segment_ids,
)
from data.readers.scannetpp_layout import (
    SCENE_REMEDY,
    CameraChoice,
    ScenePaths,
    check_id,
    read_split,
    scene_identity,
)
from data.scan import Scan
from data.types import Camera, PointCloud, View

__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]

POSE_TOLERANCE = 1e-4
_MODELS = {"undistorted": "PINHOLE", "fisheye": "OPENCV_FISHEYE"}
_UNDISTORTED_REMEDY = (
    "Undistort the scene with the ScanNet++ toolkit or download it again, or set"
    " prepare.camera=fisheye."
)


def read_scan(root: Path, scene_id: str, camera: CameraChoice) -> Scan:
    """Read one scene; ``root`` is the dataset's root or its ``data`` folder.

    Frames marked ``is_bad`` (blurred) are left out. Masks and ``train_test_lists.json`` are
    not needed.

    Raises:
        DataError: a file of the layout is missing or damaged, files contradict each other,
            or no usable view is left; the message names the file.
    """
    paths = ScenePaths.find(root, scene_id, camera)
    views = _views(paths)
    mesh = read_mesh(paths.mesh)
    segment_ids = read_segment_ids(paths.segments, len(mesh.points))
    truth = ground_truth(read_groups(paths.annotation), segment_ids, paths.annotation)
    normals = vertex_normals(mesh.points, mesh.triangles)
    cloud = PointCloud(mesh.points, mesh.colors, normals)
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, truth)


def _views(paths: ScenePaths) -> tuple[View, ...]:
    remedy = _UNDISTORTED_REMEDY if paths.camera == "undistorted" else SCENE_REMEDY
    cameras = read_cameras(paths.colmap_cameras)
    images = read_images(paths.colmap_images)
    transforms = read_transforms(paths.transforms, remedy)
    _check_transforms(transforms, paths, remedy)
    folder = ImageFolder(paths.images, remedy)
    views = []
    for frame in transforms.frames:
        if frame.is_bad:
            continue
        image = _match(frame, images, paths)
        camera = _lens(image, cameras, paths)
        if paths.camera == "fisheye":
            _check_intrinsics(camera, transforms.camera, paths)
        else:
            camera = transforms.camera
        image_path = folder.find(frame.name)
        check_image(image_path, camera.height, camera.width)
        view_id = check_id(Path(frame.name).stem, paths.transforms, "an image name")
        views.append(View(view_id, camera, image.world_to_camera, image_path))
    if not views:
        raise DataError(paths.transforms, "at least one frame that is not bad", "none", remedy)
    views.sort(key=lambda view: view.view_id)
    double = [a.view_id for a, b in zip(views, views[1:]) if a.view_id == b.view_id]
    if double:
        raise DataError(paths.transforms, "each image stem once", f"{double[:5]} twice", remedy)
    return tuple(views)


def _check_transforms(transforms: Transforms, paths: ScenePaths, remedy: str) -> None:
    wanted = _MODELS[paths.camera]
    if transforms.camera.model != wanted:
        found = str(transforms.camera.model)
        raise DataError(paths.transforms, f"camera_model {wanted}", found, remedy)


def _match(frame: Frame, images: dict[str, ColmapImage], paths: ScenePaths) -> ColmapImage:
    """Find a frame in COLMAP's images, whose pose must be the frame's own."""
    if frame.name not in images:
        expected = f"image {frame.name}, a frame of {paths.transforms.name}"
        raise DataError(paths.colmap_images, expected, "no such image", SCENE_REMEDY)
    image = images[frame.name]
    colmap, nerfstudio = np.linalg.inv([image.world_to_camera, frame.world_to_camera])
    difference = float(np.abs(colmap - nerfstudio).max())
    if not difference <= POSE_TOLERANCE:
        expected = f"COLMAP's pose of {frame.name} to {POSE_TOLERANCE} (after the axis change)"
        found = f"a difference of {difference:.3g}"
        raise DataError(paths.transforms, expected, found, SCENE_REMEDY)
    return image


def _check_intrinsics(colmap: Camera, nerfstudio: Camera, paths: ScenePaths) -> None:
    """Raise DataError unless COLMAP's fisheye is the nerfstudio file's."""
    a, b = (np.append(camera.K.ravel(), camera.distortion) for camera in (colmap, nerfstudio))
    if not np.allclose(a, b, rtol=1e-5, atol=1e-6):
        expected = f"the intrinsics of {paths.colmap_cameras.name}"
        found = f"a difference of {np.abs(a - b).max():.3g}"
        raise DataError(paths.transforms, expected, found, SCENE_REMEDY)


def _lens(image: ColmapImage, cameras: dict[int, Camera], paths: ScenePaths) -> Camera:
    """The fisheye camera of an image."""
    camera = cameras.get(image.camera_id)
    if camera is None:
        found = f"only {sorted(cameras)[:5]}"
        expected = f"camera {image.camera_id} of {image.name}"
        raise DataError(paths.colmap_cameras, expected, found, SCENE_REMEDY)
    if camera.model != "OPENCV_FISHEYE":
        found = str(camera.model)
        raise DataError(paths.colmap_cameras, "an OPENCV_FISHEYE camera", found, SCENE_REMEDY)
    return camera
