"""Writes a ``.sens`` stream's colour frames as ScanNet's own exporter names them.

color/<n>.jpg   pose/<n>.txt   intrinsic/{intrinsic,extrinsic}_{color,depth}.txt
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.errors import DataError
from data.progress import Progress, silent
from data.readers.scannet_sens import SensFile, SensHeader
from data.types import Array

FOLDERS = ("color", "pose", "intrinsic")
_PART = ".extract-sens.part"


class Exported(NamedTuple):
    """How many frames were written, of how many, and how many of these have a lost pose."""

    written: int
    total: int
    lost: int


def export_frames(
    sens_path: Path, output: Path, every: int = 1, progress: Progress = silent
) -> Exported:
    """Write every ``every``-th frame below ``output``, which is made when missing.

    Frames keep their number. Poses are written as they are, also those that are not finite:
    readers leave them out. The three folders appear when all is written, or not at all.

    Raises:
        DataError: ``output`` has one of the folders already or is a file, or the stream is
            damaged (see ``SensFile``).
    """
    there = [name for name in FOLDERS if (output / name).exists()]
    if there or (output.exists() and not output.is_dir()):
        found = f"{', '.join(there)} in it" if there else "a file"
        remedy = "Remove it, or name another folder."
        raise DataError(output, f"a folder without {', '.join(FOLDERS)}", found, remedy)
    with SensFile(sens_path) as sens:
        part = output / _PART
        shutil.rmtree(part, ignore_errors=True)
        try:
            exported = _write(sens, part, every, progress)
            for name in FOLDERS:
                (part / name).rename(output / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return exported


def _write(sens: SensFile, part: Path, every: int, progress: Progress) -> Exported:
    for name in FOLDERS:
        (part / name).mkdir(parents=True)
    _write_calibration(sens.header, part / "intrinsic")
    total = sens.header.num_frames
    written = lost = 0
    for frame in sens.frames(every):
        (part / "color" / f"{frame.index}.jpg").write_bytes(frame.color)
        (part / "pose" / f"{frame.index}.txt").write_text(_matrix_text(frame.camera_to_world))
        written += 1
        lost += not np.isfinite(frame.camera_to_world).all()
        progress(frame.index + 1, total)
    return Exported(written, total, lost)


def _write_calibration(header: SensHeader, folder: Path) -> None:
    matrices = {
        "intrinsic_color": header.color_intrinsics,
        "extrinsic_color": header.color_extrinsics,
        "intrinsic_depth": header.depth_intrinsics,
        "extrinsic_depth": header.depth_extrinsics,
    }
    for name, matrix in matrices.items():
        (folder / f"{name}.txt").write_text(_matrix_text(matrix))


def _matrix_text(matrix: Array) -> str:
    """Four lines of four numbers, with all digits of a float32."""
    return "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in matrix.tolist())
