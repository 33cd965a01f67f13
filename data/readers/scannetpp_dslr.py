"""Read the DSLR views of a ScanNet++ scene, from COLMAP's text files and nerfstudio's JSON.

COLMAP's poses are world-to-camera with a (w, x, y, z) quaternion and OpenCV axes. Nerfstudio's
poses are camera-to-world with OpenGL camera axes (y up, z backward), in a world whose axes are
(y, x, -z) of the mesh's (ScanNet++ toolkit, ``convert_frames``). Poses are taken from COLMAP and
compared with the nerfstudio file.

COLMAP describes the fisheye camera; the pinhole camera of the undistorted images comes from
``transforms_undistorted.json``. In both, pixel centres lie at 0.5, as in this project, so
intrinsics are used unchanged; ScanNet++ puts the undistorted principal point at (W / 2, H / 2).
If the undistorted images or that file are missing, the views refer to the fisheye images and to
the pinhole of ``undistorted_camera``, and the images are undistorted when they are read.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.errors import DataError
from data.images import ImageFolder, check_image, find_masks
from data.jsonio import get_list, read_json, read_text
from data.readers.scannetpp_layout import SCENE_REMEDY, ScenePaths, check_id
from data.types import Array, Camera, View

_REMEDY = "Download or export this COLMAP model again, as text."
_MODELS = {"PINHOLE": 4, "OPENCV_FISHEYE": 8}
_COUNT = re.compile(r"#\s*Number of (?:cameras|images):\s*(\d+)")


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """An image registered by COLMAP: base name, camera id, ``world_to_camera`` (4, 4) float64."""

    name: str
    camera_id: int
    world_to_camera: Array


def rotation_from_quaternion(wxyz: Array) -> Array:
    """Convert a quaternion (w, x, y, z) to a rotation (3, 3), after normalising it."""
    w, x, y, z = wxyz / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def read_cameras(path: Path) -> dict[int, Camera]:
    """Read the cameras of ``cameras.txt``, by id; the models are PINHOLE and OPENCV_FISHEYE.

    Raises:
        DataError: missing or damaged file, another camera model, impossible intrinsics.
    """
    text = read_text(path, "a COLMAP cameras.txt", _REMEDY)
    cameras: dict[int, Camera] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        camera_id, camera = _colmap_camera(line.split(), path, number)
        if camera_id in cameras:
            raise DataError(path, "each camera once", f"camera {camera_id} twice", _REMEDY)
        cameras[camera_id] = camera
    _check_count(text, len(cameras), path)
    if not text.endswith("\n"):
        # A truncated last number may still be a number.
        found = "none: the file may be truncated"
        raise DataError(path, "a line break at the end", found, _REMEDY)
    return cameras


def _colmap_camera(tokens: list[str], path: Path, line: int) -> tuple[int, Camera]:
    model = tokens[1] if len(tokens) > 1 else "nothing"
    if model not in _MODELS:
        expected = f"a camera model of {sorted(_MODELS)} in line {line}"
        raise DataError(path, expected, repr(model[:40]), "Convert the camera to one of these.")
    if len(tokens) != 4 + _MODELS[model]:
        expected = f"{4 + _MODELS[model]} values in line {line} ({model})"
        raise DataError(path, expected, f"{len(tokens)}", _REMEDY)
    try:
        camera_id, width, height = int(tokens[0]), int(tokens[2]), int(tokens[3])
        fx, fy, cx, cy, *distortion = (float(token) for token in tokens[4:])
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        if not np.isfinite(distortion).all():
            raise ValueError("a distortion value is not finite")
        camera = Camera(model, K, height, width, tuple(distortion))  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(path, f"a camera in line {line}", str(error), _REMEDY) from error
    return camera_id, camera


def read_images(path: Path) -> dict[str, ColmapImage]:
    """Read the images of ``images.txt``, by base name, in the file's order.

    Each image has two lines, of which the second (2D points) may be empty, so lines are read
    strictly in pairs; comments and blank lines are skipped only between pairs.

    Raises:
        DataError: missing, truncated or damaged file, or a base name that occurs twice.
    """
    text = read_text(path, "a COLMAP images.txt", _REMEDY)
    lines = text.split("\n")
    images: dict[str, ColmapImage] = {}
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if not line.strip() or line.startswith("#"):
            continue
        if index >= len(lines) or len(lines[index].split()) % 3:
            expected = f"a line of 2D points (X Y ID, or empty) after line {index}"
            raise DataError(path, expected, "none", _REMEDY)
        image = _image(line.split(maxsplit=9), path, index)
        if image.name in images:
            raise DataError(path, "each image name once", f"{image.name!r} twice", _REMEDY)
        images[image.name] = image
        index += 1
    _check_count(text, len(images), path)
    return images


def _image(tokens: list[str], path: Path, line: int) -> ColmapImage:
    expected = f"line {line} as 'ID QW QX QY QZ TX TY TZ CAMERA_ID NAME'"
    if len(tokens) != 10:
        raise DataError(path, expected, f"{len(tokens)} values", _REMEDY)
    try:
        int(tokens[0])
        camera_id = int(tokens[8])
        numbers = np.array([float(token) for token in tokens[1:8]])
    except ValueError as error:
        raise DataError(path, expected, str(error), _REMEDY) from error
    unit = abs(float(np.linalg.norm(numbers[:4])) - 1) < 1e-3
    if not np.isfinite(numbers).all() or not unit:
        raise DataError(
            path, f"a finite pose with a unit quaternion in line {line}", str(numbers), _REMEDY
        )
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation_from_quaternion(numbers[:4]), numbers[4:]
    return ColmapImage(PurePosixPath(tokens[9].strip()).name, camera_id, pose)


def _check_count(text: str, found: int, path: Path) -> None:
    """Compare the number of entries with the header's, to detect a truncated file."""
    declared = _COUNT.search(text[:4096])
    if found == 0 or (declared and int(declared.group(1)) != found):
        expected = f"{declared.group(1)} entries" if declared else "at least one entry"
        raise DataError(path, expected, str(found), _REMEDY)


_WORLD_SWAP = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
_CAMERA_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame of a nerfstudio file: base name, ``world_to_camera`` (4, 4) in the mesh's frame.

    ``is_bad`` marks a blurred image.
    """

    name: str
    world_to_camera: Array
    is_bad: bool


@dataclass(frozen=True, eq=False)
class Transforms:
    """A nerfstudio file: the camera of all frames, and the frames (test frames last)."""

    camera: Camera
    frames: tuple[Frame, ...]


def nerfstudio_from_world_to_camera(world_to_camera: Array) -> Array:
    """Convert a pose in the mesh's world to ScanNet++'s ``transform_matrix`` (4, 4)."""
    return np.asarray(_WORLD_SWAP @ np.linalg.inv(world_to_camera) @ _CAMERA_FLIP)


def world_to_camera_from_nerfstudio(transform_matrix: Array) -> Array:
    """Convert a ``transform_matrix`` (4, 4) to ``world_to_camera`` (4, 4) in the mesh's frame."""
    return np.asarray(np.linalg.inv(_WORLD_SWAP @ transform_matrix @ _CAMERA_FLIP))


def read_transforms(path: Path, remedy: str) -> Transforms:
    """Read ``transforms.json`` or ``transforms_undistorted.json``.

    Raises:
        DataError: missing or damaged file, unknown camera model, a PINHOLE camera with
            distortion, poses that are not rigid, a frame's name twice.
    """
    content = read_json(path, "a nerfstudio transforms file", remedy)
    entries = get_list(content, "frames", path, remedy)
    if "test_frames" in content:
        entries = entries + get_list(content, "test_frames", path, remedy)
    frames = tuple(_frame(entry, path, i, remedy) for i, entry in enumerate(entries))
    names = [frame.name for frame in frames]
    if not frames or len(set(names)) != len(names):
        double = sorted({name for name in names if names.count(name) > 1})
        raise DataError(path, "frames, each name once", f"{double or 'no frame'}", remedy)
    return Transforms(_nerfstudio_camera(content, path, remedy), frames)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what} is {value!r}, not a number")
    return float(value)


def _nerfstudio_camera(content: dict[str, Any], path: Path, remedy: str) -> Camera:
    try:
        fx, fy, cx, cy, width, height = (
            _number(content.get(key), key) for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")
        )
        lens = tuple(_number(content.get(key, 0.0), key) for key in ("k1", "k2", "k3", "k4"))
        model = content.get("camera_model")
        if model == "PINHOLE" and any(lens):
            raise ValueError("a PINHOLE camera with distortion values")
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        distortion = () if model == "PINHOLE" else lens
        return Camera(model, K, int(height), int(width), distortion)  # type: ignore[arg-type]
    except ValueError as error:
        raise DataError(path, "the intrinsics of one camera", str(error), remedy) from error


def _frame(entry: Any, path: Path, index: int, remedy: str) -> Frame:
    expected = f"frame {index} with file_path and a rigid 4x4 transform_matrix"
    if not isinstance(entry, dict) or not isinstance(entry.get("file_path"), str):
        raise DataError(path, expected, repr(entry)[:80], remedy)
    name = PurePosixPath(entry["file_path"]).name
    try:
        matrix = np.array(entry.get("transform_matrix"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(path, expected, f"{name}: {error}", remedy) from error
    shaped = matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())
    if not shaped or not np.allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-3):
        raise DataError(path, expected, f"{name}: {matrix.tolist()!r:.120}", remedy)
    is_bad = entry.get("is_bad", False)
    return Frame(name, world_to_camera_from_nerfstudio(matrix), bool(is_bad))


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
    """Read a view for every frame that is not marked ``is_bad`` (blurred), sorted by view id.

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
        image_camera = lens if paths.shows_fisheye else transforms.camera
        view = View(
            check_id(Path(frame.name).stem, paths.transforms, "an image name"),
            pinholes.get(image.camera_id, image_camera),
            image.world_to_camera,
            folder.find(frame.name),
            lens if paths.camera == "undistorted" else None,
            paths.undistorts,
            masks.get(frame.name),
        )
        _check_files(view)
        views.append(view)
    views.sort(key=lambda view: view.view_id)
    repeated = [a.view_id for a, b in zip(views, views[1:]) if a.view_id == b.view_id]
    if repeated:
        raise DataError(paths.transforms, "each image stem once", f"{repeated[:5]} twice", remedy)
    return tuple(views)


def _check_files(view: View) -> None:
    size = view.file_camera.height, view.file_camera.width
    check_image(view.image_path, *size)
    if view.mask_path is not None:
        check_image(view.mask_path, *size)


def _check_model(transforms: Transforms, paths: ScenePaths, remedy: str) -> None:
    expected_model = "OPENCV_FISHEYE" if paths.shows_fisheye else "PINHOLE"
    if transforms.camera.model != expected_model:
        found = str(transforms.camera.model)
        raise DataError(paths.transforms, f"camera_model {expected_model}", found, remedy)


def _match(frame: Frame, images: dict[str, ColmapImage], paths: ScenePaths) -> ColmapImage:
    """Find a frame's image in COLMAP's model; DataError if it is missing or the poses differ."""
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
    """Raise DataError unless both files have the same fisheye intrinsics."""
    a, b = (np.append(camera.K.ravel(), camera.distortion) for camera in (colmap, nerfstudio))
    if not np.allclose(a, b, rtol=1e-5, atol=1e-6):
        expected = f"the intrinsics of {paths.colmap_cameras.name}"
        found = f"a difference of {np.abs(a - b).max():.3g}"
        raise DataError(paths.transforms, expected, found, SCENE_REMEDY)


def _lens(image: ColmapImage, cameras: dict[int, Camera], paths: ScenePaths) -> Camera:
    """Return the fisheye camera of an image; DataError if it is missing or of another model."""
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
    """Return the pinhole camera for each fisheye camera, by camera id."""
    # Not imported at the top: planning a run imports the reader, and OpenCV is slow to import.
    from data.geometry.undistort import undistorted_camera

    pinholes = {}
    for camera_id, lens in cameras.items():
        if lens.model != "OPENCV_FISHEYE":
            continue
        try:
            pinholes[camera_id] = undistorted_camera(lens)
        except ValueError as error:
            expected = f"camera {camera_id} to have a lens that can be undistorted"
            raise DataError(paths.colmap_cameras, expected, str(error), SCENE_REMEDY) from error
    return pinholes
