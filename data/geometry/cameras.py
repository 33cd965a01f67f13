"""Project points to pixels and pixels to rays, for every camera model.

The fisheye is OpenCV's (Kannala-Brandt): with a = x/z, b = y/z, r = hypot(a, b) and
theta = atan(r), the distorted angle is theta * (1 + k1 theta^2 + ... + k4 theta^8). Points
need z > 0; pixel coordinates follow ``data.types``. If the polynomial reaches a maximum below 90
degrees, the lens ends at that angle: points beyond it would fall on pixels of other points.
"""

from __future__ import annotations

import functools

import numpy as np

from data.types import Array, Camera

_NEWTON_STEPS = 12


def rotate(rotation: Array, vectors: Array) -> Array:
    """Apply a (3, 3) matrix to (N, 3) vectors, in the precision of the vectors.

    This is not ``@``: for so narrow an array BLAS spends its time distributing work to threads.
    """
    x, y, z = vectors.T
    rows = rotation.astype(vectors.dtype)
    return np.asarray(np.stack([row[0] * x + row[1] * y + row[2] * z for row in rows], axis=1))


def transform(matrix: Array, points: Array) -> Array:
    """Apply a rigid (4, 4) transform to (N, 3) points, in the precision of the points."""
    return np.asarray(rotate(matrix[:3, :3], points) + matrix[:3, 3].astype(points.dtype))


@functools.cache
def lens_end(k: tuple[float, ...]) -> float:
    """Return the angle (radians) at which ``_distort`` stops growing, at most pi / 2."""
    k1, k2, k3, k4 = k
    squares = np.roots([9 * k4, 7 * k3, 5 * k2, 3 * k1, 1.0])
    real = squares.real[(np.abs(squares.imag) < 1e-9) & (squares.real > 0)]
    return float(min(np.sqrt(real.min(initial=np.inf)), np.pi / 2))


def _distort(theta: Array, k: tuple[float, ...]) -> Array:
    square = theta * theta
    k1, k2, k3, k4 = k
    factor = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
    return np.asarray(theta * factor)


def _undistort(theta_d: Array, k: tuple[float, ...]) -> Array:
    """Invert ``_distort`` to float64 rounding; NaN for angles the lens does not reach.

    It uses Newton's method, with bisection where a step leaves the bracket.
    """
    k1, k2, k3, k4 = k
    low, high = np.zeros_like(theta_d), np.full_like(theta_d, lens_end(k))
    theta = np.minimum(theta_d, high)
    for _ in range(_NEWTON_STEPS):
        error = _distort(theta, k) - theta_d
        low, high = np.where(error < 0, theta, low), np.where(error > 0, theta, high)
        s = theta * theta
        slope = 1 + s * (3 * k1 + s * (5 * k2 + s * (7 * k3 + s * 9 * k4)))
        with np.errstate(divide="ignore", invalid="ignore"):
            step = theta - error / slope
        inside = (step >= low - 1e-12) & (step <= high + 1e-12)
        theta = np.where(inside, step, (low + high) / 2)
    return np.where(np.abs(_distort(theta, k) - theta_d) < 1e-9, theta, np.nan)


def project(camera: Camera, points_in_camera: Array) -> Array:
    """Project points (N, 3) in the camera frame to pixels (N, 2), x then y.

    Points with z <= 0 or beyond the lens's end have no pixel: their rows are NaN, which compares
    false with every image border.
    """
    x, y, z = points_in_camera[:, 0], points_in_camera[:, 1], points_in_camera[:, 2]
    safe_z = np.where(z > 0, z, np.nan)
    a, b = x / safe_z, y / safe_z
    if camera.model == "OPENCV_FISHEYE":
        r = np.hypot(a, b)
        with np.errstate(invalid="ignore", divide="ignore"):
            theta = np.arctan(r)
            bend = np.where(r > 1e-9, _distort(theta, camera.distortion) / r, 1.0)
        bend = np.where(theta <= lens_end(camera.distortion), bend, np.nan)
        a, b = a * bend, b * bend
    K = camera.K
    return np.stack([K[0, 0] * a + K[0, 2], K[1, 1] * b + K[1, 2]], axis=1)


def unproject(camera: Camera, uv: Array) -> Array:
    """Return rays (N, 3) float64 in the camera frame through pixels (N, 2), scaled to z = 1.

    With z = 1 the distance along a ray equals the depth. Pixels with fisheye angles of 90 degrees
    or more, or beyond the lens's end, have no such ray: their rows are NaN.
    """
    K = camera.K
    a = (uv[:, 0].astype(np.float64) - K[0, 2]) / K[0, 0]
    b = (uv[:, 1].astype(np.float64) - K[1, 2]) / K[1, 1]
    if camera.model == "OPENCV_FISHEYE":
        theta_d = np.hypot(a, b)
        theta = _undistort(theta_d, camera.distortion)
        with np.errstate(invalid="ignore", divide="ignore"):
            bend = np.where(theta_d > 1e-9, np.tan(theta) / theta_d, 1.0)
        bend = np.where(theta < np.pi / 2, bend, np.nan)
        a, b = a * bend, b * bend
    return np.stack([a, b, np.ones_like(a)], axis=1)


def widest_angle(camera: Camera) -> float:
    """Return an angle to the optical axis (radians) beyond which no point falls into the image.

    The image is counted one pixel larger on every side. The angle is at most 90 degrees and, for
    a fisheye, at most the lens's end.
    """
    K = camera.K
    across = max(K[0, 2], camera.width - K[0, 2]) + 1
    along = max(K[1, 2], camera.height - K[1, 2]) + 1
    corner = np.hypot(across / K[0, 0], along / K[1, 1])
    if camera.model == "PINHOLE":
        return float(np.arctan(corner))
    theta = float(_undistort(np.array([corner]), camera.distortion)[0])
    return lens_end(camera.distortion) if np.isnan(theta) else theta


def pixel_centers(height: int, width: int) -> Array:
    """Return the (H * W, 2) float64 pixel centres, x then y, in row-major order."""
    v, u = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    return np.stack([u.ravel(), v.ravel()], axis=1)
