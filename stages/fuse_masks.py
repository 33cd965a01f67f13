"""Stage: masks of many views to one soft label and one confidence per point and query.

Views. ``filtered`` weighs them as ``stages.view_gate`` says; ``all``, the published baseline,
takes every view's mask alike, also those that answers without [SEG] held back; ``best`` takes
one view.

Vote. Weights are scaled so that the best view counts 1, which makes ``prior`` a number of
views: p_i = sum_v w_v sigmoid(m_v(u_iv)) / (sum_v (w_v + n_v) visible_iv + prior). A view that
did not say [SEG] did look: n_v = ``no_seg_weight`` times how unlikely it was to say it counts
against the points it sees, so that a mask hallucinated in one view of twenty is outvoted and
points of absent objects become confident negatives. Failed views say nothing.

Confidence of a point is n / (n + 1) |2 q - 1| with n = sum_v (w_v + n_v) visible_iv and q the
vote without prior: it grows with the number of views and with their agreement. It is 0 only
where n is 0: unlabelled, not negative.

Space. Points of a superpoint take its label, superpoints lean on those they touch and yield to
rivals (``stages.consistency``). What counts as the answer begins at a threshold that is chosen
for each query without labels (``stages.thresholds``).
"""

from __future__ import annotations

import numpy as np

from data.artifacts.links import Links
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import FAILED, TeacherCache
from data.neighbours import neighbours_of
from data.progress import Progress, silent
from data.types import Array, Scene
from stages import consistency
from stages.configs import FuseConfig
from stages.lifting import check_links, lifted_views
from stages.thresholds import choose_thresholds
from stages.view_gate import Gate, belief, gate_views, reasons
from stages.votes import Votes, agreement, sum_votes

LEAST_CONFIDENCE = 1 / 255


def run(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    cfg: FuseConfig,
    rivals: Array | None = None,
    progress: Progress = silent,
    device: str = "cpu",
) -> PseudoLabels:
    """Fuse all views of a scene; masks are read a few views at a time.

    ``rivals`` (Q,) bool are the queries that are categories of the bank, none by default. On a
    ``device`` of CUDA the votes are summed there.
    Raises ValueError unless scene, links and cache are of the same views and points.
    """
    _check(scene, links, cache)
    gates, votes = _weigh_and_vote(scene, links, cache, cfg, progress, device)
    soft, confidence = decide(votes, cfg)
    tokens = np.array([gate.center for gate in gates], np.float32).reshape(-1, cache.embedding_dim)
    if cfg.superpoints:
        soft, confidence = _consistent(scene, soft, confidence, tokens, cfg, rivals)
    # Thresholds are chosen on what is stored, so that reading back moves no point across them.
    soft = np.rint(soft * 255).astype(np.uint8).astype(np.float32) / np.float32(255)
    weights = _weights(gates, cache)
    totals = weights.sum(axis=0)
    return PseudoLabels(
        scene.scene_id,
        cache.prompt_ids,
        cache.view_ids,
        soft,
        confidence,
        (weights / np.where(totals > 0, totals, 1)).T.astype(np.float32),
        tuple(reasons(gate, cache, query, cfg) for query, gate in enumerate(gates)),
        tokens,
        choose_thresholds(soft, cfg.threshold, cfg.presence),
        np.ascontiguousarray(cache.seg_embeddings.transpose(1, 0, 2), np.float32),
        np.ascontiguousarray(belief(cache).T, np.float32),
    )


def _check(scene: Scene, links: Links, cache: TeacherCache) -> None:
    check_links(scene, links)
    if cache.view_ids != links.view_ids:
        raise ValueError(f"scene {scene.scene_id}: the teacher cache is of other views")


def _weigh_and_vote(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    cfg: FuseConfig,
    progress: Progress,
    device: str,
) -> tuple[list[Gate], Votes]:
    """Gates and votes; with ``agreement``, a first vote tells which masks the others support."""
    gates = gate_views(cache, cfg)
    twice = cfg.views == "filtered" and cfg.agreement
    before, total = twice * len(scene.views), (1 + twice) * len(scene.views)
    if twice:
        weights = _weights(gates, cache)

        def half(done: int, _: int) -> None:
            progress(done, total)

        first = collect_votes(scene, links, cache, weights, cfg, half, device)
        lifted = lifted_views(scene, links, cache)
        support = agreement(lifted, weights, first.masks, first.mask_weights, device)
        gates = gate_views(cache, cfg, support)
    weights = _weights(gates, cache)

    def rest(done: int, _: int) -> None:
        progress(before + done, total)

    return gates, collect_votes(scene, links, cache, weights, cfg, rest, device)


def _weights(gates: list[Gate], cache: TeacherCache) -> Array:
    """(V, Q) weights of all gates."""
    shape = (len(cache.prompt_ids), len(cache.view_ids))
    return np.array([gate.weights for gate in gates]).reshape(shape).T


def collect_votes(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    weights: Array,
    cfg: FuseConfig,
    progress: Progress,
    device: str = "cpu",
) -> Votes:
    """Sum every view's say over the points it sees; ``weights`` (V, Q)."""
    doubt = np.where(cache.status == FAILED, 0, 1 - cache.presence) * np.float32(cfg.no_seg_weight)
    lifted = lifted_views(scene, links, cache)
    return sum_votes(lifted, len(scene.cloud), weights, doubt, progress, device)


def decide(votes: Votes, cfg: FuseConfig) -> tuple[Array, Array]:
    """Soft labels and confidences, (Q, N) float32 each, from the sums over views."""
    total = votes.mask_weights + votes.against
    seen = total > 0
    share = votes.masks / np.where(seen, total, 1)
    sure = total / (total + 1) * np.abs(2 * share - 1)
    confidence = np.where(seen, np.clip(sure, LEAST_CONFIDENCE, 1), 0)
    soft = np.clip(votes.masks / np.where(seen, total + np.float32(cfg.prior), 1), 0, 1)
    return np.ascontiguousarray(soft.T), np.ascontiguousarray(confidence.T, np.float32)


def _consistent(
    scene: Scene,
    soft: Array,
    confidence: Array,
    tokens: Array,
    cfg: FuseConfig,
    rivals: Array | None,
) -> tuple[Array, Array]:
    ids = scene.superpoint_ids
    soft, confidence = consistency.smooth_superpoints(soft, confidence, ids)
    first = np.unique(ids, return_index=True)[1]
    labels = np.ascontiguousarray(soft[:, first].T)
    if cfg.neighbours > 0:
        near = neighbours_of(scene)
        labels = consistency.diffuse(labels, near, cfg.neighbours)
    if cfg.rivals > 0 and rivals is not None and rivals.any():
        labels = consistency.yield_to_rivals(labels, tokens, rivals, cfg.rivals, cfg.rival_cosine)
    return np.ascontiguousarray(labels[ids].T, np.float32), confidence
