"""The pictures of a room: fisheye camera, rendering, undistortion as ScanNet++'s toolbox does it.

OpenCV counts pixels from the centre of the first one; the shift of half a pixel against
``data.types`` is made here, around the OpenCV calls only.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.types import Array, Camera

_HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])


def fisheye_camera(height: int, width: int, seed: tuple[int, ...]) -> Camera:
    """A wide lens (about 115 degrees across), slightly different in every room."""
    rng = np.random.default_rng([*seed, 4])
    focal = 0.495 * width * float(rng.uniform(0.98, 1.02))
    offset = rng.uniform(-0.008, 0.008, size=2)
    fx, fy = round(focal, 4), round(focal * float(rng.uniform(0.998, 1.002)), 4)
    cx, cy = width * (0.5 + offset[0]), height * (0.5 + offset[1])
    K = np.array([[fx, 0, round(cx, 4)], [0, fy, round(cy, 4)], [0, 0, 1.0]])
    bend = rng.uniform(0.9, 1.1, size=4)
    lens = tuple(round(float(k * b), 7) for k, b in zip((-0.03, 0.004, -0.002, 0.0004), bend))
    return Camera("OPENCV_FISHEYE", K, height, width, lens)


@dataclass(frozen=True, eq=False)
class Undistorter:
    """Fisheye pictures to pinhole ones: the pinhole ``camera`` and the pixel maps."""

    camera: Camera
    map_x: Array
    map_y: Array
    outside: Array

    @classmethod
    def make(cls, fisheye: Camera) -> Undistorter:
        """ScanNet++'s recipe: OpenCV's new K at balance 0, then the centre moved to W/2, H/2."""
        size = (fisheye.width, fisheye.height)
        K, distortion = fisheye.K - _HALF_PIXEL, np.array(fisheye.distortion)
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            K, distortion, size, np.eye(3), balance=0.0
        )
        pinhole = np.array(
            [
                [round(float(new[0, 0]), 6), 0, fisheye.width / 2],
                [0, round(float(new[1, 1]), 6), fisheye.height / 2],
                [0, 0, 1.0],
            ]
        )
        map_x, map_y = cv2.fisheye.initUndistortRectifyMap(
            K, distortion, np.eye(3), pinhole - _HALF_PIXEL, size, cv2.CV_32FC1
        )
        inside = (map_x >= 0) & (map_x <= fisheye.width - 1)
        inside &= (map_y >= 0) & (map_y <= fisheye.height - 1)
        camera = Camera("PINHOLE", pinhole, fisheye.height, fisheye.width)
        return cls(camera, map_x, map_y, ~inside)

    def image(self, fisheye_image: Array) -> Array:
        """(H, W, 3) uint8, bilinear, borders mirrored."""
        return np.asarray(
            cv2.remap(
                fisheye_image,
                self.map_x,
                self.map_y,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )

    def mask(self, fisheye_mask: Array) -> Array:
        """(H, W) uint8, 255 = valid; 0 also where the picture is mirrored past its border."""
        out = np.full(fisheye_mask.shape, 255, np.uint8)
        if not fisheye_mask.all():
            soft = cv2.remap(
                fisheye_mask, self.map_x, self.map_y, cv2.INTER_LINEAR, borderValue=255
            )
            out[np.asarray(soft) < 255] = 0
        out[self.outside] = 0
        return out


def anonymised(height: int, width: int, view: int) -> Array:
    """(H, W) uint8 mask, 255 = valid: every eighth picture has a blanked patch at its foot."""
    mask = np.full((height, width), 255, np.uint8)
    if view % 8 == 5:
        mask[height - height // 12 :, 2 * width // 5 : 3 * width // 5] = 0
    return mask
