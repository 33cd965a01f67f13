"""Find and check the images of views, and resample a teacher's masks to the pixels of an image."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import DataError
from data.types import Array

log = logging.getLogger(__name__)
_TAIL_BYTES = 4096
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
UNREADABLE = (
    OSError,
    UnidentifiedImageError,
    ValueError,
    SyntaxError,
    Image.DecompressionBombError,
)
_REMEDY = "Download or undistort this image again."


def check_image(path: Path, height: int, width: int) -> None:
    """Raise DataError unless the image exists, is complete and has the camera's size.

    Only the header and the last bytes are read: a truncated JPEG or PNG lacks its end marker.
    """
    expected = f"an image of {width}x{height} pixels, as its camera says"
    try:
        with Image.open(path) as image:
            size, kind = image.size, image.format
        tail = _tail(path)
    except FileNotFoundError:
        raise DataError(path, expected, "no such file", _REMEDY) from None
    except UNREADABLE as error:
        raise DataError(path, expected, f"no readable image ({error})", _REMEDY) from error
    if size != (width, height):
        remedy = "The images must belong to the chosen camera: check prepare.camera."
        raise DataError(path, expected, f"{size[0]}x{size[1]}", remedy)
    mark = _END_MARKS.get(kind or "", b"")
    if mark not in tail:
        raise DataError(path, "a complete image", f"a {kind} without its end", _REMEDY)


def image_size(path: Path, remedy: str = _REMEDY) -> tuple[int, int]:
    """Read (height, width) from an image's header; DataError when the image cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except FileNotFoundError:
        raise DataError(path, "an image", "no such file", remedy) from None
    except UNREADABLE as error:
        raise DataError(path, "an image", f"no readable one ({error})", remedy) from error


def _tail(path: Path) -> bytes:
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _TAIL_BYTES))
        return stream.read()


class ImageFolder:
    """The images of one folder, found by name; the extension and its case need not match."""

    def __init__(self, folder: Path, remedy: str) -> None:
        if not folder.is_dir():
            raise DataError(folder, "a folder of images", "no such folder", remedy)
        self._folder = folder
        self._by_stem: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            self._by_stem.setdefault(path.stem, path)

    def files(self, *suffixes: str) -> list[Path]:
        """List the files with these lower-case extensions, sorted by name, each stem once."""
        paths = sorted(self._folder.iterdir())
        by_stem = {path.stem: path for path in reversed(paths) if path.suffix.lower() in suffixes}
        return sorted(by_stem.values())

    def find(self, name: str) -> Path:
        """Find the image with this name or, failing that, this stem; else the expected path."""
        exact = self._folder / name
        return exact if exact.exists() else self._by_stem.get(Path(name).stem, exact)


def find_masks(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Find the mask of each image by its stem; return paths by image name, {} without the folder.

    An image without a mask is valid everywhere; the number of such images is logged.
    """
    if not folder.is_dir():
        return {}
    masks = ImageFolder(folder, _REMEDY)
    paths = {name: masks.find(f"{Path(name).stem}.png") for name in names}
    without_mask = [name for name, path in paths.items() if not path.exists()]
    if without_mask:
        counts = f"{len(without_mask)} of {len(names)}"
        message = f"{counts} images have no mask here, such as {without_mask[0]}"
        log.warning("%s: %s; all their pixels are used", folder, message)
    return {name: path for name, path in paths.items() if path.exists()}


def cells_to_pixels(logits: Array, extent: tuple[float, float], size: tuple[int, int]) -> Array:
    """Sample masks (n, h, w) bilinearly at an image's pixel centres: (n, H, W) float32.

    ``extent`` is the number of cells (across, down) that the image covers, from the grid's top
    left corner; ``size`` is (H, W). Within half a cell of the border the outermost cell is used.
    """
    rows = _between(np.asarray(logits, np.float32), 1, extent[1], size[0])
    return _between(rows, 2, extent[0], size[1])


def _between(values: Array, axis: int, covered: float, pixels: int) -> Array:
    """Interpolate (n, h, w) linearly along one axis, from cells to ``pixels`` values."""
    cells = values.shape[axis]
    positions = np.clip((np.arange(pixels) + 0.5) / pixels * covered - 0.5, 0, cells - 1)
    low = np.minimum(positions.astype(int), max(cells - 2, 0))
    share = (positions - low).astype(np.float32)
    share = share[:, None] if axis == 1 else share
    first, second = values.take(low, axis), values.take(np.minimum(low + 1, cells - 1), axis)
    return np.asarray(first * (1 - share) + second * share)
