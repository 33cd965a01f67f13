"""Pictures of the tiny tree in which the colour of every ray is known, for any camera."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from data.geometry.cameras import pixel_centers, unproject
from data.types import Array, Camera
from tests.support.scans.scannetpp_tree import FISHEYE, HEIGHT, PINHOLES, SCENE, WIDTH, room


def recipe_camera() -> Camera:
    """The pinhole of ScanNet++'s recipe, by OpenCV in OpenCV's own pixels."""
    half = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    lens = np.array(FISHEYE.distortion)
    new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
        FISHEYE.K - half, lens, (WIDTH, HEIGHT), np.eye(3), balance=0.0
    )
    K = np.array([[new[0, 0], 0, WIDTH / 2], [0, new[1, 1], HEIGHT / 2], [0, 0, 1]])
    return Camera("PINHOLE", K, HEIGHT, WIDTH)


def painted(camera: Camera, index: int) -> Array:
    """Paint (H, W, 3) uint8: a smooth colour of each ray, different in every picture."""
    a, b, _ = unproject(camera, pixel_centers(camera.height, camera.width)).T
    waves = [np.sin(1.5 * a + index), np.cos(1.2 * b - index), np.sin(a + b)]
    pixels = np.stack([128 + 100 * wave for wave in waves], axis=1)
    shades = (np.nan_to_num(pixels) + 0.5).astype(np.uint8)
    return np.asarray(shades.reshape(camera.height, camera.width, 3))


def paint(folder: Path, camera: Camera) -> None:
    """Write pictures of all views as PNG, in spite of their names, so that pixels are exact."""
    for index, view in enumerate(room()[0].views):
        image = Image.fromarray(painted(camera, index))
        image.save(folder / f"{view.view_id}.JPG", format="PNG")


def paint_tree(root: Path) -> Path:
    """Paint both folders; return the camera after undistortion and the ``dslr`` folder."""
    dslr = root / "data" / SCENE / "dslr"
    camera = recipe_camera()
    paint(dslr / "resized_images", FISHEYE)
    paint(dslr / "resized_undistorted_images", camera)
    path = root / "data" / SCENE / PINHOLES
    content: dict[str, Any] = json.loads(path.read_text())
    content.update(fl_x=camera.K[0, 0], fl_y=camera.K[1, 1], cx=WIDTH / 2, cy=HEIGHT / 2)
    path.write_text(json.dumps(content))
    return dslr


def forget_undistorted(root: Path, images: bool = True, transforms: bool = True) -> None:
    """Remove the undistorted files, as in an older download."""
    if images:
        shutil.rmtree(root / "data" / SCENE / "dslr" / "resized_undistorted_images")
    if transforms:
        (root / "data" / SCENE / PINHOLES).unlink()


def write_masks(folder: Path, masks: dict[str, Array]) -> None:
    """Masks (H, W) uint8 by view id."""
    folder.mkdir(exist_ok=True)
    for view_id, mask in masks.items():
        Image.fromarray(mask).save(folder / f"{view_id}.png")
