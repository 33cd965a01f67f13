"""Cameras that look at a whole scan from outside, obliquely, with their pictures filled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.types import Array, Camera

_ELEVATION = np.deg2rad(48.0)
_DISTANCE = 2.6
_MARGIN = 0.03


def oblique_cameras(
    low: Array, high: Array, sides: Sequence[tuple[float, int]], size: tuple[int, int]
) -> tuple[Camera, list[Array]]:
    """One pinhole and its ``world_to_camera`` poses, so that all see the whole box.

    ``low`` and ``high`` (3,) metres are the box; ``sides`` azimuths in radians, each with 1 for
    from above or -1 for from below; ``size`` (height, width) pixels. The pinhole is the same for
    all, so that the box neither grows nor jumps when they follow each other.
    """
    poses = [_pose(low, high, azimuth, up) for azimuth, up in sides]
    box = np.stack(np.meshgrid(*zip(low, high), indexing="ij"), axis=-1).reshape(8, 3)
    seen = np.concatenate([box @ pose[:3, :3].T + pose[:3, 3] for pose in poses])
    ab = seen[:, :2] / seen[:, 2:]
    pixels = np.array([size[1], size[0]])
    focal = float(((1 - 2 * _MARGIN) * pixels / np.maximum(np.ptp(ab, axis=0), 1e-9)).min())
    cx, cy = pixels / 2 - focal * (ab.min(axis=0) + ab.max(axis=0)) / 2
    K = np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1.0]])
    return Camera("PINHOLE", K, size[0], size[1]), poses


def _pose(low: Array, high: Array, azimuth: float, up: int) -> Array:
    center, radius = (low + high) / 2, np.linalg.norm(high - low) / 2 + 1e-6
    outward = np.array(
        [
            np.cos(_ELEVATION) * np.cos(azimuth),
            np.cos(_ELEVATION) * np.sin(azimuth),
            np.sin(_ELEVATION) * up,
        ]
    )
    forward = -outward
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = -rotation @ (center + outward * _DISTANCE * radius)
    return pose
