"""Masks of views, sampled at the points each view sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.artifacts.links import Links
from data.artifacts.teacher import TeacherCache
from data.types import Array, Scene


class LiftedView(NamedTuple):
    """One view's masks in 3D: ``point_ids`` (L,) int32, ``probs`` (L, Q) float32.

    The probability of a point is 0 for queries without a drawn mask.
    """

    view_index: int
    point_ids: Array
    probs: Array


def check_links(scene: Scene, links: Links) -> None:
    """Raise ValueError unless the links are of the scene's views and points."""
    if links.view_ids != tuple(view.view_id for view in scene.views):
        raise ValueError(f"scene {scene.scene_id}: links are of other views")
    if links.num_points != len(scene.cloud):
        raise ValueError(
            f"scene {scene.scene_id} has {len(scene.cloud)} points, links {links.num_points}"
        )


def lifted_views(scene: Scene, links: Links, cache: TeacherCache) -> Iterator[LiftedView]:
    """Yield every view's masks at its points, one view in memory at a time."""
    for index, view in enumerate(scene.views):
        seen = links.view(index)
        probs = np.zeros((len(seen.point_ids), len(cache.prompt_ids)), np.float32)
        drawn = np.flatnonzero(cache.drawn[index])
        if len(drawn) and len(seen.point_ids):
            size = np.asarray((view.camera.width, view.camera.height), np.float32)
            cells = seen.uv / size * cache.mask_extent - 0.5
            logits = sample_bilinear(cache.mask_logits(index)[drawn], cells)
            probs[:, drawn] = 1 / (1 + np.exp(-logits))
        yield LiftedView(index, seen.point_ids, probs)


def sample_bilinear(grids: Array, cells: Array) -> Array:
    """(L, Q) float32 values of ``grids`` (Q, h, w) at ``cells`` (L, 2), x then y.

    Cell centres have whole coordinates; beyond the outermost centres the border continues.
    """
    num_grids, height, width = grids.shape
    flat = np.ascontiguousarray(grids.reshape(num_grids, -1).T, np.float32)
    x = np.clip(cells[:, 0], 0, width - 1)
    y = np.clip(cells[:, 1], 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    tx, ty = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    upper = flat[top * width + left] * (1 - tx) + flat[top * width + right] * tx
    lower = flat[bottom * width + left] * (1 - tx) + flat[bottom * width + right] * tx
    return np.asarray(upper * (1 - ty) + lower * ty, np.float32)
