"""ScanNet++'s nerfstudio JSON: intrinsics, frames and poses in its permuted world.

The files' poses are camera-to-world with OpenGL camera axes (y up, z backward) in a world whose
axes are permuted to (y, x, -z) of the mesh's (FORMATS: scannetpp toolkit, ``convert_frames``).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from data.errors import DataError
from data.jsonio import get_list, read_json
from data.types import Array, Camera

_WORLD_SWAP = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])
_CAMERA_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame: base name, ``world_to_camera`` (4, 4) in the mesh's world, blur mark."""

    name: str
    world_to_camera: Array
    is_bad: bool


@dataclass(frozen=True, eq=False)
class Transforms:
    """A nerfstudio file: the one camera of all frames, and the frames (test frames last)."""

    camera: Camera
    frames: tuple[Frame, ...]


def nerfstudio_from_world_to_camera(world_to_camera: Array) -> Array:
    """``transform_matrix`` (4, 4) as ScanNet++ writes it, of a pose in the mesh's world."""
    return np.asarray(_WORLD_SWAP @ np.linalg.inv(world_to_camera) @ _CAMERA_FLIP)


def world_to_camera_from_nerfstudio(transform_matrix: Array) -> Array:
    """Inverse of ``nerfstudio_from_world_to_camera``: both changes are their own inverse."""
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
    return Transforms(_camera(content, path, remedy), frames)


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what} is {value!r}, not a number")
    return float(value)


def _camera(content: dict[str, Any], path: Path, remedy: str) -> Camera:
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
