"""Read the images of a scene's views, their valid pixels, and masks at their size."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from data.artifacts.teacher import TeacherCache
from data.errors import DataError
from data.images import UNREADABLE, cells_to_pixels
from data.types import Array, Camera, View

_REMEDY = "Restore the file from the data set, then run PrepareScene again."


def read_image(view: View) -> Array:
    """Return the view's image (H, W, 3) uint8 RGB, undistorted where the file is distorted.

    Raises DataError unless the file is an image of its camera's size.
    """
    pixels = _read(view.image_path, view.file_camera, "RGB")
    if view.lens is None or not view.is_distorted:
        return pixels
    # Imported here because planning a run imports the stages, and importing OpenCV is slow.
    from data.geometry.undistort import undistorter_between

    return undistorter_between(view.lens, view.camera).image(pixels)


def read_valid(view: View) -> Array | None:
    """Return the valid pixels of the view (H, W) bool; None where all pixels are valid.

    Pixels that the data set blanked for privacy are not valid. In an undistorted image, pixels
    outside the lens's view are not valid either: they are mirrored from inside the image.

    Raises DataError for a file that cannot be read or is no mask.
    """
    mask = None if view.mask_path is None else _read_mask(view.mask_path, view.file_camera)
    if view.lens is None:
        return None if mask is None or bool(mask.all()) else mask
    from data.geometry.undistort import undistorter_between

    undistorter = undistorter_between(view.lens, view.camera)
    valid = ~undistorter.outside
    if mask is not None and view.is_distorted:
        valid = undistorter.mask(mask.astype(np.uint8) * 255) == 255
    elif mask is not None:
        valid &= mask
    return None if bool(valid.all()) else np.asarray(valid)


def _read_mask(path: Path, camera: Camera) -> Array:
    """Return True where the file holds 255, (H, W) bool; any lower value counts as blanked."""
    mask = _read(path, camera, "L")
    brightest = int(mask.max())
    if 0 < brightest < 255:
        expected = "a mask of 255 (valid) and 0 (blanked)"
        raise DataError(path, expected, f"no value above {brightest}", _REMEDY)
    return np.asarray(mask == 255)


def _read(path: Path, camera: Camera, mode: Literal["RGB", "L"]) -> Array:
    expected = f"an image of {camera.width}x{camera.height} pixels"
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert(mode))
    except UNREADABLE as error:
        found = "no file" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(path, expected, found, _REMEDY) from error
    if pixels.shape[:2] != (camera.height, camera.width):
        found = f"an image of {pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(path, expected, found, _REMEDY)
    return pixels


def mask_of(cache: TeacherCache, view: int, query: int, size: tuple[int, int]) -> Array:
    """Return the mask of one query on one view at ``size`` (h, w), (h, w) bool.

    ``view`` and ``query`` are indices into the cache. The mask has a meaning only where the cache
    has ``drawn``. Raises ArtifactError when the mask cannot be read.
    """
    logits = cache.mask_logits(view)[query : query + 1]
    extent = (float(cache.mask_extent[0]), float(cache.mask_extent[1]))
    return np.asarray(cells_to_pixels(logits, extent, size)[0] > 0)
