"""Stage ``extract_iphone``: extract images and depth from an iPhone capture of ScanNet++.

    rgb.mkv       ->  rgb/frame_%06d.jpg
    rgb_mask.mkv  ->  rgb_masks/frame_%06d.png   255 = valid, 0 = anonymised; if the file exists
    depth.bin     ->  depth/frame_%06d.png       uint16 mm, 0 = none; if the file exists

Frames are numbered from 0 in the order of the streams; the poses use the same numbers.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from data.errors import UserError
from data.readers.scannetpp_iphone import depth_frames, video_frames
from data.types import Array

log = logging.getLogger(__name__)
_QUALITY = 95


class Extracted(NamedTuple):
    """The number of files written of each kind."""

    pictures: int
    masks: int
    depths: int


def run(scene: Path, output: Path, every: int) -> Extracted:
    """Extract every ``every``-th frame of ``<scene>/iphone`` into folders below ``output``.

    No file is overwritten, and a folder gets its name only when it is complete.

    Raises:
        DataError: no video, or a damaged stream; UserError: a folder exists already.
    """
    source = scene / "iphone"
    kinds = ["rgb"]
    kinds += ["rgb_masks"] * (source / "rgb_mask.mkv").exists()
    kinds += ["depth"] * (source / "depth.bin").exists()
    for kind in kinds:
        if (output / kind).exists():
            raise UserError(
                f"{output / kind} exists already; move it, or choose another output folder"
            )
    streams: dict[str, Callable[[], Iterator[tuple[int, Array]]]] = {
        "rgb": lambda: video_frames(source / "rgb.mkv", every),
        "rgb_masks": lambda: _masks(source / "rgb_mask.mkv", every),
        "depth": lambda: _millimetres(source / "depth.bin", every),
    }
    counts = dict.fromkeys(streams, 0)
    for kind in kinds:
        with _whole_folder(output / kind) as folder:
            for number, pixels in streams[kind]():
                _save(folder, kind, number, pixels)
                counts[kind] += 1
    for kind in kinds[1:]:
        if counts[kind] != counts["rgb"]:
            message = "%s: %d frames in %s, %d in rgb: is a file cut short?"
            log.warning(message, source, counts[kind], kind, counts["rgb"])
    return Extracted(counts["rgb"], counts["rgb_masks"], counts["depth"])


def _masks(path: Path, every: int) -> Iterator[tuple[int, Array]]:
    """Yield masks of a video; compression blurs their values, so each is set to 0 or 255."""
    for number, picture in video_frames(path, every):
        yield number, np.where(picture[..., 0] >= 128, 255, 0).astype(np.uint8)


def _millimetres(path: Path, every: int) -> Iterator[tuple[int, Array]]:
    for number, depth in enumerate(depth_frames(path)):
        if number % every == 0:
            yield number, np.rint(depth * 1000).astype(np.uint16)


def _save(folder: Path, kind: str, number: int, pixels: Array) -> None:
    name = f"frame_{number:06d}"
    if kind == "rgb":
        Image.fromarray(pixels).save(folder / f"{name}.jpg", quality=_QUALITY)
    else:
        Image.fromarray(pixels).save(folder / f"{name}.png")


@contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder, which gets its name when the block succeeds, else is removed."""
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    aside.mkdir(parents=True)
    try:
        yield aside
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
