"""Sample the masks of each view bilinearly at the points that the view sees.

Grids are stored channels last, so that a point reads four short runs of memory for all queries.
Views are read ahead, a few at a time. Each thread works on its own range of links, so that sums
are bit-identical for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data.artifacts.links import Links
from data.artifacts.teacher import TeacherCache
from data.compiled import compiled
from data.parallel import mapped, num_threads
from data.types import Array, Scene
from stages.configs import FuseConfig
from stages.fusion.link_trust import FULL, link_trust

STEP = np.float32(1 / FULL)
"""Weight of one step of trust."""
TILE = 64
"""Links per tile; the values of a tile stay in the L1 cache between sampling and adding."""


class Sampling(NamedTuple):
    """Positions of links on a grid.

    ``uv`` (L, 2) float32 are pixels in an image of ``size`` (2,) float32 pixels; ``extent`` (2,)
    float64 is the number of cells that the image covers; x comes before y. The grid coordinate is
    ``uv / size * extent - 0.5``, integral at cell centres; outside the outermost centres the
    border value is used.
    """

    uv: Array
    size: Array
    extent: Array


class LiftedView(NamedTuple):
    """The masks of one view and the points it sees.

    ``point_ids`` (L,) int32 are ascending; ``grid`` (h, w, Q) float32 holds mask logits, which
    are valid only for the queries with a mask, marked in ``drawn`` (Q,) bool. ``trust`` (L,) uint8
    weighs the view's vote at each link, in steps of 1/255.
    """

    view_index: int
    point_ids: Array
    sampling: Sampling
    grid: Array
    drawn: Array
    trust: Array


def check_links(scene: Scene, links: Links) -> None:
    """Raise ValueError unless the links belong to the scene's views and points."""
    if links.view_ids != tuple(view.view_id for view in scene.views):
        raise ValueError(f"scene {scene.scene_id}: links are of other views")
    if links.num_points != len(scene.cloud):
        raise ValueError(
            f"scene {scene.scene_id} has {len(scene.cloud)} points, links {links.num_points}"
        )


class LiftedViews:
    """The views of a scene in order; memory holds one view per thread, and the trust in all links.

    It can be iterated several times; the trust in a view's links is computed the first time.
    Iterating raises ValueError for links whose point ids are not ascending or not below the number
    of points.
    """

    def __init__(self, scene: Scene, links: Links, cache: TeacherCache, cfg: FuseConfig) -> None:
        self._scene, self._links, self._cache, self._cfg = scene, links, cache, cfg
        self._trusts: dict[int, Array] = {}

    def __iter__(self) -> Iterator[LiftedView]:
        yield from mapped(self._read, range(len(self._scene.views)))

    def _read(self, index: int) -> LiftedView:
        seen, view = self._links.view(index), self._scene.views[index]
        _check_ascending(seen.point_ids, len(self._scene.cloud), view.view_id)
        sampling = Sampling(
            np.ascontiguousarray(seen.uv, np.float32),
            np.asarray((view.camera.width, view.camera.height), np.float32),
            np.asarray(self._cache.mask_extent, np.float64),
        )
        drawn = np.asarray(self._cache.drawn[index])
        grid = np.zeros((1, 1, len(drawn)), np.float32)
        if drawn.any():
            grid = channels_last(self._cache.mask_logits(index))
        if index not in self._trusts:
            self._trusts[index] = _trust(self._scene, index, seen.point_ids, sampling, self._cfg)
        return LiftedView(index, seen.point_ids, sampling, grid, drawn, self._trusts[index])


def _trust(
    scene: Scene, index: int, point_ids: Array, sampling: Sampling, cfg: FuseConfig
) -> Array:
    """Return the trust (L,) in a view at its links; reads its depth only where that is needed."""
    if cfg.edge_trust == 1 and cfg.trusted_distance == 0:
        return np.full(len(point_ids), FULL, np.uint8)
    pose = scene.views[index].world_to_camera
    distances = np.linalg.norm(scene.cloud.points[point_ids] @ pose[:3, :3].T + pose[:3, 3], axis=1)
    cell = float(np.max(sampling.size / sampling.extent))
    depth = scene.depths[index] if cfg.edge_trust < 1 else None
    return link_trust(depth, sampling.uv, distances, cell, cfg.edge_trust, cfg.trusted_distance)


def _check_ascending(point_ids: Array, num_points: int, view_id: str) -> None:
    if len(point_ids) == 0:
        return
    if point_ids[0] < 0 or point_ids[-1] >= num_points or (np.diff(point_ids) <= 0).any():
        raise ValueError(f"view {view_id}: links are not ascending points of {num_points}")


def channels_last(grids: Array) -> Array:
    """Transpose (C, h, w) to contiguous (h, w, C) float32."""
    return np.ascontiguousarray(grids.transpose(1, 2, 0), np.float32)


def sample_bilinear(grids: Array, sampling: Sampling) -> Array:
    """Sample ``grids`` (C, h, w) at L links; returns (L, C) float32."""
    values = np.empty((len(sampling.uv), len(grids)), np.float32)
    sample(values, channels_last(grids), *sampling, 0)
    return values


_FEW_LINKS = 1024
"""Number of links that one thread samples sooner than it would start another."""


def shares(count: int) -> list[tuple[int, int]]:
    """Split the links 0..count into (start, end) ranges, one for each thread that pays off."""
    parts = max(1, min(num_threads(), count // _FEW_LINKS))
    borders = np.linspace(0, count, parts + 1).astype(int).tolist()
    return list(zip(borders, borders[1:]))


@compiled
def sample(values: Array, grid: Array, uv: Array, size: Array, extent: Array, start: int) -> None:
    """Fill ``values`` (n, C) with samples of ``grid`` (h, w, C) at the links from ``start`` on."""
    height, width, channels = grid.shape
    cells = grid.reshape(height * width, channels)
    corners = np.empty((len(values), 4), np.int64)
    parts = np.empty((len(values), 4), np.float32)
    for i in range(len(values)):
        x = np.float64(uv[start + i, 0] / size[0]) * extent[0] - 0.5
        y = np.float64(uv[start + i, 1] / size[1]) * extent[1] - 0.5
        x = min(x, width - 1.0) if x > 0 else 0.0
        y = min(y, height - 1.0) if y > 0 else 0.0
        left, top = int(x), int(y)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        corners[i, 0], corners[i, 1] = top * width + left, top * width + right
        corners[i, 2], corners[i, 3] = bottom * width + left, bottom * width + right
        parts[i, 0], parts[i, 1] = x - left, y - top
        parts[i, 2], parts[i, 3] = np.float32(1) - parts[i, 0], np.float32(1) - parts[i, 1]
    # A loop apart from the scalar one above, so that the compiler vectorises over channels.
    for i in range(len(values)):
        a, b, c, d = corners[i, 0], corners[i, 1], corners[i, 2], corners[i, 3]
        tx, ty, sx, sy = parts[i, 0], parts[i, 1], parts[i, 2], parts[i, 3]
        for k in range(channels):
            upper = cells[a, k] * sx + cells[b, k] * tx
            lower = cells[c, k] * sx + cells[d, k] * tx
            values[i, k] = upper * sy + lower * ty


@compiled
def squash(values: Array) -> None:
    """Replace logits (n,) float32 by probabilities, in place.

    sigmoid(x) = 1 / 2 + x P(x²) / R(x²) with P and R of degree 3 and 4, a minimax fit on
    [-16, 16] (largest error 7e-8 before rounding, under 3e-7 in float32); x is clamped to that
    range. Without branches and tables the compiler can vectorise it.
    """
    for i in range(len(values)):
        x = min(max(values[i], np.float32(-16)), np.float32(16))
        s = x * x
        top = np.float32(4.418048860088675e-08) * s + np.float32(4.591915421769954e-05)
        top = (top * s + np.float32(0.008071024902164936)) * s + np.float32(0.24999983608722687)
        under = np.float32(9.468108519428142e-10) * s + np.float32(3.7035658806416905e-06)
        under = (under * s + np.float32(0.0014852386666461825)) * s
        under = (under + np.float32(0.11561684310436249)) * s + np.float32(1)
        values[i] = np.float32(0.5) + x * top / under


@compiled
def add_votes(
    votes: Array,
    point_ids: Array,
    grid: Array,
    uv: Array,
    size: Array,
    extent: Array,
    trust: Array,
    weights: Array,
    first: int,
    end: int,
) -> None:
    """Add the weighted probabilities at the links first..end to ``votes`` (N, Q).

    They are weighted by the link's ``trust`` (L,) and the query's ``weights`` (Q,).
    """
    tile = np.empty((TILE, len(weights)), np.float32)
    for start in range(first, end, TILE):
        probs = tile[: min(TILE, end - start)]
        sample(probs, grid, uv, size, extent, start)
        squash(probs.reshape(-1))
        for i in range(len(probs)):
            point, share = point_ids[start + i], trust[start + i] * STEP
            for k in range(len(weights)):
                votes[point, k] += share * weights[k] * probs[i, k]
