"""Fusion equals plain loops over views and points, and obeys the laws its text states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from data.artifacts.links import ViewLinks, read_links, write_links
from data.artifacts.pseudo import PseudoLabels, read_pseudo, write_pseudo
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache, TeacherWriter, read_teacher
from data.errors import ArtifactError
from data.types import GroundTruth, Scene
from models.codes import code
from stages import fuse_masks, link_points, run_teacher
from stages.configs import FuseConfig, LinkConfig, OracleConfig, TeacherConfig
from stages.oracle import make_oracle
from tests.teacher_world import FakeLinks, finish, flat_scene, with_images, write_cache
from tests.tiny_scene import make_tiny_prompts, make_tiny_scene

PLAIN = FuseConfig(superpoints=False)
UNIFORM = FuseConfig(gate="uniform", superpoints=False)


def _case(
    folder: Path, seed: int = 0, num_views: int = 7, num_queries: int = 4
) -> tuple[Scene, FakeLinks, TeacherCache]:
    """Random answers of every status, a shared token with noise, points seen at random."""
    rng = np.random.default_rng(seed)
    scene = flat_scene(30, num_views, 40, 60)
    views = []
    for view in scene.views:
        ids = np.flatnonzero(rng.random(30) < 0.5).astype(np.int32)
        uv = (rng.random((len(ids), 2)) * (60, 40)).astype(np.float32)
        views.append(ViewLinks(view.view_id, ids, uv))
    shape = (num_views, num_queries)
    status = rng.choice([MASK, MASK, MASK, NO_SEG, FAILED], shape).astype(np.uint8)
    status[:, -1] = rng.choice([NO_SEG, FAILED], num_views)
    tokens = code("topic") + 0.15 * rng.normal(size=(*shape, 64))
    cache = write_cache(
        folder,
        status,
        rng.normal(0, 3, (*shape, 8, 10)).astype(np.float32),
        rng.random(shape, np.float32),
        tokens.astype(np.float32),
        (10.0, 6.67),
    )
    return scene, FakeLinks(views, 30), cache


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
    scene, links, cache = _case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, UNIFORM)
    weights = (cache.status == MASK).T.astype(float)
    soft, confidence = _loops(links, cache, weights, 0, 0)
    np.testing.assert_allclose(labels.soft, soft, atol=1e-5)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


@pytest.mark.parametrize("no_seg", [0.0, 0.5])
def test_gated_equals_plain_loops(tmp_path: Path, no_seg: float) -> None:
    scene, links, cache = _case(tmp_path)
    cfg = PLAIN.model_copy(update={"no_seg_weight": no_seg, "prior": 0.7})
    labels = fuse_masks.run(scene, links, cache, cfg)
    largest = labels.view_weights.max(axis=1, keepdims=True)
    weights = labels.view_weights / np.where(largest > 0, largest, 1)
    soft, confidence = _loops(links, cache, weights, 0.7, no_seg)
    np.testing.assert_allclose(labels.soft, soft, atol=1e-5)
    np.testing.assert_allclose(labels.confidence, confidence, atol=1e-5)


def test_the_gate_is_at_rest(tmp_path: Path) -> None:
    """Weights solve w_v = a_v max(0, cos(e_v, c)) with c the weighted mean direction."""
    _, _, cache = _case(tmp_path, num_views=12)
    gate = fuse_masks.gate_views(cache, 0, PLAIN.model_copy(update={"gate_floor": 0.0}))
    belief = cache.predicted_iou[:, 0]
    tokens = cache.seg_embeddings[:, 0]
    lengths = np.linalg.norm(tokens, axis=1)
    tokens = tokens / np.where(lengths > 0, lengths, 1)[:, None]
    raw = belief * np.maximum(tokens @ gate.center, 0)
    np.testing.assert_allclose(gate.weights, raw / raw.max(), atol=1e-4)
    center = gate.weights @ tokens
    np.testing.assert_allclose(gate.center, center / np.linalg.norm(center), atol=1e-4)


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
    scene, links, cache = _case(tmp_path / "a", seed=3)
    cfg = FuseConfig(gate=gate)
    labels = fuse_masks.run(scene, links, cache, cfg)
    order = np.random.default_rng(1).permutation(7)
    mixed = fuse_masks.run(scene, *_reordered(tmp_path / "b", links, cache, order), cfg)
    for name in ("soft", "confidence", "query_tokens"):
        np.testing.assert_allclose(getattr(mixed, name), getattr(labels, name), atol=1e-6)
    np.testing.assert_allclose(mixed.view_weights, labels.view_weights[:, order], atol=1e-6)


@pytest.mark.parametrize("gate", ["uniform", "gated"])
def test_a_view_that_sees_nothing_changes_nothing(tmp_path: Path, gate: Any) -> None:
    scene, links, cache = _case(tmp_path / "a", seed=4)
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


def _planted(folder: Path) -> TeacherCache:
    """Six views on topic, one on another topic, one on topic that hardly believes itself."""
    rng = np.random.default_rng(0)
    tokens = np.stack([code("bed")] * 6 + [code("door"), code("bed")])
    tokens = tokens + 0.03 * rng.normal(size=tokens.shape)
    iou = np.array([0.8, 0.7, 0.9, 0.8, 0.6, 0.7, 0.95, 0.03], np.float32)
    status = np.full((8, 1), MASK, np.uint8)
    logits = np.zeros((8, 1, 4, 6), np.float32)
    return write_cache(folder, status, logits, iou[:, None], tokens[:, None].astype(np.float32))


def test_the_gate_drops_a_planted_view_and_says_why(tmp_path: Path) -> None:
    cache = _planted(tmp_path)
    scene = flat_scene(2, 8, 40, 60)
    nothing = (np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    links = FakeLinks([ViewLinks(view.view_id, *nothing) for view in scene.views], 2)
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    kept = labels.view_weights[0] > 0
    np.testing.assert_array_equal(kept, [True] * 6 + [False] * 2)
    assert labels.view_weights.sum() == pytest.approx(1)
    assert labels.drop_reasons[0][:6] == ("",) * 6
    assert labels.drop_reasons[0][6].startswith("off-topic token (cos ")
    assert labels.drop_reasons[0][7] == "low predicted IoU (0.03)"
    assert labels.query_tokens[0] @ code("bed") > 0.95
    uniform = fuse_masks.run(scene, links, cache, UNIFORM)
    np.testing.assert_allclose(uniform.view_weights, np.full((1, 8), 1 / 8))
    assert not labels.soft.any() and not labels.confidence.any(), "no point was seen"


def test_a_centre_far_from_the_mean_is_found() -> None:
    """Five agreeing views among nine: the plain mean would be pulled to no one's topic."""
    topics = [code("bed")] * 5 + [code(word) for word in ("door", "sink", "lamp", "sofa")]
    gate = fuse_masks.token_gate(np.stack(topics), np.full(9, 0.7), 10, 0.3)
    np.testing.assert_array_equal(gate.weights > 0, [True] * 5 + [False] * 4)
    np.testing.assert_allclose(gate.center, code("bed"), atol=1e-6)


@pytest.mark.parametrize("belief", [0.0, 1.0])
def test_degenerate_gates_stay_finite(belief: float) -> None:
    for vectors in (np.zeros((3, 4)), np.zeros((0, 4)), np.eye(4)[:1]):
        gate = fuse_masks.token_gate(vectors, np.full(len(vectors), belief), 5, 0.1)
        assert all(np.isfinite(part).all() for part in gate)


def test_queries_without_masks_are_empty(tmp_path: Path) -> None:
    scene, links, cache = _case(tmp_path)
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
    scene, links, cache = _case(tmp_path)
    with pytest.raises(ValueError, match="other views"):
        fuse_masks.run(scene, FakeLinks(links.views[::-1], 30), cache, PLAIN)
    with pytest.raises(ValueError, match="30 points, links 31"):
        fuse_masks.run(scene, FakeLinks(links.views, 31), cache, PLAIN)


def test_pseudo_labels_survive_the_disk(tmp_path: Path) -> None:
    scene, links, cache = _case(tmp_path / "cache")
    labels = fuse_masks.run(scene, links, cache, FuseConfig())
    tiny = labels.confidence.copy()
    tiny[0, 0] = 1e-6
    labels = replace(labels, confidence=tiny)
    (tmp_path / "pseudo").mkdir()
    write_pseudo(tmp_path / "pseudo", labels)
    with pytest.raises(ArtifactError, match="a finished artifact"):
        read_pseudo(tmp_path / "pseudo")
    again = read_pseudo(finish(tmp_path / "pseudo"))
    for name in ("scene_id", "prompt_ids", "view_ids", "drop_reasons"):
        assert getattr(again, name) == getattr(labels, name)
    np.testing.assert_array_equal(again.view_weights, labels.view_weights)
    np.testing.assert_array_equal(again.query_tokens, labels.query_tokens)
    np.testing.assert_allclose(again.soft, labels.soft, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(again.confidence, labels.confidence, atol=1 / 255)
    np.testing.assert_array_equal(again.confidence > 0, labels.confidence > 0)
    (tmp_path / "pseudo" / "pseudo.zarr" / "soft" / "c" / "0" / "0").write_bytes(b"junk")
    with pytest.raises(ArtifactError, match="FuseMasks"):
        read_pseudo(tmp_path / "pseudo")


def test_ill_fitting_pseudo_labels_are_refused(tmp_path: Path) -> None:
    scene, links, cache = _case(tmp_path)
    labels = fuse_masks.run(scene, links, cache, PLAIN)
    for change in (
        {"soft": labels.soft.astype(np.float64)},
        {"soft": labels.soft[:, :-1]},
        {"view_weights": labels.view_weights[:, 1:]},
        {"query_tokens": labels.query_tokens[1:]},
        {"drop_reasons": labels.drop_reasons[1:]},
    ):
        with pytest.raises(ValueError):
            replace(labels, **change)


def _chain(
    folder: Path, cfg: OracleConfig, fuse: FuseConfig
) -> tuple[PseudoLabels, GroundTruth, list[tuple[int, ...]]]:
    """Oracle, links and fusion on the tiny room; the truth is destroyed before fusing."""
    scene, truth = make_tiny_scene()
    folder.mkdir()
    scene = with_images(scene, folder)
    prompts, truths = make_tiny_prompts()
    writer = TeacherWriter(folder, [v.view_id for v in scene.views], [p.prompt_id for p in prompts])
    teacher_cfg = TeacherConfig(oracle=cfg)
    spoilt = replace(truth, point_ids=truth.point_ids.copy())
    run_teacher.run(
        scene, prompts, lambda: make_oracle(scene, spoilt, prompts, truths, teacher_cfg), writer
    )
    spoilt.point_ids[:] = 0
    links_folder = folder / "links"
    links_folder.mkdir()
    cfg_link = LinkConfig()
    write_links(
        links_folder,
        [v.view_id for v in scene.views],
        len(scene.cloud),
        link_points.run(scene, cfg_link),
    )
    cache = read_teacher(finish(folder))
    labels = fuse_masks.run(scene, read_links(finish(links_folder)), cache, fuse)
    return labels, truth, [t.object_ids for t in truths]


def test_an_exact_oracle_gives_exact_labels(tmp_path: Path) -> None:
    exact = OracleConfig(
        ragged=0,
        miss=0,
        confuse=0,
        hallucinate=0,
        token_noise=0,
        iou_noise=0,
        min_cells=1,
        stride=1,
    )
    labels, truth, targets = _chain(tmp_path / "a", exact, PLAIN)
    height = make_tiny_scene()[0].cloud.points[:, 2]
    seen = (labels.confidence > 0) & (height > 0.05)  # feet and floor share their place
    for query, object_ids in enumerate(targets):
        mask = truth.mask(object_ids)
        wrong = ((labels.soft[query] > 0.5) != mask) & seen[query]
        assert not wrong[~mask].any(), "nothing else is claimed"
        assert wrong.sum() <= 0.15 * (mask & seen[query]).sum(), "edges only"
    assert not (labels.soft[4] > 0.5).any() and seen[4].any(), "absent: confidently empty"


def test_superpoints_and_the_gate_help_a_bad_teacher(tmp_path: Path) -> None:
    bad = OracleConfig(stride=2, hallucinate=0.6, ragged=0.2, min_cells=4)
    scores = {}
    for name, fuse in (("gated", FuseConfig()), ("uniform", UNIFORM)):
        labels, truth, targets = _chain(tmp_path / name, bad, fuse)
        ious = []
        for query, object_ids in enumerate(targets[:4]):
            mask, found = truth.mask(object_ids), labels.soft[query] > 0.5
            ious.append((mask & found).sum() / (mask | found).sum())
        scores[name] = float(np.mean(ious))
    assert scores["gated"] > scores["uniform"]
