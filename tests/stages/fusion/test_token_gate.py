"""The token gate keeps views that agree on what was asked and says why it drops others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.artifacts.links import ViewLinks
from data.artifacts.teacher import MASK, TeacherCache
from models.oracle import code
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.fuse_masks import normalised, shared_direction, view_confidence, weigh_views
from tests.support.worlds.teacher_world import FakeLinks, flat_scene, random_case, write_cache

PLAIN = FuseConfig(superpoints=False, agreement=False)
UNIFORM = FuseConfig(views="all", superpoints=False)


def test_the_gate_is_at_rest(tmp_path: Path) -> None:
    """Weights solve w_v = a_v max(0, cos(e_v, c)) with c the weighted mean direction."""
    _, _, cache = random_case(tmp_path, num_views=12)
    cfg = PLAIN.model_copy(update={"gate_floor": 0.0, "gate_iterations": 50})
    gate = weigh_views(cache, cfg)[0]
    believed = cache.presence[:, 0] * cache.predicted_iou[:, 0]
    tokens = cache.seg_embeddings[:, 0]
    lengths = np.linalg.norm(tokens, axis=1)
    tokens = tokens / np.where(lengths > 0, lengths, 1)[:, None]
    raw = believed * np.maximum(tokens @ gate.center, 0)
    np.testing.assert_allclose(gate.weights, raw / raw.max(), atol=1e-4)
    center = gate.weights @ tokens
    np.testing.assert_allclose(gate.center, center / np.linalg.norm(center), atol=1e-4)


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


def test_without_the_gate_tokens_have_no_say(tmp_path: Path) -> None:
    cache = _planted(tmp_path)
    (gate,) = weigh_views(cache, PLAIN.model_copy(update={"token_gate": False}))
    np.testing.assert_allclose(gate.weights[:7], cache.predicted_iou[:7, 0] / 0.95, atol=1e-6)
    assert gate.weights[7] == 0, "0.03 is under a third of 0.95"


def test_a_centre_far_from_the_mean_is_found() -> None:
    """Five agreeing views among nine: the plain mean would be pulled to no one's topic."""
    topics = [code("bed")] * 5 + [code(word) for word in ("door", "sink", "lamp", "sofa")]
    center = shared_direction(np.stack(topics), np.full(9, 0.7), 50)
    assert center @ code("bed") > 0.99 > np.mean(topics, axis=0) @ code("bed")


def test_the_centre_is_the_leading_direction() -> None:
    """Where all cosines are positive it is the first eigenvector of the second moment."""
    rng = np.random.default_rng(2)
    vectors = normalised(code("bed") + 0.05 * rng.normal(size=(8, 64)))
    believed = rng.uniform(0.2, 1, 8)
    values, leading = np.linalg.eigh((vectors.T * believed) @ vectors)
    assert values[-1] > 2 * values[-2]
    center = shared_direction(vectors, believed, 100)
    assert abs(center @ leading[:, -1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("believed", [0.0, 1.0])
def test_degenerate_centres_stay_finite(believed: float) -> None:
    for vectors in (np.zeros((3, 4)), np.zeros((0, 4)), np.eye(4)[:1], np.array([[1, 0], [-1, 0]])):
        center = shared_direction(vectors, np.full(len(vectors), believed), 5)
        assert np.isfinite(center).all() and center.shape == vectors.shape[1:]


def test_tokens_of_zeros_do_not_break_the_gate(tmp_path: Path) -> None:
    status = np.full((3, 1), MASK, np.uint8)
    parts = np.zeros((3, 1, 2, 2), np.float32), np.ones((3, 1), np.float32)
    cache = write_cache(tmp_path, status, *parts, np.zeros((3, 1, 4), np.float32))
    (gate,) = weigh_views(cache, PLAIN)
    assert not gate.weights.any() and not gate.center.any()
    np.testing.assert_array_equal(view_confidence(cache), np.ones((3, 1)))
