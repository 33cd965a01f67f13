"""The iPhone views of a ScanNet++ scene: frames taken out of ``rgb.mkv``, and ARKit's poses.

    <scene>/iphone/   rgb/frame_%06d.jpg  rgb_masks/frame_%06d.png  pose_intrinsic_imu.json

Frames are numbered from 0 and joined with poses by their name, never by their position: there
may be fewer of either. ``aligned_pose`` is camera-to-world in the mesh's frame. ARKit counts
the principal point from the picture's corner, which is this project's own convention, so
intrinsics are taken as they stand; its pictures are taken to be without distortion.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.images import ImageFolder, check_image, find_masks, image_size
from data.jsonio import read_json
from data.readers.scannetpp_layout import SCENE_REMEDY, ScenePaths, check_id
from data.types import Array, Camera, View

log = logging.getLogger(__name__)

_RIGID = 1e-3
# A principal point further from the middle, as a share of the picture, is of another size.
_OFF_CENTRE = 0.15


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """A view for each frame in ``iphone/rgb`` that has a finite pose, sorted by name.

    Frames without a pose, and those whose pose is not finite, are left out and counted in the
    log.

    Raises:
        DataError: frames were not taken out of the video yet (the message tells the command);
            a file is missing or damaged; no frame has a pose.
    """
    folder = ImageFolder(paths.images, _extract_remedy(paths))
    files = folder.files(".jpg", ".png")
    if not files:
        raise DataError(paths.images, "frames of the video", "none", _extract_remedy(paths))
    entries = _read_entries(paths.poses)
    masks = find_masks(paths.masks, [path.name for path in files])
    size = image_size(files[0])
    views, without, wild = [], 0, 0
    for path in files:
        entry = entries.get(path.stem)
        if entry is None:
            without += 1
            continue
        pose = _pose(entry, path.stem, paths.poses)
        if pose is None:
            wild += 1
            continue
        view_id = check_id(path.stem, paths.images, "a frame name")
        camera = _camera(entry, path.stem, size, paths)
        check_image(path, *size)
        mask = masks.get(path.name)
        if mask is not None:
            check_image(mask, *size)
        views.append(View(view_id, camera, pose, path, mask_path=mask))
    if without or wild:
        told = "%s: of %d frames %d have no pose and %d one that is not finite; left out"
        log.warning(told, paths.poses, len(files), without, wild)
    if not views:
        found = f"none of {len(files)} ({files[0].stem}, ...)"
        raise DataError(paths.poses, "a finite pose of some frame", found, SCENE_REMEDY)
    return tuple(sorted(views, key=lambda view: view.view_id))


def _extract_remedy(paths: ScenePaths) -> str:
    if not paths.video.exists():
        return SCENE_REMEDY
    told = f"--scene {paths.folder} --output {paths.images.parent} --every 20"
    return f"Take frames out of rgb.mkv: python -m pipeline extract-iphone {told}"


def _read_entries(path: Path) -> dict[str, Any]:
    """``pose_intrinsic_imu.json`` by frame name; numbers that are not finite may be in it."""
    content = read_json(path, "the iPhone's poses", SCENE_REMEDY, finite=False)
    if not isinstance(content, dict) or not content:
        found = "an empty one" if isinstance(content, dict) else type(content).__name__
        raise DataError(path, "a JSON object of frames", found, SCENE_REMEDY)
    return content


def _matrix(entry: Any, key: str, size: int, name: str, path: Path) -> Array:
    expected = f"{name}.{key} as {size} rows of {size} numbers"
    value = entry.get(key) if isinstance(entry, dict) else None
    try:
        matrix = np.array(value)
    except ValueError as error:
        raise DataError(path, expected, str(error), SCENE_REMEDY) from error
    if matrix.shape != (size, size) or matrix.dtype.kind not in "if":
        raise DataError(path, expected, repr(value)[:80], SCENE_REMEDY)
    return matrix.astype(np.float64)


def _pose(entry: Any, name: str, path: Path) -> Array | None:
    """``world_to_camera`` (4, 4); None for a pose that is not finite."""
    pose = _matrix(entry, "aligned_pose", 4, name, path)
    if not np.isfinite(pose).all():
        return None
    rotation, position = pose[:3, :3], pose[:3, 3]
    rest = np.abs(rotation @ rotation.T - np.eye(3)).max()
    rest = max(rest, np.abs(pose[3] - [0, 0, 0, 1]).max())
    if not rest <= _RIGID or np.linalg.det(rotation) < 0:
        expected = f"{name}.aligned_pose as a rigid motion to {_RIGID}"
        raise DataError(path, expected, f"a difference of {rest:.3g}", SCENE_REMEDY)
    left, _, right = np.linalg.svd(rotation)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = (left @ right).T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    return world_to_camera


def _camera(entry: Any, name: str, size: tuple[int, int], paths: ScenePaths) -> Camera:
    K = _matrix(entry, "intrinsic", 3, name, paths.poses)
    height, width = size
    try:
        if K[0, 1] or K[1, 0] or K[2].tolist() != [0, 0, 1]:
            raise ValueError("no intrinsics without skew")
        camera = Camera("PINHOLE", K, height, width)
    except ValueError as error:
        expected = f"{name}.intrinsic as a camera's"
        raise DataError(paths.poses, expected, str(error), SCENE_REMEDY) from error
    off = np.abs(K[:2, 2] / [width, height] - 0.5).max()
    if not off <= _OFF_CENTRE:
        expected = f"{name}.intrinsic for frames of {width}x{height}, as in {paths.images}"
        found = f"a principal point at {K[0, 2]:.1f}, {K[1, 2]:.1f}"
        remedy = "Frames must have the size of the video's pictures: extract them again."
        raise DataError(paths.poses, expected, found, remedy)
    return camera
