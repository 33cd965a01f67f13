"""Views of a query by belief and by agreement in 3D, against plain loops and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.artifacts.links import ViewLinks
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from data.types import Array
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.fuse_masks import view_confidence, weigh_views
from stages.fusion.sample_masks import LiftedView, LiftedViews, Sampling
from stages.fusion.votes import agreement
from tests.support.worlds.teacher_world import FakeLinks, flat_scene, random_case, write_cache

PLAIN = FuseConfig(superpoints=False)


Said = tuple[Array, Array]
"""Points (L,) that a view sees, and its probabilities (L, Q) there."""


def _lifted(said: list[Said]) -> list[LiftedView]:
    """Views whose masks have one cell for every point they see."""
    views = []
    for index, (ids, probs) in enumerate(said):
        with np.errstate(divide="ignore"):
            grid = np.log(probs / (1 - probs)).clip(-20, 20).astype(np.float32)[None]
        uv = np.stack([np.arange(len(ids)) + 0.5, np.full(len(ids), 0.5)], axis=1)
        size = np.array([max(len(ids), 1), 1])
        sampling = Sampling(uv.astype(np.float32), size.astype(np.float32), size.astype(float))
        drawn = np.ones(probs.shape[1], bool)
        views.append(
            LiftedView(
                index, ids.astype(np.int32), sampling, grid, drawn, np.full(len(ids), 255, np.uint8)
            )
        )
    return views


def _loops(said: list[Said], weights: Array) -> Array:
    """Soft IoU of every view with the weighted mean of the others, a point at a time."""
    support = np.ones(weights.shape)
    masks = [dict(zip(ids.tolist(), probs, strict=True)) for ids, probs in said]
    for v, q in np.ndindex(*weights.shape):
        inside = either = 0.0
        for point, probs in masks[v].items():
            others = [u for u in range(len(masks)) if u != v and point in masks[u]]
            total = sum(weights[u, q] for u in others)
            if total > 0:
                mean = sum(weights[u, q] * masks[u][point][q] for u in others) / total
                inside += min(probs[q], mean)
                either += max(probs[q], mean)
        if either > 0:
            support[v, q] = inside / either
    return support


def _sums(said: list[Said], weights: Array, num_points: int) -> tuple[Array, Array]:
    votes, says = np.zeros((2, num_points, weights.shape[1]), np.float32)
    for index, (ids, probs) in enumerate(said):
        votes[ids] += weights[index] * probs
        says[ids] += weights[index]
    return votes, says


@pytest.mark.parametrize("seed", range(5))
def test_agreement_equals_plain_loops(seed: int) -> None:
    rng = np.random.default_rng(seed)
    said = []
    for _ in range(6):
        ids = np.flatnonzero(rng.random(20) < 0.3)
        said.append((ids, rng.random((len(ids), 3), np.float32)))
    weights = rng.random((6, 3)) * (rng.random((6, 3)) < 0.7)
    support = agreement(_lifted(said), weights, *_sums(said, weights, 20))
    np.testing.assert_allclose(support, _loops(said, weights), atol=1e-4)


def test_agreement_by_hand() -> None:
    """Points 0 and 1 are shared; what view 0 alone says of point 2 counts for nothing."""
    first = np.array([0, 1, 2]), np.array([[0.8], [0.2], [1]], np.float32)
    second = np.array([0, 1]), np.array([[0.4], [0.6]], np.float32)
    alone = np.array([3]), np.array([[0.9]], np.float32)
    said, weights = [first, second, alone], np.array([[1.0], [0.5], [1.0]])
    support = agreement(_lifted(said), weights, *_sums(said, weights, 4))
    np.testing.assert_allclose(support[:, 0], [0.6 / 1.4, 0.6 / 1.4, 1], atol=1e-6)
    weights[1] = 0  # Who has no weight supports nobody, but may be supported.
    support = agreement(_lifted(said), weights, *_sums(said, weights, 4))
    np.testing.assert_allclose(support[:, 0], [1, 0.6 / 1.4, 1], atol=1e-6)


def _world(folder: Path, levels: list[list[float]], **given: Any) -> tuple[FakeLinks, TeacherCache]:
    """Views of one row of cells; view v sees a point in cell k, point k, if its level is not 0.

    All tokens are alike and all beliefs 0.9, unless ``given`` tells otherwise.
    """
    logits = np.array(levels, np.float32)[:, None, None]
    num_views, width = len(levels), len(levels[0])
    views = []
    for index, row in enumerate(levels):
        ids = np.flatnonzero(row).astype(np.int32)
        uv = np.stack([(ids + 0.5) * 10, np.full(len(ids), 5)], axis=1).astype(np.float32)
        views.append(ViewLinks(f"view{index}", ids, uv))
    status = given.pop("status", np.full((num_views, 1), MASK, np.uint8))
    iou = given.pop("iou", np.full((num_views, 1), 0.9, np.float32))
    tokens = np.tile(np.array([1, 0], np.float32), (num_views, 1, 1))
    cache = write_cache(folder, status, logits, iou, given.pop("tokens", tokens), **given)
    return FakeLinks(views, width), cache


def _fused(links: FakeLinks, cache: TeacherCache, cfg: FuseConfig) -> Any:
    width = links.num_points
    scene = flat_scene(width, len(links.views), 10, 10 * width)
    return fuse_masks.run(scene, links, cache, cfg)


def test_a_mask_that_no_other_view_supports_is_dropped(tmp_path: Path) -> None:
    ours, planted = [9.0, 9.0, -9.0, -9.0], [-9.0, -9.0, 9.0, 9.0]
    links, cache = _world(tmp_path, [ours, ours, planted, ours])
    without = _fused(links, cache, PLAIN.model_copy(update={"agreement": False}))
    np.testing.assert_allclose(without.view_weights, [[0.25] * 4])
    labels = _fused(links, cache, PLAIN)
    assert labels.view_weights[0, 2] == 0 and np.all(labels.view_weights[0, [0, 1, 3]] > 0.3)
    assert labels.drop_reasons[0][2] == "no other view agrees (overlap 0.00)"
    assert [labels.drop_reasons[0][view] for view in (0, 1, 3)] == [""] * 3
    assert np.all(labels.soft[0, 2:] < 0.01), "what only it drew is gone"
    assert np.all(labels.soft[0, :2] > without.soft[0, :2])


def test_a_view_that_shares_no_point_keeps_its_weight(tmp_path: Path) -> None:
    levels: list[list[float]] = [[9, -9, 0, 0], [9, -9, 0, 0], [0, 0, 9, -9], [0, 0, 0, 0]]
    labels = _fused(*_world(tmp_path, levels), PLAIN)
    weights = labels.view_weights[0] / labels.view_weights.max()
    np.testing.assert_allclose(weights, [1, 1, 1, 1], atol=1e-3)


def test_where_no_two_views_agree_belief_decides(tmp_path: Path) -> None:
    """Rounding must not choose between masks that nobody else supports."""
    iou = np.array([[0.9], [0.6], [0.75]], np.float32)
    levels = np.where(np.eye(3, 6) > 0, 15.0, -15.0).tolist()
    links, cache = _world(tmp_path, levels, iou=iou)
    labels = _fused(links, cache, PLAIN)
    np.testing.assert_allclose(labels.view_weights[0], iou[:, 0] / iou.sum(), atol=1e-3)


def test_belief_is_presence_times_predicted_iou(tmp_path: Path) -> None:
    shape, status = (4, 3), np.full((4, 3), MASK, np.uint8)
    status[2], status[3] = NO_SEG, FAILED
    iou = np.full(shape, 0.8, np.float32)
    iou[:, 1] = 0
    presence = np.array([[1.0] * 3, [0.5] * 3, [0.25] * 3, [0] * 3], np.float32)
    withheld = np.zeros(shape, bool)
    withheld[2, :2] = True
    parts = np.zeros((*shape, 2, 2), np.float32), iou, np.ones((*shape, 2), np.float32)
    cache = write_cache(tmp_path, status, *parts, withheld=withheld, presence=presence)
    believed = view_confidence(cache)
    np.testing.assert_allclose(believed[:, 0], [0.8, 0.4, 0.2, 0], atol=1e-6)
    np.testing.assert_array_equal(believed[:, 1], [1, 1, 1, 0])  # it believes nothing it drew
    np.testing.assert_allclose(believed[:, 2], [0.8, 0.4, 0, 0], atol=1e-6)


def test_reasons(tmp_path: Path) -> None:
    """One view for each reason; the first two carry the query."""
    status = np.array([[MASK]] * 4 + [[NO_SEG], [NO_SEG], [FAILED]], np.uint8)
    presence = np.array([[1], [1], [1], [1], [0.1], [0], [0]], np.float32)
    iou = np.array([[0.9], [0.8], [0.9], [0.1], [0.9], [0], [0]], np.float32)
    tokens = np.array([[[1, 0]], [[1, 0]], [[-1, 2]], *[[[1, 0]]] * 4], np.float32)
    given = {"status": status, "presence": presence, "iou": iou, "tokens": tokens}
    withheld = status == NO_SEG
    withheld[5] = False
    links, cache = _world(tmp_path, [[9.0, -9]] * 7, withheld=withheld, **given)
    (told,) = _fused(links, cache, PLAIN).drop_reasons
    assert told == (
        "",
        "",
        "off-topic token (cos -0.45)",
        "low predicted IoU (0.10)",
        "no [SEG] (presence 0.10)",
        "no [SEG]",
        "failed",
    )
    best = _fused(links, cache, PLAIN.model_copy(update={"views": "best"}))
    assert best.drop_reasons[0][1:5] == ("another view is believed more",) * 4
    assert best.drop_reasons[0][0] == "" and best.drop_reasons[0][5:] == ("no [SEG]", "failed")
    plain = _fused(links, cache, PLAIN.model_copy(update={"views": "all"}))
    assert plain.drop_reasons == (("",) * 5 + ("no [SEG]", "failed"),)


@pytest.mark.parametrize("seed", range(3))
def test_best_takes_one_view_and_all_takes_what_is_drawn(tmp_path: Path, seed: int) -> None:
    _, _, cache = random_case(tmp_path, seed)
    for query, gate in enumerate(weigh_views(cache, FuseConfig(views="best"))):
        assert gate.weights.sum() == (query < 3) and set(gate.weights) <= {0, 1}
        if query < 3:
            assert (
                gate.weights.argmax() == (cache.presence * cache.predicted_iou)[:, query].argmax()
            )
    for query, gate in enumerate(weigh_views(cache, FuseConfig(views="all"))):
        np.testing.assert_array_equal(gate.weights, cache.drawn[:, query])


def test_support_scales_weights_of_filtered_views_alone(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    assert [view.view_index for view in LiftedViews(scene, links, cache, FuseConfig())] == list(
        range(7)
    )
    support = np.random.default_rng(0).random((7, 4))
    cfg = FuseConfig(token_gate=False, gate_floor=0)
    for query, gate in enumerate(weigh_views(cache, cfg, support)[:3]):
        raw = (view_confidence(cache) * support)[:, query]
        np.testing.assert_allclose(gate.weights, raw / raw.max())
        np.testing.assert_array_equal(gate.support, support[:, query])
