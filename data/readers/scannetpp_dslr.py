"""The DSLR views of a ScanNet++ scene: fisheye, undistorted by the dataset, or undistorted here.

Poses come from COLMAP and are checked against the nerfstudio file through its axis change.
COLMAP always describes the fisheye; the pinhole camera of the undistorted images comes from
``transforms_undistorted.json``. Both give pixel coordinates with centres at 0.5: ScanNet++
puts the undistorted principal point at (W / 2, H / 2), the middle of the image. Where the
undistorted images or that file are missing, views are the fisheye images with the pinhole that
ScanNet++'s recipe makes of their lens; who reads such an image undistorts it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.colmap import ColmapImage, read_cameras, read_images
from data.errors import DataError
from data.images import ImageFolder, check_image, find_masks
from data.nerfstudio import Frame, Transforms, read_transforms
from data.readers.scannetpp_layout import SCENE_REMEDY, ScenePaths, check_id
from data.types import Camera, View

log = logging.getLogger(__name__)

POSE_TOLERANCE = 1e-4
_UNDISTORTED_REMEDY = (
    "Undistort the scene with the ScanNet++ toolkit or download it again, or set"
    " prepare.camera=fisheye."
)
_HERE_REMEDY = (
    "Download the fisheye images (resized_images, nerfstudio/transforms.json), which are"
    " undistorted as they are read, or undistorted ones (resized_undistorted_images,"
    " nerfstudio/transforms_undistorted.json)."
)


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """Every frame that is not marked ``is_bad`` (blurred), sorted by view id.

    Raises:
        DataError: a file is missing or damaged, files contradict each other, or no usable
            view is left; the message names the file.
    """
    remedy = SCENE_REMEDY
    if paths.camera == "undistorted":
        remedy = _HERE_REMEDY if paths.undistorts else _UNDISTORTED_REMEDY
    cameras = read_cameras(paths.colmap_cameras)
    images = read_images(paths.colmap_images)
    transforms = read_transforms(paths.transforms, remedy)
    _check_model(transforms, paths, remedy)
    folder = ImageFolder(paths.images, remedy)
    frames = [frame for frame in transforms.frames if not frame.is_bad]
    if not frames:
        raise DataError(paths.transforms, "at least one frame that is not bad", "none", remedy)
    if paths.undistorts:
        log.info("%s: %d images are undistorted as they are read", paths.images, len(frames))
    masks = find_masks(paths.masks, [frame.name for frame in frames])
    pinholes = _pinholes(cameras, paths) if paths.undistorts else {}
    views = []
    for frame in frames:
        image = _match(frame, images, paths)
        lens = _lens(image, cameras, paths)
        if paths.shows_fisheye:
            _check_intrinsics(lens, transforms.camera, paths)
        shown = lens if paths.shows_fisheye else transforms.camera
        view = View(
            check_id(Path(frame.name).stem, paths.transforms, "an image name"),
            pinholes.get(image.camera_id, shown),
            image.world_to_camera,
            folder.find(frame.name),
            lens if paths.camera == "undistorted" else None,
            paths.undistorts,
            masks.get(frame.name),
        )
        _check_files(view)
        views.append(view)
    views.sort(key=lambda view: view.view_id)
    double = [a.view_id for a, b in zip(views, views[1:]) if a.view_id == b.view_id]
    if double:
        raise DataError(paths.transforms, "each image stem once", f"{double[:5]} twice", remedy)
    return tuple(views)


def _check_files(view: View) -> None:
    size = view.file_camera.height, view.file_camera.width
    check_image(view.image_path, *size)
    if view.mask_path is not None:
        check_image(view.mask_path, *size)


def _check_model(transforms: Transforms, paths: ScenePaths, remedy: str) -> None:
    wanted = "OPENCV_FISHEYE" if paths.shows_fisheye else "PINHOLE"
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


def _pinholes(cameras: dict[int, Camera], paths: ScenePaths) -> dict[int, Camera]:
    """The cameras of ScanNet++'s recipe, by the fisheye's id."""
    # Imported where it is needed: planning a run imports the reader, and OpenCV takes long.
    from data.undistort import undistorted_camera

    pinholes = {}
    for camera_id, lens in cameras.items():
        if lens.model != "OPENCV_FISHEYE":
            continue
        try:
            pinholes[camera_id] = undistorted_camera(lens)
        except ValueError as error:
            expected = f"a lens whose pictures can be undistorted as camera {camera_id}"
            raise DataError(paths.colmap_cameras, expected, str(error), SCENE_REMEDY) from error
    return pinholes
