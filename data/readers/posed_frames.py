"""Read frames from the folders ``color`` (images) and ``pose`` (text files of matrices).

An image and its pose have the same stem. The principal point in a file of intrinsics is measured
from the centre of the top-left pixel, as in OpenCV and ScanNet; in this project that centre is
(0.5, 0.5), so half a pixel is added to cx and cy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.images import check_image, image_size
from data.jsonio import read_text
from data.types import Array, Camera, View

_LAST_ROW = np.array([0.0, 0.0, 0.0, 1.0])


def read_matrix(path: Path, what: str, sizes: tuple[int, ...], remedy: str) -> Array:
    """Read a matrix (n, n) float64 from a text file; n is one of ``sizes``; inf and NaN may occur.

    Raises:
        DataError: the file is missing, or holds another number of values or no numbers.
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
    """Invert a rigid transform (4, 4), float64; DataError naming ``path`` if it is not rigid.

    Rotations may be rounded to six digits in files: they must be orthonormal to 1e-4.
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


log = logging.getLogger(__name__)
_SUFFIXES = (".jpg", ".jpeg", ".png")
# A principal point further than this share of the image from its middle means another image size.
_MIDDLE = 0.15
CheckName = Callable[[str, Path, str], str]


@dataclass(frozen=True)
class PosedFrames:
    """The frames of one scan in a folder; ``check_name`` raises DataError for an unsafe stem."""

    folder: Path
    check_name: CheckName
    remedy: str

    @property
    def color(self) -> Path:
        """Folder of images."""
        return self.folder / "color"

    @property
    def pose(self) -> Path:
        """Folder of poses."""
        return self.folder / "pose"

    def images(self) -> dict[str, Path]:
        """Return the images by stem; DataError when there is no image, or a stem twice."""
        if not self.color.is_dir():
            raise DataError(self.color, "a folder of images", "no such folder", self.remedy)
        files = [p for p in sorted(self.color.iterdir()) if p.suffix.lower() in _SUFFIXES]
        if not files:
            expected = f"images ({', '.join(_SUFFIXES)})"
            raise DataError(self.color, expected, "none", self.remedy)
        images = {self.check_name(path.stem, self.color, "an image name"): path for path in files}
        if len(images) < len(files):
            found = f"{len(files)} files of {len(images)} stems"
            raise DataError(self.color, "each image once", found, self.remedy)
        return images

    def views(self, images: dict[str, Path], camera: Camera) -> tuple[View, ...]:
        """Read all views with a usable pose, sorted by view id (the stem of the image's name).

        Frames whose pose holds inf or NaN (tracking was lost) are left out, and so are poses
        without an image; their numbers are logged.

        Raises:
            DataError: an image without a pose or of another size than the camera, a pose that
                is not rigid, or no frame with a pose.
        """
        poses = self._poses(images)
        views, untracked = [], []
        for stem, image_path in sorted(images.items()):
            camera_to_world = read_matrix(poses[stem], "a pose", (4,), self.remedy)
            if not np.isfinite(camera_to_world).all():
                untracked.append(stem)
                continue
            check_image(image_path, camera.height, camera.width)
            world_to_camera = world_to_camera_of(camera_to_world, poses[stem], self.remedy)
            views.append(View(stem, camera, world_to_camera, image_path))
        if untracked:
            message = "%s: %d of %d frames left out, their pose is not finite (%s, ...)"
            log.warning(message, self.pose, len(untracked), len(images), untracked[0])
        if not views:
            raise DataError(self.pose, "at least one finite pose", "none", self.remedy)
        return tuple(views)

    def _poses(self, images: dict[str, Path]) -> dict[str, Path]:
        """Return the pose files by the stem of their image."""
        folder = self.pose
        if not folder.is_dir():
            raise DataError(folder, "a folder of poses", "no such folder", self.remedy)
        poses = {path.stem: path for path in sorted(folder.glob("*.txt"))}
        stems_without_pose = sorted(set(images) - set(poses))
        if stems_without_pose:
            found = (
                f"no such file, and {len(stems_without_pose)} of {len(images)} images have no pose"
            )
            raise DataError(
                folder / f"{stems_without_pose[0]}.txt", "an image's pose", found, self.remedy
            )
        if len(poses) > len(images):
            count = len(poses) - len(images)
            log.warning("%s: %d of %d poses left out: no image", folder, count, len(poses))
        return poses


def read_pinhole(path: Path, image_path: Path, remedy: str) -> Camera:
    """Read a pinhole camera from a 3 x 3 or 4 x 4 text file; its size is that of ``image_path``.

    Raises:
        DataError: the intrinsics are damaged, or the principal point is far from the middle of
            the image, which happens if the image has another size than the intrinsics.
    """
    matrix = read_matrix(path, "intrinsics", (3, 4), remedy)[:3, :3]
    height, width = image_size(image_path, remedy)
    shape = np.array_equal(matrix[2], [0, 0, 1]) and matrix[0, 1] == matrix[1, 0] == 0
    if not (np.isfinite(matrix).all() and shape and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        expected = "intrinsics fx 0 cx / 0 fy cy / 0 0 1, fx and fy positive"
        raise DataError(path, expected, str(matrix.tolist())[:200], remedy)
    K: Array = matrix + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    share = K[:2, 2] / (width, height)
    if np.abs(share - 0.5).max() > _MIDDLE:
        expected = f"intrinsics of images of {width}x{height} pixels, as {image_path.name} is"
        found = f"a principal point of {matrix[0, 2]:g}, {matrix[1, 2]:g}"
        resized = "Intrinsics and images must have the same size: do not resize the images. "
        raise DataError(path, expected, found, resized + remedy)
    return Camera("PINHOLE", K, height, width)
