"""Point-to-pixel links with occlusion."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, peak_megabytes, require, row
from benchmarks.reference import links as reference
from benchmarks.rooms import room_scene
from data.artifacts.links import ViewLinks
from data.types import Array, Scene
from stages.configs import LinkConfig
from stages.scene import link_points

# Of all links, how many may be in one answer only: points on a pixel's or the rule's border.
_MOST_APART = 1e-4
_PIXEL_TOLERANCE = 2e-3


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Measure time, peak memory and the share of the memory bandwidth that is reached."""
    scene = room_scene(scale.points, scale.views, scale.height, scale.width)
    size = f"{scale.views} views of {scale.width}x{scale.height}"
    name = f"links, {amount(len(scene.cloud))} points x {size}"
    cfg = LinkConfig()

    def ours() -> Iterator[ViewLinks]:
        return link_points.run(scene, cfg)

    def theirs() -> Iterator[tuple[Array, Array]]:
        points, tolerances = scene.cloud.points, (cfg.depth_tolerance, cfg.depth_tolerance_relative)
        for view, depth in zip(scene.views, scene.depths):
            pose = view.world_to_camera
            yield reference.link_view(points, view.camera.K, pose, depth, cfg.near, *tolerances)

    rows = compare(name, ours, theirs, _check, target=20, repeats=repeats)
    if not rows:
        return []
    memory = (peak_megabytes(ours), peak_megabytes(theirs))
    rows.append(row(f"{name}: peak memory", *memory, "MB", 4, 1))
    ideal = _least_bytes(scene, ours()) / _bandwidth()
    share = f"{name}: share of memory bandwidth"
    return [*rows, row(share, rows[0].ours, ideal, "s", None, repeats)]


def _check(mine: ViewLinks, theirs: tuple[Array, Array]) -> None:
    ids, uv = theirs
    common, ours_at, theirs_at = np.intersect1d(
        mine.point_ids, ids, assume_unique=True, return_indices=True
    )
    apart = len(ids) + len(mine.point_ids) - 2 * len(common)
    require(len(ids) > 0, "no point is visible")
    require(apart <= _MOST_APART * len(ids), f"{apart} of {len(ids)} links are in one answer only")
    worst = float(np.abs(mine.uv[ours_at] - uv[theirs_at]).max(initial=0))
    require(worst <= _PIXEL_TOLERANCE, f"pixels differ by up to {worst:.2g}")


def _least_bytes(scene: Scene, links: Iterator[ViewLinks]) -> float:
    """Return the least traffic: each view reads the points and a depth map, and writes links."""
    per_link = 4 + 4 + 8
    num_links = sum(len(view.point_ids) for view in links)
    return float(len(scene.views) * scene.cloud.points.nbytes + num_links * per_link)


def _bandwidth() -> float:
    """Bytes per second that two threads read and write while copying 256 MB; best of five."""
    source, target = np.ones((2, 16_000_000)), np.zeros((2, 16_000_000))
    best = np.inf
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            start = time.perf_counter()
            list(pool.map(np.copyto, target, source))
            best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best
