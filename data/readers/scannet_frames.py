"""ScanNet v2's exported frames: colour images, poses, intrinsics.

Images and poses are joined by the stem of their names, whichever way it is padded. The
principal point of ScanNet's intrinsics is measured from the centre of the top-left pixel; here
it is (0.5, 0.5), so half a pixel is added to cx and cy.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.images import check_image, image_size
from data.readers.matrix_text import read_matrix, world_to_camera_of
from data.readers.scannet_layout import FRAMES_REMEDY, SCENE_REMEDY, ScenePaths
from data.readers.scannetpp_layout import check_id
from data.types import Array, Camera, View

log = logging.getLogger(__name__)
_SUFFIXES = (".jpg", ".jpeg", ".png")
# A principal point further than this share of the image from its middle is of another size.
_MIDDLE = 0.15


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """All views with a usable pose, by view id (the stem of the image's name).

    Frames whose pose holds -inf, inf or NaN (tracking was lost) are left out, and so are poses
    without an image; how many is logged.

    Raises:
        DataError: no exported frames, an image without a pose, an image of another size than
            the others or than ``<id>.txt`` says, intrinsics of images of another size, a pose
            that is not rigid, or no frame with a pose.
    """
    images = _images(paths)
    poses = _poses(paths, images)
    camera = read_camera(paths, images[min(images)])
    views, lost = [], []
    for stem, image_path in sorted(images.items()):
        camera_to_world = read_matrix(poses[stem], "a pose", (4,), FRAMES_REMEDY)
        if not np.isfinite(camera_to_world).all():
            lost.append(stem)
            continue
        check_image(image_path, camera.height, camera.width)
        world_to_camera = world_to_camera_of(camera_to_world, poses[stem], FRAMES_REMEDY)
        views.append(View(stem, camera, world_to_camera, image_path))
    folder = paths.frames / "pose"
    if lost:
        told = "%s: %d of %d frames left out, their pose is not finite (%s, ...)"
        log.warning(told, folder, len(lost), len(images), lost[0])
    if not views:
        raise DataError(folder, "at least one finite pose", "none", FRAMES_REMEDY)
    return tuple(views)


def _images(paths: ScenePaths) -> dict[str, Path]:
    folder = paths.frames / "color"
    if not folder.is_dir():
        found, remedy = "no such folder", "Download scannet_frames_25k, or the scene's .sens."
        if paths.sens.is_file():
            found = f"only {paths.sens.name}"
            remedy = (
                f"Export them: python -m pipeline extract-sens --input {paths.sens}"
                f" --output {paths.folder}"
            )
        raise DataError(folder, "a folder of exported frames", found, remedy)
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataError(folder, "exported frames (.jpg)", "none", FRAMES_REMEDY)
    images = {check_id(path.stem, folder, "an image name"): path for path in files}
    if len(images) < len(files):
        found = f"{len(files)} files of {len(images)} stems"
        raise DataError(folder, "each image once", found, FRAMES_REMEDY)
    return images


def _poses(paths: ScenePaths, images: dict[str, Path]) -> dict[str, Path]:
    """Pose files by the stem of their image."""
    folder = paths.frames / "pose"
    if not folder.is_dir():
        raise DataError(folder, "a folder of poses", "no such folder", FRAMES_REMEDY)
    poses = {path.stem: path for path in sorted(folder.glob("*.txt"))}
    without = sorted(set(images) - set(poses))
    if without:
        found = f"no such file, and {len(without)} of {len(images)} images have no pose"
        raise DataError(folder / f"{without[0]}.txt", "an image's pose", found, FRAMES_REMEDY)
    if len(poses) > len(images):
        count = len(poses) - len(images)
        log.warning("%s: %d of %d poses have no image, left out", folder, count, len(poses))
    return poses


def read_camera(paths: ScenePaths, image_path: Path) -> Camera:
    """The pinhole of the colour images, whose size is that of ``image_path``.

    Raises:
        DataError: the intrinsics are damaged, or of images of another size: ``<id>.txt`` has
            other numbers, or the principal point is far from the middle of the image.
    """
    path = paths.intrinsics
    matrix = read_matrix(path, "intrinsics", (3, 4), FRAMES_REMEDY)[:3, :3]
    height, width = image_size(image_path, FRAMES_REMEDY)
    K = matrix + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    shape = np.array_equal(matrix[2], [0, 0, 1]) and matrix[0, 1] == matrix[1, 0] == 0
    if not (np.isfinite(matrix).all() and shape and matrix[0, 0] > 0 and matrix[1, 1] > 0):
        expected = "intrinsics fx 0 cx / 0 fy cy / 0 0 1, fx and fy positive"
        raise DataError(path, expected, str(matrix.tolist())[:200], FRAMES_REMEDY)
    share = K[:2, 2] / (width, height)
    if np.abs(share - 0.5).max() > _MIDDLE:
        expected = f"intrinsics of images of {width}x{height} pixels, as {image_path.name} is"
        found = f"a principal point of {matrix[0, 2]:g}, {matrix[1, 2]:g}"
        remedy = "Intrinsics and images must be of one size: do not resize the images. "
        raise DataError(path, expected, found, remedy + FRAMES_REMEDY)
    _check_info(paths.info, matrix, (width, height), image_path)
    return Camera("PINHOLE", K, height, width)


def _check_info(info: Path, matrix: Array, size: tuple[int, int], image_path: Path) -> None:
    """Compare with what ``<id>.txt`` says, where the scene has that file."""
    if not info.is_file():
        return
    named = read_info(info)
    for key, value in (("colorWidth", size[0]), ("colorHeight", size[1])):
        if key in named and named[key] != value:
            found = f"{size[0]}x{size[1]}"
            expected = f"an image of {key} {named[key]:g}, as {info.name} says"
            raise DataError(image_path, expected, found, FRAMES_REMEDY)
    numbers = zip(("fx_color", "fy_color"), (matrix[0, 0], matrix[1, 1]))
    for key, value in numbers:
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
