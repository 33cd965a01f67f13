"""The pictures of a room: their fisheye camera and what is blanked in them."""

from __future__ import annotations

import numpy as np

from data.types import Array, Camera


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


def anonymised(height: int, width: int, view: int) -> Array:
    """(H, W) uint8 mask, 255 = valid: every eighth picture has a blanked patch at its foot."""
    mask = np.full((height, width), 255, np.uint8)
    if view % 8 == 5:
        mask[height - height // 12 :, 2 * width // 5 : 3 * width // 5] = 0
    return mask
