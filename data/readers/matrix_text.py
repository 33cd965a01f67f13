"""Matrices in small text files: poses and intrinsics of exported frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.errors import DataError
from data.jsonio import read_text
from data.types import Array

_LAST_ROW = np.array([0.0, 0.0, 0.0, 1.0])


def read_matrix(path: Path, what: str, sizes: tuple[int, ...], remedy: str) -> Array:
    """(n, n) float64 of a text file, n being one of ``sizes``; numbers may be infinite or NaN.

    Raises:
        DataError: the file is missing or holds another count of numbers or anything else.
    """
    expected = f"{what}: {' or '.join(f'{n * n}' for n in sizes)} numbers"
    words = read_text(path, expected, remedy).split()
    size = {n * n: n for n in sizes}.get(len(words))
    if size is None:
        raise DataError(path, expected, f"{len(words)}", remedy)
    try:
        return np.array([float(word) for word in words]).reshape(size, size)
    except ValueError as error:
        raise DataError(path, expected, str(error)[:120], remedy) from error


def world_to_camera_of(camera_to_world: Array, path: Path, remedy: str) -> Array:
    """The inverse (4, 4) float64 of a rigid transform; DataError naming ``path`` for another.

    Rotations are taken as they come from files of six digits: orthonormal to 1e-4.
    """
    rotation, center = camera_to_world[:3, :3], camera_to_world[:3, 3]
    rigid = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    if not (
        rigid and np.linalg.det(rotation) > 0 and np.array_equal(camera_to_world[3], _LAST_ROW)
    ):
        expected = "a rigid camera-to-world matrix (rotation, translation, last row 0 0 0 1)"
        raise DataError(path, expected, "another matrix", remedy)
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation.T, -rotation.T @ center
    return pose
