"""ScanNet's ``axisAlignment``: what turns a scan so that its walls follow the axes.

Nothing else here applies it, see ``data.readers.scannet``; benchmarks that score axis-aligned
boxes do, so their figures need it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.jsonio import read_text
from data.readers.scannet_layout import SCENE_REMEDY, ScenePaths
from data.types import Array

log = logging.getLogger(__name__)
_KEY = "axisAlignment"
_LAST_ROW = (0.0, 0.0, 0.0, 1.0)


def read_axis_alignment(root: Path, scene_id: str) -> Array | None:
    """(4, 4) float64 from the scan's frame to the aligned one, metres; None where it is unknown.

    It is the line ``axisAlignment = `` of ``<id>.txt``, 16 numbers row by row. Where the file or
    the line lacks, which is logged, nothing is known.

    Raises:
        DataError: the line holds anything but a rotation and a translation.
    """
    path = ScenePaths.find(root, scene_id).info
    if not path.is_file():
        log.warning("%s: no such file, so boxes follow the axes of the scan as it is", path)
        return None
    for line in read_text(path, "lines key = value", SCENE_REMEDY).splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key == _KEY:
            return _rigid(value, path)
    log.warning("%s: no %s, so boxes follow the axes of the scan as it is", path, _KEY)
    return None


def _rigid(text: str, path: Path) -> Array:
    expected = f"16 numbers as {_KEY}, a rotation and a translation"
    try:
        matrix = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(path, expected, str(error)[:80], SCENE_REMEDY) from error
    if len(matrix) != 16 or not np.isfinite(matrix).all():
        raise DataError(path, expected, text[:80], SCENE_REMEDY)
    matrix = matrix.reshape(4, 4)
    rotation = matrix[:3, :3]
    is_rotation = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    if not (is_rotation and np.linalg.det(rotation) > 0 and tuple(matrix[3]) == _LAST_ROW):
        raise DataError(path, expected, text[:80], SCENE_REMEDY)
    return matrix
