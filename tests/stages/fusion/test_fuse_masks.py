"""Fusion equals plain loops over views and points; what its formulas say, by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data.artifacts.links import ViewLinks
from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.sample_masks import Sampling, sample_bilinear
from stages.fusion.thresholds import NONE
from tests.support.worlds.teacher_world import (
    FakeLinks,
    copied,
    flat_scene,
    random_case,
    write_cache,
)

PLAIN = FuseConfig(superpoints=False, agreement=False, gate_floor=0.3, prior=0.5, no_seg_weight=0.5)
UNIFORM = FuseConfig(views="all", superpoints=False, prior=0, no_seg_weight=0)
STEP = 0.5 / 255 + 1e-5
"""Labels are stored in steps of 1/255."""


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
                if cache.status[v, q] != FAILED:
                    seen += no_seg * (1 - cache.presence[v, q])
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


def _relative(labels: PseudoLabels) -> np.ndarray:
    """Weights of views as the vote takes them, the largest 1."""
    largest = labels.view_weights.max(axis=1, keepdims=True)
    return np.asarray(labels.view_weights / np.where(largest > 0, largest, 1))


def test_a_plain_average_equals_plain_loops(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, UNIFORM)
    assert (cache.drawn & (cache.status == NO_SEG)).any(), "held-back masks count as well"
    soft, confidence = _loops(links, cache, cache.drawn.T.astype(float), 0, 0)
    np.testing.assert_allclose(labels.soft, soft, atol=STEP)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


@pytest.mark.parametrize("no_seg", [0.0, 0.5])
@pytest.mark.parametrize("agreement", [False, True])
def test_filtered_equals_plain_loops(tmp_path: Path, no_seg: float, agreement: bool) -> None:
    scene, links, cache = random_case(tmp_path)
    change = {"no_seg_weight": no_seg, "prior": 0.7, "agreement": agreement}
    labels = fuse_masks.run(scene, links, cache, PLAIN.model_copy(update=change))
    soft, confidence = _loops(links, cache, _relative(labels), 0.7, no_seg)
    np.testing.assert_allclose(labels.soft, soft, atol=STEP)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


def test_the_best_view_alone_equals_plain_loops(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, PLAIN.model_copy(update={"views": "best"}))
    believed = (cache.presence * cache.predicted_iou * cache.drawn).T
    weights = np.zeros(believed.shape)
    for query in range(3):
        weights[query, believed[query].argmax()] = 1
    np.testing.assert_array_equal(labels.view_weights, weights)
    soft, confidence = _loops(links, cache, weights, 0.5, 0.5)
    np.testing.assert_allclose(labels.soft, soft, atol=STEP)
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
    np.testing.assert_allclose(labels.soft[0], [(inside + sure) / 2, 0.5, 0], atol=STEP)
    np.testing.assert_allclose(labels.view_weights, [[0.5, 0.5, 0]])
    cfg = PLAIN.model_copy(update={"prior": 0.5, "no_seg_weight": 0.25})
    labels = fuse_masks.run(scene, links, cache, cfg)
    np.testing.assert_allclose(labels.view_weights, [[1 / 3, 2 / 3, 0]], atol=1e-6)
    votes = 0.5 * inside + 1.0 * sure
    np.testing.assert_allclose(labels.soft[0, 0], votes / (1.5 + 0.25 + 0.5), atol=STEP)
    np.testing.assert_allclose(labels.soft[0, 1], 0.5 * 0.5 / (0.5 + 0.5), atol=STEP)
    confident = 1.75 / 2.75 * abs(2 * votes / 1.75 - 1)
    np.testing.assert_allclose(labels.confidence[0], [confident, 1 / 255, 0], atol=1e-6)
    assert labels.drop_reasons == (("", "", "no [SEG]"),)
    np.testing.assert_allclose(labels.query_tokens, [[1, 0]])


def test_queries_without_masks_are_empty(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    assert not labels.soft[3].any() and not labels.query_tokens[3].any()
    assert not labels.view_weights[3].any() and not labels.view_confidences[3].any()
    assert labels.thresholds[3] == NONE and not labels.answers()[3].any()
    seen = np.zeros(30)
    rows = zip(links.views, cache.status[:, 3], cache.presence[:, 3], strict=True)
    for view, status, presence in rows:
        seen[view.point_ids] += 0.5 * (1 - presence) * (status == NO_SEG)
    np.testing.assert_allclose(labels.confidence[3], seen / (seen + 1), atol=1e-6)
    assert set(labels.drop_reasons[3]) == {"no [SEG]", "failed"}
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
    np.testing.assert_allclose(labels.soft[0], [1 / 1.5, 2 / 2.5, 3 / 3.5, 4 / 4.5], atol=STEP)


def test_sampling_equals_scipy_and_clamps() -> None:
    rng = np.random.default_rng(0)
    grids = rng.normal(size=(3, 5, 9)).astype(np.float32)
    cells = rng.uniform(-2, 11, (200, 2))
    whole = np.array([9, 5])
    sampling = Sampling((cells + 0.5).astype("f4"), whole.astype("f4"), whole.astype("f8"))
    ours = sample_bilinear(grids, sampling)
    for k in range(3):
        theirs = map_coordinates(grids[k], cells.T[::-1], order=1, mode="nearest")
        np.testing.assert_allclose(ours[:, k], theirs, atol=1e-5)
    assert sample_bilinear(grids[:, :1, :1], sampling).shape == (200, 3)


def test_other_views_or_points_are_refused(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    with pytest.raises(ValueError, match="other views"):
        fuse_masks.run(scene, FakeLinks(links.views[::-1], 30), cache, PLAIN)
    with pytest.raises(ValueError, match="30 points, links 31"):
        fuse_masks.run(scene, FakeLinks(links.views, 31), cache, PLAIN)


@pytest.mark.parametrize("views", ["best", "all", "filtered"])
def test_nothing_asked_and_no_views(tmp_path: Path, views: str) -> None:
    scene, links, cache = random_case(tmp_path / "a")
    cfg = FuseConfig.model_validate({"views": views})
    labels = fuse_masks.run(scene, links, copied(tmp_path / "b", cache, range(7), []), cfg)
    assert labels.soft.shape == (0, 30) and labels.view_tokens.shape == (0, 7, 64)
    alone = replace(scene, views=(), depths=[])
    status = np.zeros((0, 2), np.uint8)
    shape = (np.zeros((0, 2, 4, 6), np.float32), np.zeros((0, 2), np.float32))
    nobody = write_cache(tmp_path / "c", status, *shape, np.zeros((0, 2, 3), np.float32))
    labels = fuse_masks.run(alone, FakeLinks([], 30), nobody, cfg)
    assert labels.soft.shape == (2, 30) and not labels.confidence.any()
    assert not labels.answers().any() and labels.drop_reasons == ((), ())


def test_progress_reaches_its_end_once(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    for agreement, total in ((True, 14), (False, 7)):
        told: list[tuple[int, int]] = []
        cfg = FuseConfig(agreement=agreement)
        fuse_masks.run(scene, links, cache, cfg, progress=lambda done, of: told.append((done, of)))
        assert told == [(done, total) for done in range(1, total + 1)]


def test_what_each_view_said_is_kept(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, FuseConfig())
    for query in range(4):
        for view in range(7):
            wanted = cache.presence[view, query] * cache.predicted_iou[view, query]
            assert labels.view_confidences[query, view] == pytest.approx(wanted, abs=1e-6)
            token = cache.seg_embeddings[view, query]
            np.testing.assert_array_equal(labels.view_tokens[query, view], token)
