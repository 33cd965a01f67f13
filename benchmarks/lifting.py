"""Lifting masks of many views to votes on points; both sides read the same artifacts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.answers import answers, blob_logits
from benchmarks.harness import Row, Scale, amount, compare, peak_megabytes, require, row
from benchmarks.reference import lifting as reference
from benchmarks.rooms import room_scene
from data.artifacts.links import Links, read_links, write_links
from data.artifacts.teacher import FILE, MASK, NO_SEG, TeacherCache, TeacherWriter
from data.types import Array, Scene, silent
from stages.configs import FuseConfig, LinkConfig
from stages.fusion import fuse_masks
from stages.fusion.sample_masks import LiftedViews
from stages.fusion.votes import Votes
from stages.scene import link_points

_TOLERANCE = 1e-4  # Of a sum over views of float32 values in [0, 1].
_LIMIT = 2000.0  # MB.


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time lifting, and compare its peak memory with the limit.

    Images are half as wide as in other benchmarks, which saves rendering and changes no mask.
    """
    scene = room_scene(scale.points, scale.views, scale.height // 2, scale.width // 2)
    links, cache = _artifacts(scene, scale, folder)
    weights = np.random.default_rng(3).uniform(0.3, 1, (scale.views, scale.queries))
    weights = weights * (cache.status == MASK)
    cfg = FuseConfig()

    def ours() -> Iterator[Votes]:
        views = LiftedViews(scene, links, cache, cfg)
        yield fuse_masks.collect_votes(views, len(scene.cloud), cache, weights, cfg, silent)

    def theirs() -> Iterator[Array]:
        yield _vote(scene, links, cache, weights, cfg)

    work = f"{scale.views} views x {scale.queries} queries"
    name = f"lifting, {amount(len(scene.cloud))} points x {work}"
    rows = compare(name, ours, theirs, _check, target=10, repeats=repeats)
    if not rows:
        return []
    return [*rows, row(f"{name}: limit of memory", peak_megabytes(ours), _LIMIT, "MB", 1, 1)]


def _artifacts(scene: Scene, scale: Scale, folder: Path) -> tuple[Links, TeacherCache]:
    view_ids = [view.view_id for view in scene.views]
    write_links(folder, view_ids, len(scene.cloud), link_points.run(scene, LinkConfig()))
    writer = TeacherWriter(folder, view_ids, [f"query{query}" for query in range(scale.queries)])
    cells = float(scale.mask_size[1])
    extent = (cells, cells * scale.height / scale.width)
    writer.begin(scale.mask_size, extent, 1)
    for index in range(len(view_ids)):
        logits = blob_logits(scale.queries, scale.mask_size, index)
        writer.write_view(index, answers(logits, 1, 0.15, index))
    return read_links(folder), TeacherCache(folder / FILE)


def _vote(
    scene: Scene, links: Links, cache: TeacherCache, weights: Array, cfg: FuseConfig
) -> Array:
    """Sum (3, Q, N): mask probabilities, their weights, weights of answers without [SEG]."""
    votes = np.zeros((3, len(cache.prompt_ids), len(scene.cloud)))
    for index, view in enumerate(scene.views):
        seen, logits = links.view(index), cache.mask_logits(index)
        size = (view.camera.width, view.camera.height)
        for query in range(len(cache.prompt_ids)):
            if cache.status[index, query] == NO_SEG:
                votes[2, query, seen.point_ids] += cfg.no_seg_weight
            elif weights[index, query] > 0:
                cells = seen.uv / size * cache.mask_extent - 0.5
                target = votes[0, query], votes[1, query]
                weight = float(weights[index, query])
                reference.add_mask(*target, seen.point_ids, cells, logits[query], weight)
    return votes


def _check(mine: Votes, theirs: Array) -> None:
    for ours, reference_sums in zip(mine, theirs, strict=True):
        require(float(reference_sums.max()) > 0, "votes without content")
        worst = max(float(np.abs(a - b).max()) for a, b in zip(ours.T, reference_sums))
        require(worst <= _TOLERANCE, f"votes differ by up to {worst:.2g}")
