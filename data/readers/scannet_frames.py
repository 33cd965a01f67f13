"""ScanNet v2's exported frames: colour images, poses, intrinsics, as ``posed_frames`` has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.errors import DataError
from data.readers.posed_frames import PosedFrames, read_pinhole
from data.readers.scannet_layout import FRAMES_REMEDY, SCENE_REMEDY, ScenePaths
from data.readers.scannetpp_layout import check_id
from data.types import Camera, View


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """All views with a usable pose, by view id (the stem of the image's name).

    Raises:
        DataError: no exported frames, an image of another size than ``<id>.txt`` says, or as
            of ``PosedFrames`` and ``read_pinhole``.
    """
    frames = PosedFrames(paths.frames, check_id, FRAMES_REMEDY)
    if not frames.color.is_dir():
        raise _not_exported(paths)
    images = frames.images()
    return frames.views(images, read_camera(paths, images[min(images)]))


def _not_exported(paths: ScenePaths) -> DataError:
    found, remedy = "no such folder", "Download scannet_frames_25k, or the scene's .sens."
    if paths.sens.is_file():
        found = f"only {paths.sens.name}"
        remedy = (
            f"Export them: python -m pipeline extract-sens --input {paths.sens}"
            f" --output {paths.folder}"
        )
    return DataError(paths.frames / "color", "a folder of exported frames", found, remedy)


def read_camera(paths: ScenePaths, image_path: Path) -> Camera:
    """The pinhole of the colour images, whose size is that of ``image_path``.

    Raises:
        DataError: as of ``read_pinhole``, and where ``<id>.txt`` has other numbers.
    """
    camera = read_pinhole(paths.intrinsics, image_path, FRAMES_REMEDY)
    _check_info(paths.info, camera, image_path)
    return camera


def _check_info(info: Path, camera: Camera, image_path: Path) -> None:
    """Compare with what ``<id>.txt`` says, where the scene has that file."""
    if not info.is_file():
        return
    named = read_info(info)
    for key, value in (("colorWidth", camera.width), ("colorHeight", camera.height)):
        if key in named and named[key] != value:
            found = f"{camera.width}x{camera.height}"
            expected = f"an image of {key} {named[key]:g}, as {info.name} says"
            raise DataError(image_path, expected, found, FRAMES_REMEDY)
    focal = camera.K[0, 0], camera.K[1, 1]
    for key, value in zip(("fx_color", "fy_color"), focal, strict=True):
        if key in named and not np.isclose(named[key], value, rtol=1e-3):
            expected = f"intrinsics with {key} {value:g}, as the exported frames have them"
            raise DataError(info, expected, f"{named[key]:g}", SCENE_REMEDY)


def read_info(path: Path) -> dict[str, float]:
    """The lines ``key = number`` of ``<id>.txt``; lines of other values are passed over.

    Raises:
        DataError: the file is no text, or a key of the colour camera has no number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, "lines key = value", str(error), SCENE_REMEDY) from error
    named = {}
    for line in lines:
        key, _, value = (part.strip() for part in line.partition("="))
        try:
            named[key] = float(value)
        except ValueError:
            if "color" in key and not key.endswith("Extrinsics"):
                raise DataError(path, f"a number of {key}", value[:80], SCENE_REMEDY) from None
    return named
