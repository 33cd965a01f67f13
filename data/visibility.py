"""The one rule of which points a view sees, for every camera model.

A point is visible when its z in the camera frame exceeds ``near``, its pixel lies inside the
image, the depth there is known (> 0), and |depth - z| <= max(absolute, relative * z). The
depth is read at the nearest pixel centre, which is the pixel that holds the projection.

The loops stand in ``data.visible_loops``; the same rule for a GPU in ``stages.gpu_visibility``.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from data import visible_loops
from data.cameras import lens_end
from data.point_index import BLOCK, PointIndex
from data.types import Array, Camera

_WORD = 64


@dataclass(frozen=True)
class Tolerance:
    """``near`` and ``absolute`` in metres, ``relative`` as a share of z."""

    near: float
    absolute: float
    relative: float


class Visibility:
    """Asks which points of one cloud views see; may be asked by several threads at once."""

    def __init__(self, points: Array) -> None:
        """Sort ``points`` (N, 3) metres in the world; those that are not finite are never seen."""
        self._index = PointIndex(points)
        self._threads = threading.local()

    def visible_points(
        self,
        camera: Camera,
        world_to_camera: Array,
        depth: Array,
        tolerance: Tolerance,
        valid: Array | None = None,
    ) -> tuple[Array, Array]:
        """Ids (L,) int32, ascending, and pixels ``uv`` (L, 2) float32 of the visible points.

        ``depth`` is (H, W) float32 metres at the camera's size, 0 where no surface was hit. No
        point is visible on a pixel where ``valid`` (H, W) bool is False.

        Raises:
            ValueError: the depth map or ``valid`` is not of the camera's size.
        """
        check_size("depth", depth, camera)
        if valid is not None:
            check_size("valid", valid, camera)
        scratch = self._scratch()
        index = self._index
        count = visible_loops.find(
            index.points,
            index.ids,
            index.blocks_in_view(camera, world_to_camera, tolerance.near),
            np.ascontiguousarray(world_to_camera[:3], np.float64),
            _numbers(camera),
            camera.model == "OPENCV_FISHEYE",
            np.ascontiguousarray(depth, np.float32),
            np.ones((1, 1), bool) if valid is None else np.ascontiguousarray(valid),
            valid is not None,
            np.array([tolerance.near, tolerance.absolute, tolerance.relative]),
            scratch.block,
            scratch.pixels,
            scratch.seen,
            scratch.ids,
            scratch.uv,
            scratch.words,
        )
        ids, uv = np.empty(count, np.int32), np.empty((count, 2), np.float32)
        visible_loops.order(scratch.ids, scratch.uv, scratch.words, scratch.ranks, ids, uv)
        return ids, uv

    def _scratch(self) -> _Scratch:
        """This thread's own; kept, because fresh memory costs more than what is done in it."""
        if not hasattr(self._threads, "scratch"):
            self._threads.scratch = _Scratch(self._index)
        scratch: _Scratch = self._threads.scratch
        return scratch


def check_size(name: str, image: Array, camera: Camera) -> None:
    """Raise ValueError unless ``image`` (H, W) has the camera's size."""
    size = (camera.height, camera.width)
    if image.shape != size:
        raise ValueError(f"{name} must be {size} as its camera says, got {image.shape}")


class _Scratch:
    """What a thread writes on its way: of ``ids`` and ``uv`` as much as a view sees is touched."""

    def __init__(self, index: PointIndex) -> None:
        self.block = np.empty((4, BLOCK))
        self.pixels = np.empty(BLOCK, np.int64)
        self.seen = np.empty(BLOCK, np.bool_)
        self.ids = np.empty(len(index.ids), np.int32)
        self.uv = np.empty((len(index.ids), 2), np.float32)
        self.words = np.zeros(-(-index.size // _WORD), np.uint64)
        self.ranks = np.empty(len(self.words), np.int32)


def _numbers(camera: Camera) -> Array:
    """(9,) float64: fx, cx, fy, cy, and of a fisheye its distortion and the lens's end."""
    K, numbers = camera.K, np.zeros(9)
    numbers[:4] = K[0, 0], K[0, 2], K[1, 1], K[1, 2]
    if camera.model == "OPENCV_FISHEYE":
        numbers[4:8], numbers[8] = camera.distortion, lens_end(camera.distortion)
    return numbers


def warm() -> None:
    """Load the compiled loops of this rule, or compile them."""
    camera = Camera("PINHOLE", np.eye(3), 2, 2)
    point, depth = np.ones((1, 3), np.float32), np.ones((2, 2), np.float32)
    Visibility(point).visible_points(camera, np.eye(4), depth, Tolerance(0.1, 0.1, 0.0))
