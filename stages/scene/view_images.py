"""Read the images of a scene's views, which of their pixels count, and masks at their size."""

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
    """The view's image, (H, W, 3) uint8 RGB of its camera, undistorted where the file is not.

    Raises DataError unless the file is an image of the size that its camera says.
    """
    pixels = _read(view.image_path, view.file_camera, "RGB")
    if view.lens is None or not view.is_distorted:
        return pixels
    # Imported where it is needed: planning a run imports the stages, and OpenCV takes long.
    from data.geometry.undistort import undistorter_between

    return undistorter_between(view.lens, view.camera).image(pixels)


def read_valid(view: View) -> Array | None:
    """(H, W) bool of the view's camera, or None where every pixel shows what the camera saw.

    Not valid is what the data set blanked for privacy and, in an undistorted picture, what
    its lens did not see: those pixels are mirrored from inside.

    Raises DataError for a mask that cannot be read or is no mask.
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
    """(H, W) bool: True where the file says 255. Anything softer counts as blanked."""
    mask = _read(path, camera, "L")
    brightest = int(mask.max())
    if 0 < brightest < 255:
        expected = "a mask of 255 (valid) and 0 (blanked)"
        raise DataError(path, expected, f"no value above {brightest}", _REMEDY)
    return np.asarray(mask == 255)


def _read(path: Path, camera: Camera, mode: Literal["RGB", "L"]) -> Array:
    wanted = f"an image of {camera.width}x{camera.height} pixels"
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert(mode))
    except UNREADABLE as error:
        found = "none" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(path, wanted, found, _REMEDY) from error
    if pixels.shape[:2] != (camera.height, camera.width):
        found = f"one of {pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(path, wanted, found, _REMEDY)
    return pixels


def mask_of(cache: TeacherCache, view: int, query: int, size: tuple[int, int]) -> Array:
    """(h, w) bool: the mask of one query on one view, by their indices, at ``size`` (h, w).

    Meaningful where the cache says that one is drawn; raises ArtifactError when it cannot be
    read.
    """
    logits = cache.mask_logits(view)[query : query + 1]
    extent = (float(cache.mask_extent[0]), float(cache.mask_extent[1]))
    return np.asarray(cells_to_pixels(logits, extent, size)[0] > 0)
