"""Simulate depth sensors: noise by published models, lost pixels, shadows and flying pixels.

- ``kinect``: structured light as in Microsoft's first Kinect. Axial and lateral noise of Nguyen,
  Izadi and Lovell (Modeling Kinect Sensor Noise for Improved 3D Reconstruction and Tracking,
  3DIMPVT 2012); disparity in steps of 1/8 pixel, with the constant 35.130 pixel metres of Choi,
  Zhou and Koltun (Robust Reconstruction of Indoor Scenes, CVPR 2015); 0.4 to 4.5 m.
- ``stereo``: active stereo as in Intel's RealSense D4xx (Keselman et al., Intel RealSense
  Stereoscopic Depth Cameras, CVPR workshops 2017). The RMS error is z^2 s / (f b) with the
  subpixel error s = 0.08 of Intel's tuning guide (Grunnet-Jepsen et al., Best-Known-Methods for
  Tuning Intel RealSense D400 Depth Cameras); pixels near each other share their error.
- ``lidar``: a phone's LiDAR, 256 x 192 pixels interpolated from few points. There is no published
  formula; about 1 % of the distance, smooth over the image, agrees with what Luetzenburg, Kroon
  and Bjork measured (Evaluation of the Apple iPhone 12 Pro LiDAR, Scientific Reports 2021).

Surfaces that are seen at more than 80 degrees from their normal return nothing. The first two
sensors look from one place and project or compare from another, so a near object hides a strip
of what is behind it. At the edges of objects some pixels lie between the near and the far surface.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data.compiled import compiled
from data.types import Array, Camera

STEEPEST = np.deg2rad(80)
_KINECT_CONSTANT = 35.130  # Pixel metres; disparity = constant / z.
_KINECT_STEPS = 8.0
_KINECT_WIDTH = 640  # Lateral noise is in pixels of an image this wide.
_STEREO_FOCAL, _STEREO_BASELINE, _STEREO_SUBPIXEL = 424.0, 0.05, 0.08
_LIDAR_SHARE = 0.01
_LIDAR_BLUR = 1.2  # pixels
_STEREO_WINDOW, _LIDAR_WINDOW = 4, 12  # Pixels that share their error.
_JUMP, _JUMP_SHARE = 0.04, 0.04


@dataclass(frozen=True)
class Sensor:
    """A depth sensor.

    Its image has ``height`` by ``width`` pixels with the focal length ``focal`` in pixels; it
    measures from ``near`` to ``far`` metres. ``parallax`` (pixel metres) over z is the disparity
    between its two lenses, 0 for a single lens. ``flying`` and ``lost`` are the probabilities that
    a pixel at an edge lies between both surfaces, and that any pixel is lost.
    """

    height: int
    width: int
    focal: float
    near: float
    far: float
    parallax: float
    flying: float
    lost: float
    noise: Callable[[Array, Array, np.random.Generator], Array]

    @property
    def camera(self) -> Camera:
        """The pinhole camera of the depth image."""
        K = np.array(
            [[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1.0]]
        )
        return Camera("PINHOLE", K, self.height, self.width)


@compiled
def kinect_axial(z: float, angle: float) -> float:
    """Return the standard deviation of depth (metres) at depth ``z`` and an angle of incidence."""
    rest = np.pi / 2 - angle
    return float(0.0012 + 0.0019 * (z - 0.4) ** 2 + 0.0001 / np.sqrt(z) * (angle / rest) ** 2)


@compiled
def kinect_lateral(angle: float) -> float:
    """Return the standard deviation of the image position, pixels of an image 640 pixels wide."""
    return 0.8 + 0.035 * angle / (np.pi / 2 - angle)


@compiled
def kinect_quantised(z: float) -> float:
    """Return the depth (metres) whose disparity is the nearest multiple of 1/8 pixel."""
    steps = np.rint(_KINECT_CONSTANT / z * _KINECT_STEPS)
    return float(_KINECT_CONSTANT * _KINECT_STEPS / max(steps, 1.0))


@compiled
def stereo_rms(z: float) -> float:
    """Return the root mean square error of depth (metres) at depth ``z``."""
    return z * z * _STEREO_SUBPIXEL / (_STEREO_FOCAL * _STEREO_BASELINE)


def measure(sensor: Sensor, depth: Array, angle: Array, rng: np.random.Generator) -> Array:
    """Return what a sensor measures, (H, W) float32 metres, 0 = nothing.

    ``depth`` (H, W) float32 is the true depth, 0 = no surface; ``angle`` (H, W) float32 is the
    angle in radians between each pixel's ray and the normal of its surface.
    """
    shown = np.where(angle <= STEEPEST, depth, np.float32(0))
    if sensor.parallax:
        shown = _without_shadow(shown, sensor.parallax)
    measured = sensor.noise(shown, np.minimum(angle, np.float32(STEEPEST)), rng)
    chance = rng.random((3, *depth.shape), np.float32)
    _break_edges(shown, chance, sensor.flying, measured)
    lost = (chance[2] < sensor.lost) | (measured < sensor.near) | (measured > sensor.far)
    measured[lost] = 0
    return measured


@compiled
def _kinect(depth: Array, angle: Array, noise: Array, scale: float, measured: Array) -> None:
    height, width = depth.shape
    for row in range(height):
        for column in range(width):
            spread = scale * kinect_lateral(angle[row, column])
            y = int(np.rint(row + spread * noise[0, row, column]))
            x = int(np.rint(column + spread * noise[1, row, column]))
            y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
            z = depth[y, x]
            if z > 0:
                z += kinect_axial(z, angle[y, x]) * noise[2, row, column]
            measured[row, column] = kinect_quantised(z) if z > 0 else 0.0


def _kinect_noise(depth: Array, angle: Array, rng: np.random.Generator) -> Array:
    measured = np.empty_like(depth)
    noise = rng.standard_normal((3, *depth.shape), np.float32)
    _kinect(depth, angle, noise, depth.shape[1] / _KINECT_WIDTH, measured)
    return measured


@compiled
def _spread(coarse: Array, cell: int, out: Array) -> None:
    """Interpolate unit noise from a coarse grid; every pixel keeps the variance 1."""
    for row in range(out.shape[0]):
        i, y = row // cell, (row % cell) / cell
        for column in range(out.shape[1]):
            j, x = column // cell, (column % cell) / cell
            a, b, c, d = (1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x
            mixed = a * coarse[i, j] + b * coarse[i, j + 1]
            mixed += c * coarse[i + 1, j] + d * coarse[i + 1, j + 1]
            out[row, column] = mixed / np.sqrt(a * a + b * b + c * c + d * d)


def smooth_noise(shape: tuple[int, int], cell: int, rng: np.random.Generator) -> Array:
    """Draw noise (H, W) float32 of variance 1 that neighbours within ``cell`` pixels share."""
    coarse = rng.standard_normal((shape[0] // cell + 2, shape[1] // cell + 2), np.float32)
    noise = np.empty(shape, np.float32)
    _spread(coarse, cell, noise)
    return noise


def _stereo_noise(depth: Array, angle: Array, rng: np.random.Generator) -> Array:
    del angle
    noise = smooth_noise((depth.shape[0], depth.shape[1]), _STEREO_WINDOW, rng)
    share = np.float32(_STEREO_SUBPIXEL / (_STEREO_FOCAL * _STEREO_BASELINE))
    return np.asarray(depth + share * depth * depth * noise)


def _lidar_noise(depth: Array, angle: Array, rng: np.random.Generator) -> Array:
    del angle
    known = (depth > 0).astype(np.float32)
    weight = cv2.GaussianBlur(known, (0, 0), _LIDAR_BLUR)
    blurred = cv2.GaussianBlur(depth, (0, 0), _LIDAR_BLUR) / np.maximum(weight, 1e-3)
    noise = smooth_noise((depth.shape[0], depth.shape[1]), _LIDAR_WINDOW, rng)
    return np.asarray(np.where(known > 0, blurred * (1 + np.float32(_LIDAR_SHARE) * noise), 0))


@compiled
def _without_shadow(depth: Array, parallax: float) -> Array:
    """Remove the pixels that the second lens, to the right, does not see behind nearer ones."""
    shown = depth.copy()
    for row in range(depth.shape[0]):
        hidden_from = np.inf
        for column in range(depth.shape[1] - 1, -1, -1):
            z = depth[row, column]
            if z > 0:
                place = column - parallax / z
                if place >= hidden_from:
                    shown[row, column] = 0
                else:
                    hidden_from = place
    return shown


@compiled
def _break_edges(depth: Array, chance: Array, flying: float, measured: Array) -> None:
    """Let some pixels at edges of ``depth`` fly between both surfaces, and drop as many others."""
    height, width = depth.shape
    for row in range(height):
        for column in range(width):
            z = depth[row, column]
            if z <= 0 or chance[0, row, column] >= 2 * flying:
                continue
            far = z
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if depth[y, x] > far:
                        far = depth[y, x]
            if far - z > _JUMP + _JUMP_SHARE * z:
                if chance[0, row, column] < flying:
                    measured[row, column] = z + chance[1, row, column] * (far - z)
                else:
                    measured[row, column] = 0


SENSORS: dict[str, Sensor] = {
    "kinect": Sensor(240, 320, 292.5, 0.4, 4.5, 0.075 * 292.5, 0.12, 0.02, _kinect_noise),
    "stereo": Sensor(240, 424, 212.0, 0.3, 5.0, 0.05 * 212.0, 0.15, 0.03, _stereo_noise),
    "lidar": Sensor(192, 256, 205.0, 0.2, 5.0, 0.0, 0.2, 0.01, _lidar_noise),
}
"""The sensors by name. Kinect and stereo have half the resolution of the real sensors; their noise
is that of a pixel of the full image."""


@compiled
def angles_of_incidence(
    ids: Array, normals: Array, rotation: Array, across: Array, along: Array, depth: Array
) -> Array:
    """Return the angle between rays and normals, (H, W) float32; clear ``depth`` of back sides.

    ``ids`` (H, W) are triangles, -1 for none; ``normals`` (F, 3) are theirs in the world, of any
    length; ``rotation`` (3, 3) turns the world into the camera's frame; ``across`` (W,) and
    ``along`` (H,) are x / z and y / z of the rays.
    """
    angle = np.zeros(ids.shape, np.float32)
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            face = ids[row, column]
            if face < 0:
                continue
            a, b = across[column], along[row]
            toward, square = 0.0, 0.0
            for axis in range(3):
                normal = normals[face, axis]
                toward -= normal * (
                    a * rotation[0, axis] + b * rotation[1, axis] + rotation[2, axis]
                )
                square += normal * normal
            if toward <= 0:
                depth[row, column] = 0
                continue
            length = np.sqrt(square * (a * a + b * b + 1))
            angle[row, column] = np.arccos(min(toward / length, 1.0))
    return angle


def warm() -> None:
    """Load this module's compiled loops, or compile them."""
    depth, noise = np.ones((2, 2), np.float32), np.zeros((3, 2, 2), np.float32)
    measured = np.empty_like(depth)
    _kinect(depth, depth, noise, 1.0, measured)
    smooth_noise((2, 2), 4, np.random.default_rng(0))
    _break_edges(_without_shadow(depth, 1.0), noise, 0.1, measured)
    ids, rays = np.zeros((2, 2), np.int32), np.zeros(2)
    angles_of_incidence(ids, np.ones((1, 3)), np.eye(3), rays, rays, depth)
