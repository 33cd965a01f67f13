"""Degrade rendered pictures as a hand-held camera does: exposure, white balance, blur and noise.

A rendered picture is taken as linear in light, as the renderer makes it. Motion blur averages each
pixel along its way during the exposure, exposure and white balance multiply the channels, and
noise has a part that grows with the light (shot noise) and one that does not (read noise).
"""

from __future__ import annotations

import numpy as np

from data.compiled import compiled
from data.geometry.cameras import project, unproject
from data.rooms.scanning.walk import random_walk
from data.types import Array, Camera

EXPOSURE_TIME = 1 / 50
"""Seconds for which the shutter is open."""
EXPOSURE_WALK, BALANCE_WALK = 0.18, 0.035
"""Root mean square of the walks of log2 exposure and of the log gains of red and blue."""
SHOT, READ = 1 / 2500, 0.005
"""Variance per unit of light (1 / electrons at white), and standard deviation of read noise."""
_GRID = 16  # Pixels between two places at which the motion is computed.
_MOST_TAPS = 32


def exposures(count: int, rng: np.random.Generator) -> Array:
    """Draw the gains (count, 3) of the channels RGB over a walk: exposure times white balance."""
    walk = random_walk(count, 3, rng)
    brightness = 2.0 ** (EXPOSURE_WALK * walk[:, :1])
    red, blue = np.exp(BALANCE_WALK * walk[:, 1]), np.exp(BALANCE_WALK * walk[:, 2])
    return np.asarray(brightness * np.stack([red, np.ones(count), blue], axis=1))


class Photographer:
    """Takes degraded pictures with one camera."""

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        rows, columns = (
            np.arange(0, size + _GRID, _GRID) for size in (camera.height, camera.width)
        )
        self._shape = len(rows), len(columns)
        self._at = (
            np.minimum(rows, camera.height - 1)[:, None],
            np.minimum(columns, camera.width - 1)[None],
        )
        centers = np.stack(np.broadcast_arrays(self._at[1], self._at[0]), axis=-1) + 0.5
        self._rays = unproject(camera, centers.reshape(-1, 2).astype(np.float64))

    def __call__(
        self, image: Array, depth: Array, motion: Array, gains: Array, rng: np.random.Generator
    ) -> Array:
        """Return the picture (H, W, 3) uint8 that a moving camera takes of a rendered ``image``.

        ``depth`` (H, W) is the image's, metres; ``motion`` (2, 3) is that of ``Walk.motion``;
        ``gains`` (3,) multiply the channels.
        """
        noise = rng.standard_normal(image.shape, np.float32)
        taken = np.empty_like(image)
        flow = self.flow(depth, motion)
        _expose(image, flow, gains.astype(np.float32), noise, taken)
        return taken

    def flow(self, depth: Array, motion: Array) -> Array:
        """Return the way of pixels during an exposure on a coarse grid, (h, w, 2) float32, x, y."""
        z = np.maximum(depth[self._at[0], self._at[1]].reshape(-1), 0.1)
        points = self._rays * z[:, None]
        way = EXPOSURE_TIME * (np.cross(motion[0], points) + motion[1])
        moved = project(self._camera, points + way / 2) - project(self._camera, points - way / 2)
        shape = (*self._shape, 2)
        return np.asarray(np.nan_to_num(moved).reshape(shape), np.float32)


@compiled
def _expose(image: Array, flow: Array, gains: Array, noise: Array, taken: Array) -> None:
    height, width = image.shape[:2]
    for row in range(height):
        i, y = row // _GRID, np.float32(row % _GRID) / np.float32(_GRID)
        for column in range(width):
            j, x = column // _GRID, np.float32(column % _GRID) / np.float32(_GRID)
            a, b, c, d = (1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x
            dx = a * flow[i, j, 0] + b * flow[i, j + 1, 0]
            dx += c * flow[i + 1, j, 0] + d * flow[i + 1, j + 1, 0]
            dy = a * flow[i, j, 1] + b * flow[i, j + 1, 1]
            dy += c * flow[i + 1, j, 1] + d * flow[i + 1, j + 1, 1]
            taps = min(int(np.ceil(max(abs(dx), abs(dy)))) + 1, _MOST_TAPS)
            red, green, blue = np.float32(0), np.float32(0), np.float32(0)
            for tap in range(taps):
                along = (np.float32(tap) + np.float32(0.5)) / np.float32(taps) - np.float32(0.5)
                v = min(max(int(np.rint(row + along * dy)), 0), height - 1)
                u = min(max(int(np.rint(column + along * dx)), 0), width - 1)
                red += np.float32(image[v, u, 0])
                green += np.float32(image[v, u, 1])
                blue += np.float32(image[v, u, 2])
            scale = np.float32(1 / 255) / np.float32(taps)
            for channel, light in ((0, red), (1, green), (2, blue)):
                value = light * scale * gains[channel]
                spread = np.sqrt(value * np.float32(SHOT) + np.float32(READ * READ))
                value += spread * noise[row, column, channel]
                taken[row, column, channel] = int(
                    min(max(value * np.float32(255) + np.float32(0.5), 0.0), 255.0)
                )


def warm() -> None:
    """Load this module's compiled loops, or compile them."""
    image = np.zeros((1, 1, 3), np.uint8)
    flow, noise = np.zeros((2, 2, 2), np.float32), np.zeros((1, 1, 3), np.float32)
    _expose(image, flow, np.ones(3, np.float32), noise, image.copy())
