"""Superpoints of a mesh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, require, row
from benchmarks.reference import superpoints as reference
from benchmarks.rooms import scanned_room
from data.geometry import superpoints
from data.types import Array
from stages.configs import PrepareConfig

_LIMIT = 5.0  # Seconds for a mesh of 1 M faces.


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time against plain Python, against NumPy and Python mixed, and against the limit.

    Plain Python gets lists and this project arrays, so neither side converts its input.
    """
    cloud, triangles = scanned_room(scale.faces // 2)
    cfg = PrepareConfig()
    settings = (cfg.superpoint_threshold, cfg.superpoint_min_points)
    mesh = (cloud.points, cloud.normals, triangles)
    lists: list[list[Any]] = [part.tolist() for part in mesh]

    def ours() -> Iterator[Array]:
        yield superpoints.superpoints(cloud, triangles, superpoints.Cutting(*settings))

    def plain() -> Iterator[list[int]]:
        yield reference.superpoints(lists[0], lists[1], lists[2], *settings)

    def mixed() -> Iterator[list[int]]:
        yield reference.after_numpy(*mesh, *settings)

    name = f"superpoints, {amount(len(triangles))} faces"
    rows = compare(name, ours, plain, _check, target=50, repeats=repeats)
    half = f"{name}, edges and weights by NumPy"
    rows += compare(half, ours, mixed, _check, target=None, repeats=repeats)
    if not rows:
        return []
    limit = _LIMIT * len(triangles) / 1e6
    return [*rows, row(f"{name}: limit of time", rows[0].ours, limit, "s", 1, repeats)]


def _check(mine: Array, theirs: list[int]) -> None:
    require(2 <= mine.max() + 1 < len(mine), f"{mine.max() + 1} superpoints of {len(mine)} points")
    differ = int(np.count_nonzero(mine != np.array(theirs)))
    require(differ == 0, f"{differ} of {len(theirs)} points are in other superpoints")
