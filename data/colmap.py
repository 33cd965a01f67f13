"""COLMAP's text format: ``cameras.txt`` and ``images.txt``.

Poses are world-to-camera with a (w, x, y, z) quaternion and OpenCV axes; pixel centres lie at
0.5, which is this project's own convention, so intrinsics are taken as they stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from data.errors import DataError
from data.jsonio import read_text
from data.types import Array, Camera

_REMEDY = "Download or export this COLMAP model again, as text."
_MODELS = {"PINHOLE": 4, "OPENCV_FISHEYE": 8}
_COUNT = re.compile(r"#\s*Number of (?:cameras|images):\s*(\d+)")


@dataclass(frozen=True, eq=False)
class ColmapImage:
    """One registered image: base name, camera and ``world_to_camera`` (4, 4) float64."""

    name: str
    camera_id: int
    world_to_camera: Array


def rotation_from_quaternion(wxyz: Array) -> Array:
    """(3, 3) rotation of a quaternion (w, x, y, z), which is normalised first."""
    w, x, y, z = wxyz / np.linalg.norm(wxyz)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def read_cameras(path: Path) -> dict[int, Camera]:
    """Cameras by id from ``cameras.txt``; PINHOLE and OPENCV_FISHEYE are understood.

    Raises:
        DataError: missing or damaged file, another camera model, impossible intrinsics.
    """
    text = read_text(path, "a COLMAP cameras.txt", _REMEDY)
    cameras: dict[int, Camera] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        camera_id, camera = _camera(line.split(), path, number)
        if camera_id in cameras:
            raise DataError(path, "each camera once", f"camera {camera_id} twice", _REMEDY)
        cameras[camera_id] = camera
    _check_count(text, len(cameras), path)
    if not text.endswith("\n"):
        # The last number may be cut and still be a number.
        raise DataError(path, "a line break at the end", "none: is the file whole?", _REMEDY)
    return cameras


def _camera(tokens: list[str], path: Path, line: int) -> tuple[int, Camera]:
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
    """Images by base name from ``images.txt``, in the file's order.

    Each image takes two lines, of which the second (2D points) may be empty, so lines are
    read strictly in pairs; comments and blank lines count only between pairs.

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
    """COLMAP writes how many entries follow: a file cut between two entries is noticed."""
    declared = _COUNT.search(text[:4096])
    if found == 0 or (declared and int(declared.group(1)) != found):
        expected = f"{declared.group(1)} entries" if declared else "at least one entry"
        raise DataError(path, expected, str(found), _REMEDY)
