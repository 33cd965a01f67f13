"""Undistort fisheye images to pinhole images, as the ScanNet++ toolkit does.

OpenCV's pixel coordinates start at the centre of the first pixel, those of ``data.types`` at its
corner; the half pixel is added and subtracted here, around the OpenCV calls.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from data.geometry.cameras import lens_end
from data.types import Array, Camera, CameraModel

_HALF_PIXEL = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
# Least share of the pinhole image that the fisheye image must cover; less means wrong parameters.
_LEAST_SEEN = 0.5


def undistorted_camera(fisheye: Camera) -> Camera:
    """Return ScanNet++'s pinhole camera for a fisheye camera; both have the same image size.

    Its focal lengths are OpenCV's estimate at balance 0 without rotation; its principal point is
    the middle of the image, (W / 2, H / 2).

    Raises:
        ValueError: the fisheye image covers too little of any pinhole image.
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
        raise ValueError(f"the fisheye image covers only {seen:.0%} of the undistorted image")
    return camera


@dataclass(frozen=True, eq=False)
class Undistorter:
    """Resamples images of a fisheye camera to the pinhole ``camera``.

    ``map_x`` and ``map_y`` (H, W) float32 are each pinhole pixel's position in the fisheye image,
    in OpenCV's pixel coordinates. ``outside`` (H, W) bool marks pixels outside the fisheye image;
    images are mirrored there.
    """

    camera: Camera
    map_x: Array
    map_y: Array
    outside: Array

    @classmethod
    def make(cls, fisheye: Camera) -> Undistorter:
        """Make the maps to the camera of ``undistorted_camera``."""
        return cls.between(fisheye, undistorted_camera(fisheye))

    @classmethod
    def between(cls, fisheye: Camera, pinhole: Camera) -> Undistorter:
        """Make the maps to a pinhole camera with the fisheye's pose."""
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
        # Beyond the lens's end the polynomial maps pixels back into the image.
        inside &= np.arctan(np.hypot(a[None], b[:, None])) <= lens_end(fisheye.distortion)
        return cls(pinhole, map_x, map_y, ~inside)

    def image(self, fisheye_image: Array) -> Array:
        """Undistort an image bilinearly, (H, W, 3) uint8; borders are mirrored."""
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
        """Undistort a mask, (H, W) uint8, 255 = valid; mirrored pixels are 0."""
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
    """Call ``Undistorter.between`` with a cache, because the views of a scene share their lens."""
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
