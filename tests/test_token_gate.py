"""The token gate keeps views that agree on what was asked and says why it drops others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.artifacts.links import ViewLinks
from data.artifacts.teacher import MASK, TeacherCache
from models.codes import code
from stages import fuse_masks
from stages.configs import FuseConfig
from tests.teacher_world import FakeLinks, flat_scene, random_case, write_cache

PLAIN = FuseConfig(superpoints=False, gate_floor=0.3, prior=0.5, no_seg_weight=0.5)
UNIFORM = FuseConfig(gate="uniform", superpoints=False)


def test_the_gate_is_at_rest(tmp_path: Path) -> None:
    """Weights solve w_v = a_v max(0, cos(e_v, c)) with c the weighted mean direction."""
    _, _, cache = random_case(tmp_path, num_views=12)
    gate = fuse_masks.gate_views(cache, 0, PLAIN.model_copy(update={"gate_floor": 0.0}))
    belief = cache.predicted_iou[:, 0]
    tokens = cache.seg_embeddings[:, 0]
    lengths = np.linalg.norm(tokens, axis=1)
    tokens = tokens / np.where(lengths > 0, lengths, 1)[:, None]
    raw = belief * np.maximum(tokens @ gate.center, 0)
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
