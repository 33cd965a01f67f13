"""Superpoints of a mesh."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, require, row
from benchmarks.reference import superpoints as reference
from benchmarks.rooms import scanned_room
from data import superpoints
from data.types import Array
from stages.configs import PrepareConfig

_LIMIT = 5.0  # Seconds for a mesh of 1 M faces.


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time against Python and against the limit; the same superpoint for every point."""
    cloud, triangles = scanned_room(scale.faces // 2)
    cfg = PrepareConfig()
    settings = (cfg.superpoint_threshold, cfg.superpoint_min_points)
    mesh = (cloud.points, cloud.normals, triangles)
    name = f"superpoints, {amount(len(triangles))} faces"
    rows = compare(
        name,
        lambda: [superpoints.superpoints(*mesh, *settings)],
        lambda: [reference.superpoints(*mesh, *settings)],
        _check,
        target=50,
        repeats=repeats,
    )
    if not rows:
        return []
    limit = _LIMIT * len(triangles) / 1e6
    return [*rows, row(f"{name}: limit of time", rows[0].ours, limit, "s", 1, repeats)]


def _check(mine: Array, theirs: Array) -> None:
    require(2 <= mine.max() + 1 < len(mine), f"{mine.max() + 1} superpoints of {len(mine)} points")
    differ = int(np.count_nonzero(mine != theirs))
    require(differ == 0, f"{differ} of {len(theirs)} points are in other superpoints")
