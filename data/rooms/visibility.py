"""Free space of a furnished room, and what can be seen from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.raycast import Raycaster
from data.rooms.layout import Placed
from data.types import Array

_DRAWS = 1500
_HEIGHTS = (1.6, 0.7, 2.1, 1.1)


def free_floor(
    size: tuple[float, float, float],
    placed: Sequence[Placed],
    rng: np.random.Generator,
    count: int,
    clearance: float,
    edge: float,
) -> Array:
    """Up to ``count`` floor positions (n, 2), room frame, metres.

    They keep ``edge`` from the walls and ``clearance`` from furniture; in a crowded room the
    clearance shrinks until a quarter of the count is found.
    """
    draw = rng.uniform([edge, edge], [size[0] - edge, size[1] - edge], size=(_DRAWS, 2)).round(3)
    free = np.ones(len(draw), bool)
    for margin in (clearance, clearance / 2, clearance / 4, 0.02):
        free = np.ones(len(draw), bool)
        for item in placed:
            if item.z < 2.0:
                free &= ~item.body.grown(margin).holds(draw[:, 0], draw[:, 1])
        if 4 * int(free.sum()) >= count:
            break
    return np.asarray(draw[free][:count])


def scanner_stands(
    size: tuple[float, float, float], placed: Sequence[Placed], rng: np.random.Generator
) -> Array:
    """(n, 3) places in free space at several heights, room frame, metres."""
    floor = free_floor(size, placed, rng, 16, 0.1, 0.3)
    heights = [np.full((len(floor), 1), min(z, size[2] - 0.2)) for z in _HEIGHTS]
    return np.concatenate([np.concatenate([floor, z], axis=1) for z in heights])


def seen_from(starts: Array, normals: Array, caster: Raycaster, stands: Array) -> Array:
    """(V,) bool: surface points that face one of ``stands`` (n, 3) with nothing between."""
    seen = np.zeros(len(starts), bool)
    for stand in stands:
        left = np.flatnonzero(~seen)
        away = stand - starts[left]
        facing = (away * normals[left]).sum(axis=1) > 0
        rows, rays = left[facing], away[facing]
        seen[rows] = ~caster.occluded(starts[rows], rays, 0.999)
    return seen
