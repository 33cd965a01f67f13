"""Fisheye pictures to pinhole ones, by ScanNet++'s recipe.

OpenCV counts pixels from the centre of the first one; the shift of half a pixel against
``data.types`` is made here, around the OpenCV calls only.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from data.geometry.cameras import lens_end
from data.types import Array, Camera, CameraModel

_HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
# The recipe's picture is nearly whole; with less than this the lens's values are wrong.
_LEAST_SEEN = 0.5


def undistorted_camera(fisheye: Camera) -> Camera:
    """The pinhole of ScanNet++'s recipe, of the fisheye's size.

    Its focal lengths are OpenCV's at balance 0 without rotation; its principal point is then
    moved to the middle of the image, (W / 2, H / 2).

    Raises:
        ValueError: no pinhole picture can be made of what the lens shows.
    """
    K, distortion = fisheye.K - _HALF_PIXEL, np.array(fisheye.distortion)
    size = (fisheye.width, fisheye.height)
    try:
        new = cv2.fisheye.estimateNewCameraMatrixForUndistortRectify(
            K, distortion, size, np.eye(3), balance=0.0
        )
    except cv2.error as error:
        raise ValueError(f"OpenCV finds no camera without distortion: {error}") from error
    fx, fy = round(float(new[0, 0]), 6), round(float(new[1, 1]), 6)
    pinhole = np.array([[fx, 0, fisheye.width / 2], [0, fy, fisheye.height / 2], [0, 0, 1.0]])
    camera = Camera("PINHOLE", pinhole, fisheye.height, fisheye.width)
    seen = 1 - float(undistorter_between(fisheye, camera).outside.mean())
    if seen < _LEAST_SEEN:
        raise ValueError(f"only {seen:.0%} of the undistorted picture is in the lens's")
    return camera


@dataclass(frozen=True, eq=False)
class Undistorter:
    """From pictures of a fisheye to those of the pinhole ``camera``.

    ``map_x`` and ``map_y`` (H, W) float32 say where each pinhole pixel lies in the fisheye
    picture, in OpenCV's pixels; ``outside`` (H, W) bool marks those that lie in none: what a
    picture holds there is mirrored from inside.
    """

    camera: Camera
    map_x: Array
    map_y: Array
    outside: Array

    @classmethod
    def make(cls, fisheye: Camera) -> Undistorter:
        """To the camera of ScanNet++'s recipe."""
        return cls.between(fisheye, undistorted_camera(fisheye))

    @classmethod
    def between(cls, fisheye: Camera, pinhole: Camera) -> Undistorter:
        """To a pinhole camera that stands and looks as the fisheye does."""
        map_x, map_y = cv2.fisheye.initUndistortRectifyMap(
            fisheye.K - _HALF_PIXEL,
            np.array(fisheye.distortion),
            np.eye(3),
            pinhole.K - _HALF_PIXEL,
            (pinhole.width, pinhole.height),
            cv2.CV_32FC1,
        )
        inside = (map_x >= 0) & (map_x <= fisheye.width - 1)
        inside &= (map_y >= 0) & (map_y <= fisheye.height - 1)
        a = (np.arange(pinhole.width) + 0.5 - pinhole.K[0, 2]) / pinhole.K[0, 0]
        b = (np.arange(pinhole.height) + 0.5 - pinhole.K[1, 2]) / pinhole.K[1, 1]
        # Beyond its end the lens's polynomial turns back into the picture.
        inside &= np.arctan(np.hypot(a[None], b[:, None])) <= lens_end(fisheye.distortion)
        return cls(pinhole, map_x, map_y, ~inside)

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
        out = np.full(self.map_x.shape, 255, np.uint8)
        if not fisheye_mask.all():
            soft = cv2.remap(
                fisheye_mask, self.map_x, self.map_y, cv2.INTER_LINEAR, borderValue=255
            )
            out[np.asarray(soft) < 255] = 0
        out[self.outside] = 0
        return out


_Values = tuple[CameraModel, bytes, int, int, tuple[float, ...]]


def undistorter_between(fisheye: Camera, pinhole: Camera) -> Undistorter:
    """``Undistorter.between``, kept for the next views: those of a scene share their lens."""
    return _between(_values(fisheye), _values(pinhole))


def _values(camera: Camera) -> _Values:
    K = np.ascontiguousarray(camera.K, np.float64).tobytes()
    return camera.model, K, camera.height, camera.width, camera.distortion


def _camera(values: _Values) -> Camera:
    model, K, height, width, distortion = values
    return Camera(model, np.frombuffer(K).reshape(3, 3), height, width, distortion)


@functools.lru_cache(maxsize=2)
def _between(fisheye: _Values, pinhole: _Values) -> Undistorter:
    return Undistorter.between(_camera(fisheye), _camera(pinhole))
