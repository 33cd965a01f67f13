"""Fusion equals plain loops over views and points, and obeys the laws its text states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data.artifacts.links import ViewLinks
from data.artifacts.teacher import MASK, NO_SEG, TeacherCache
from stages import fuse_masks
from stages.configs import FuseConfig
from tests.teacher_world import FakeLinks, flat_scene, random_case, write_cache

PLAIN = FuseConfig(superpoints=False, gate_floor=0.3, prior=0.5, no_seg_weight=0.5)
UNIFORM = FuseConfig(gate="uniform", superpoints=False)


def _loops(
    links: FakeLinks, cache: TeacherCache, weights: np.ndarray, prior: float, no_seg: float
) -> tuple[np.ndarray, np.ndarray]:
    """The formulas of the module's text, one point, query and view at a time."""
    num_queries = len(cache.prompt_ids)
    soft, confidence = np.zeros((2, num_queries, links.num_points))
    for q in range(num_queries):
        for i in range(links.num_points):
            votes = seen = 0.0
            for v, view in enumerate(links.views):
                if i not in view.point_ids:
                    continue
                if cache.status[v, q] == NO_SEG:
                    seen += no_seg
                if weights[q, v] > 0:
                    u, w = view.uv[list(view.point_ids).index(i)]
                    x = u / 60 * cache.mask_extent[0] - 0.5
                    y = w / 40 * cache.mask_extent[1] - 0.5
                    grid = cache.mask_logits(v)[q].astype(np.float64)
                    logit = map_coordinates(grid, [[y], [x]], order=1, mode="nearest")[0]
                    votes += weights[q, v] / (1 + np.exp(-logit))
                    seen += weights[q, v]
            if seen:
                soft[q, i] = votes / (seen + prior)
                agreement = seen / (seen + 1) * abs(2 * votes / seen - 1)
                confidence[q, i] = max(agreement, 1 / 255)
    return soft, confidence


def test_uniform_equals_plain_loops(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, UNIFORM)
    weights = (cache.status == MASK).T.astype(float)
    soft, confidence = _loops(links, cache, weights, 0, 0)
    np.testing.assert_allclose(labels.soft, soft, atol=1e-5)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


@pytest.mark.parametrize("no_seg", [0.0, 0.5])
def test_gated_equals_plain_loops(tmp_path: Path, no_seg: float) -> None:
    scene, links, cache = random_case(tmp_path)
    cfg = PLAIN.model_copy(update={"no_seg_weight": no_seg, "prior": 0.7})
    labels = fuse_masks.run(scene, links, cache, cfg)
    largest = labels.view_weights.max(axis=1, keepdims=True)
    weights = labels.view_weights / np.where(largest > 0, largest, 1)
    soft, confidence = _loops(links, cache, weights, 0.7, no_seg)
    np.testing.assert_allclose(labels.soft, soft, atol=1e-5)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


def test_two_views_by_hand(tmp_path: Path) -> None:
    """Two 2x2 masks on 40x40 pixels: cell centres lie at pixels 10 and 30."""
    scene = flat_scene(3, 3, 40, 40)
    ln3 = float(np.log(3))  # sigmoid(ln 3) = 3/4; stored as 1.125, the nearest eighth
    first = [[ln3, -ln3], [-ln3, -ln3]]
    second = [[8.0, 8.0], [8.0, 8.0]]
    logits = np.array([[first], [second], [first]], np.float32)
    tokens = np.tile(np.eye(2, dtype=np.float32)[:1], (3, 1, 1))
    status = np.array([[MASK], [MASK], [NO_SEG]], np.uint8)
    iou = np.array([[0.4], [0.8], [0.0]], np.float32)
    cache = write_cache(tmp_path, status, logits, iou, tokens)
    links = FakeLinks(
        [
            ViewLinks("view0", np.array([0, 1], np.int32), np.array([[10, 10], [20, 10]], "f4")),
            ViewLinks("view1", np.array([0], np.int32), np.array([[1, 39]], "f4")),
            ViewLinks("view2", np.array([0], np.int32), np.array([[5, 5]], "f4")),
        ],
        3,
    )
    inside, sure = 1 / (1 + np.exp(-1.125)), 1 / (1 + np.exp(-8))
    labels = fuse_masks.run(scene, links, cache, UNIFORM)
    np.testing.assert_allclose(labels.soft[0], [(inside + sure) / 2, 0.5, 0], atol=1e-6)
    np.testing.assert_allclose(labels.view_weights, [[0.5, 0.5, 0]])
    cfg = PLAIN.model_copy(update={"prior": 0.5, "no_seg_weight": 0.25})
    labels = fuse_masks.run(scene, links, cache, cfg)
    np.testing.assert_allclose(labels.view_weights, [[1 / 3, 2 / 3, 0]], atol=1e-6)
    votes = 0.5 * inside + 1.0 * sure
    np.testing.assert_allclose(labels.soft[0, 0], votes / (1.5 + 0.25 + 0.5), atol=1e-6)
    np.testing.assert_allclose(labels.soft[0, 1], 0.5 * 0.5 / (0.5 + 0.5), atol=1e-6)
    confident = 1.75 / 2.75 * abs(2 * votes / 1.75 - 1)
    np.testing.assert_allclose(labels.confidence[0], [confident, 1 / 255, 0], atol=1e-6)
    assert labels.drop_reasons == (("", "", "no [SEG]"),)
    np.testing.assert_allclose(labels.query_tokens, [[1, 0]])


def _reordered(
    folder: Path, links: FakeLinks, cache: TeacherCache, order: Any
) -> tuple[FakeLinks, TeacherCache]:
    views = [replace(links.views[i], view_id=f"view{k}") for k, i in enumerate(order)]
    logits = np.stack([cache.mask_logits(i) for i in order])
    again = write_cache(
        folder,
        cache.status[order],
        logits,
        cache.predicted_iou[order],
        cache.seg_embeddings[order],
        tuple(cache.mask_extent),
    )
    return FakeLinks(views, links.num_points), again


@pytest.mark.parametrize("gate", ["uniform", "gated"])
def test_the_order_of_views_changes_nothing(tmp_path: Path, gate: Any) -> None:
    scene, links, cache = random_case(tmp_path / "a", seed=3)
    cfg = FuseConfig(gate=gate)
    labels = fuse_masks.run(scene, links, cache, cfg)
    order = np.random.default_rng(1).permutation(7)
    mixed = fuse_masks.run(scene, *_reordered(tmp_path / "b", links, cache, order), cfg)
    for name in ("soft", "confidence", "query_tokens"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(labels, name), atol=1e-6)
    np.testing.assert_allclose(mixed.view_weights, labels.view_weights[:, order], atol=1e-6)


@pytest.mark.parametrize("gate", ["uniform", "gated"])
def test_a_view_that_sees_nothing_changes_nothing(tmp_path: Path, gate: Any) -> None:
    scene, links, cache = random_case(tmp_path / "a", seed=4)
    cfg = FuseConfig(gate=gate)
    labels = fuse_masks.run(scene, links, cache, cfg)
    empty = ViewLinks("view7", np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    status, logits = np.full((1, 4), NO_SEG, np.uint8), np.zeros((1, 4, 8, 10), np.float32)
    longer = write_cache(
        tmp_path / "b",
        np.concatenate([cache.status, status]),
        np.concatenate([np.stack([cache.mask_logits(i) for i in range(7)]), logits]),
        np.concatenate([cache.predicted_iou, np.zeros((1, 4), np.float32)]),
        np.concatenate([cache.seg_embeddings, np.zeros((1, 4, 64), np.float32)]),
        tuple(cache.mask_extent),
    )
    scene = replace(scene, views=flat_scene(30, 8, 40, 60).views, depths=[np.zeros((1, 1))] * 8)
    more = fuse_masks.run(scene, FakeLinks([*links.views, empty], 30), longer, cfg)
    for name in ("soft", "confidence", "query_tokens"):
        np.testing.assert_allclose(getattr(more, name), getattr(labels, name), atol=1e-6)


def test_queries_without_masks_are_empty(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    assert not labels.soft[3].any() and not labels.query_tokens[3].any()
    assert not labels.view_weights[3].any()
    seen = np.zeros(30)
    for view, status in zip(links.views, cache.status[:, 3], strict=True):
        seen[view.point_ids] += PLAIN.no_seg_weight * (status == NO_SEG)
    np.testing.assert_allclose(labels.confidence[3], seen / (seen + 1), atol=1e-6)
    assert set(labels.drop_reasons[3]) <= {"no [SEG]", "failed"}
    assert not fuse_masks.run(scene, links, cache, UNIFORM).confidence[3].any()


def test_confidence_grows_with_agreeing_views(tmp_path: Path) -> None:
    scene = flat_scene(4, 4, 40, 60)
    status = np.full((4, 1), MASK, np.uint8)
    logits = np.full((4, 1, 4, 6), 15.0, np.float32)
    tokens = np.ones((4, 1, 3), np.float32)
    cache = write_cache(tmp_path, status, logits, np.ones((4, 1), np.float32), tokens)
    links = FakeLinks(
        [
            ViewLinks(v.view_id, np.arange(k, 4, dtype=np.int32), np.full((4 - k, 2), 20, "f4"))
            for k, v in enumerate(scene.views)
        ],
        4,
    )
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    np.testing.assert_allclose(labels.confidence[0], [1 / 2, 2 / 3, 3 / 4, 4 / 5], atol=1e-5)
    np.testing.assert_allclose(labels.soft[0], [1 / 1.5, 2 / 2.5, 3 / 3.5, 4 / 4.5], atol=1e-5)


def test_superpoints_keep_what_is_constant_and_fill_what_is_unseen() -> None:
    ids = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    soft = np.array([[0.2, 0.2, 0.2, 0.9, 0.1, 0.8, 0.0, 0.0]], np.float32)
    confidence = np.array([[0.5, 0.5, 0.5, 0.6, 0.2, 0.6, 0.0, 0.0]], np.float32)
    smooth, shared = fuse_masks.smooth_superpoints(soft, confidence, ids)
    np.testing.assert_allclose(smooth[0, :3], 0.2, atol=1e-6)
    np.testing.assert_allclose(shared[0, :3], 0.5, atol=1e-6)
    np.testing.assert_allclose(smooth[0, 3:5], 0.7, atol=1e-6)  # (0.6 * 0.9 + 0.2 * 0.1) / 0.8
    np.testing.assert_allclose(shared[0, 3:5], [0.6, 0.4], atol=1e-6)
    np.testing.assert_allclose(smooth[0, 5:], 0.8, atol=1e-6)
    np.testing.assert_allclose(shared[0, 5:], [0.6, 0.2, 0.2], atol=1e-6)
    again = fuse_masks.smooth_superpoints(smooth, shared, ids)
    np.testing.assert_allclose(again[0], smooth, atol=1e-6)


def test_sampling_equals_scipy_and_clamps() -> None:
    rng = np.random.default_rng(0)
    grids = rng.normal(size=(3, 5, 9)).astype(np.float32)
    cells = rng.uniform(-2, 11, (200, 2))
    ours = fuse_masks.sample_bilinear(grids, cells)
    for k in range(3):
        theirs = map_coordinates(grids[k], cells.T[::-1], order=1, mode="nearest")
        np.testing.assert_allclose(ours[:, k], theirs, atol=1e-5)
    assert fuse_masks.sample_bilinear(grids[:, :1, :1], cells).shape == (200, 3)


def test_other_views_or_points_are_refused(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    with pytest.raises(ValueError, match="other views"):
        fuse_masks.run(scene, FakeLinks(links.views[::-1], 30), cache, PLAIN)
    with pytest.raises(ValueError, match="30 points, links 31"):
        fuse_masks.run(scene, FakeLinks(links.views, 31), cache, PLAIN)
