"""Stage: masks of many views to one soft label and one confidence per point and query.

Gate. A view answers a query with a mask, its predicted IoU a_v and a [SEG] vector e_v. The
gate ``gated`` looks for the direction c that most of the confident vectors share: it starts
from the sum of the e_v, each weighted by how many others point its way, and repeats
w_v = a_v max(0, cos(e_v, c)), c = normalised sum of w_v e_v, until c is stable (power
iteration on the second moment of the e_v). Views under ``gate_floor`` of the largest weight
are dropped, with the reason, and c is taken anew from those kept. ``uniform``, the published
baseline, keeps every mask with equal weight.

Vote. Weights are scaled so that the best view counts 1, which makes ``prior`` a number of
views: p_i = sum_v w_v sigmoid(m_v(u_iv)) / (sum_v (w_v + n_v) visible_iv + prior). A view that
answered *without* [SEG] has no mask and w_v = 0, but it did look: n_v = ``no_seg_weight``
counts it against the points it sees, so that a mask hallucinated in one view of twenty is
outvoted and points of absent objects become confident negatives. ``uniform`` uses neither
prior nor n_v. Failed views and views dropped by the gate say nothing.

Confidence of a point is n / (n + 1) |2 q - 1| with n = sum_v (w_v + n_v) visible_iv and q the
vote without prior: it grows with the number of views and with their agreement. It is 0 only
where n is 0: unlabelled, not negative.

Superpoints. All points of a superpoint take its confidence-weighted mean label. Unseen points
take its mean confidence (unseen points counting 0 in it); points that were seen keep their
own, or the mean where that is larger.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.artifacts.links import Links
from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from data.progress import Progress, silent
from data.types import Array, Scene
from stages.configs import FuseConfig

_STABLE = 1e-5
LEAST_CONFIDENCE = 1 / 255


class Gate(NamedTuple):
    """One query's views: ``weights`` (V,) with maximum 1 or all 0, ``center`` (D,) unit or 0.

    ``cosines`` (V,) of each view's vector with the centre, 0 for views without a mask.
    """

    weights: Array
    center: Array
    cosines: Array


class Votes(NamedTuple):
    """Sums over views, each (N, Q) float32: masks, weights of masks, weights of no [SEG]."""

    masks: Array
    mask_weights: Array
    no_seg_weights: Array


def run(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    cfg: FuseConfig,
    progress: Progress = silent,
) -> PseudoLabels:
    """Fuse all views of a scene; masks are read one view at a time.

    Raises ValueError unless scene, links and cache are of the same views and points.
    """
    _check(scene, links, cache)
    gates = [gate_views(cache, query, cfg) for query in range(len(cache.prompt_ids))]
    shape = (len(cache.prompt_ids), len(cache.view_ids))
    weights = np.array([gate.weights for gate in gates]).reshape(shape)
    votes = collect_votes(scene, links, cache, weights, cfg, progress)
    soft, confidence = decide(votes, cfg)
    if cfg.superpoints:
        soft, confidence = smooth_superpoints(soft, confidence, scene.superpoint_ids)
    totals = weights.sum(axis=1, keepdims=True)
    return PseudoLabels(
        scene.scene_id,
        cache.prompt_ids,
        cache.view_ids,
        soft,
        confidence,
        (weights / np.where(totals > 0, totals, 1)).astype(np.float32),
        tuple(_reasons(gate, cache, query) for query, gate in enumerate(gates)),
        np.array([g.center for g in gates], np.float32).reshape(-1, cache.embedding_dim),
    )


def _check(scene: Scene, links: Links, cache: TeacherCache) -> None:
    view_ids = tuple(view.view_id for view in scene.views)
    if links.view_ids != view_ids or cache.view_ids != view_ids:
        raise ValueError(f"scene {scene.scene_id}: links or teacher cache are of other views")
    if links.num_points != len(scene.cloud):
        raise ValueError(
            f"scene {scene.scene_id} has {len(scene.cloud)} points, links {links.num_points}"
        )


def gate_views(cache: TeacherCache, query: int, cfg: FuseConfig) -> Gate:
    """Weigh one query's views by ``cfg.gate``."""
    has_mask = cache.status[:, query] == MASK
    belief = np.clip(cache.predicted_iou[:, query].astype(np.float64), 0, 1) * has_mask
    if not belief.any() or cfg.gate == "uniform":
        belief = has_mask.astype(np.float64)
    vectors = normalised(cache.seg_embeddings[:, query].astype(np.float64) * has_mask[:, None])
    if cfg.gate == "uniform":
        center = normalised(vectors.sum(axis=0))
        return Gate(belief, center, vectors @ center)
    return token_gate(vectors, belief, cfg.gate_iterations, cfg.gate_floor)


def token_gate(vectors: Array, belief: Array, iterations: int, floor: float) -> Gate:
    """The ``gated`` gate of the module's text.

    ``vectors`` (V, D) float64 unit or zero, ``belief`` (V,) in [0, 1], 0 without a mask.
    """
    company = np.maximum(vectors @ vectors.T, 0) ** 2 @ belief
    center = normalised((belief * company) @ vectors)
    for _ in range(iterations):
        moved = normalised((belief * np.maximum(vectors @ center, 0)) @ vectors)
        stable = np.linalg.norm(moved - center) < _STABLE
        center = moved
        if stable:
            break
    weights = belief * np.maximum(vectors @ center, 0)
    largest = weights.max(initial=0)
    if largest <= 0:
        return Gate(np.zeros(len(belief)), np.zeros(vectors.shape[1]), np.zeros(len(belief)))
    weights = np.where(weights >= floor * largest, weights / largest, 0)
    center = normalised(weights @ vectors)
    return Gate(weights, center, vectors @ center)


def normalised(vectors: Array) -> Array:
    """Vectors (..., D) scaled to unit length; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1))


def _reasons(gate: Gate, cache: TeacherCache, query: int) -> tuple[str, ...]:
    """Why each view has no weight; "" for views that have."""
    reasons = []
    for view, weight in enumerate(gate.weights):
        status, cosine = cache.status[view, query], gate.cosines[view]
        if weight > 0:
            reasons.append("")
        elif status == NO_SEG:
            reasons.append("no [SEG]")
        elif status == FAILED:
            reasons.append("failed")
        elif cosine < 0.5:
            reasons.append(f"off-topic token (cos {cosine:.2f})")
        else:
            reasons.append(f"low predicted IoU ({cache.predicted_iou[view, query]:.2f})")
    return tuple(reasons)


def collect_votes(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    weights: Array,
    cfg: FuseConfig,
    progress: Progress,
) -> Votes:
    """Sum every view's say over the points it sees; ``weights`` (Q, V)."""
    no_seg_weight = cfg.no_seg_weight if cfg.gate == "gated" else 0.0
    shape = (len(scene.cloud), len(cache.prompt_ids))
    votes = Votes(*(np.zeros(shape, np.float32) for _ in Votes._fields))
    for index, view in enumerate(scene.views):
        seen = links.view(index)
        weight = weights[:, index].astype(np.float32)
        no_seg = (cache.status[index] == NO_SEG) * np.float32(no_seg_weight)
        votes.no_seg_weights[seen.point_ids] += no_seg
        used = np.flatnonzero(weight)
        if len(used) and len(seen.point_ids):
            size = (view.camera.width, view.camera.height)
            cells = seen.uv / np.asarray(size, np.float32) * cache.mask_extent - 0.5
            logits = sample_bilinear(cache.mask_logits(index)[used], cells)
            where = np.ix_(seen.point_ids, used)
            votes.masks[where] += weight[used] / (1 + np.exp(-logits))
            votes.mask_weights[seen.point_ids] += weight
        progress(index + 1, len(scene.views))
    return votes


def sample_bilinear(grids: Array, cells: Array) -> Array:
    """(L, Q) float32 values of ``grids`` (Q, h, w) at ``cells`` (L, 2), x then y.

    Cell centres have whole coordinates; beyond the outermost centres the border continues.
    """
    num_grids, height, width = grids.shape
    flat = np.ascontiguousarray(grids.reshape(num_grids, -1).T, np.float32)
    x = np.clip(cells[:, 0], 0, width - 1)
    y = np.clip(cells[:, 1], 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    tx, ty = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    upper = flat[top * width + left] * (1 - tx) + flat[top * width + right] * tx
    lower = flat[bottom * width + left] * (1 - tx) + flat[bottom * width + right] * tx
    return np.asarray(upper * (1 - ty) + lower * ty, np.float32)


def decide(votes: Votes, cfg: FuseConfig) -> tuple[Array, Array]:
    """Soft labels and confidences, (Q, N) float32 each, from the sums over views."""
    total = votes.mask_weights + votes.no_seg_weights
    prior = np.float32(cfg.prior if cfg.gate == "gated" else 0)
    seen = total > 0
    share = votes.masks / np.where(seen, total, 1)
    agreement = total / (total + 1) * np.abs(2 * share - 1)
    confidence = np.where(seen, np.clip(agreement, LEAST_CONFIDENCE, 1), 0)
    soft = np.clip(votes.masks / np.where(seen, total + prior, 1), 0, 1)
    return np.ascontiguousarray(soft.T), np.ascontiguousarray(confidence.T, np.float32)


def smooth_superpoints(
    soft: Array, confidence: Array, superpoint_ids: Array
) -> tuple[Array, Array]:
    """Soft labels and confidences after sharing them inside superpoints, (Q, N) float32 each."""
    sizes = np.bincount(superpoint_ids)
    smooth, shared = np.empty_like(soft), np.empty_like(confidence)
    for query in range(len(soft)):
        mass = np.bincount(superpoint_ids, confidence[query])
        weighed = np.bincount(superpoint_ids, confidence[query] * soft[query])
        label = weighed / np.where(mass > 0, mass, 1)
        mean = mass / np.maximum(sizes, 1)
        smooth[query] = np.clip(label, 0, 1)[superpoint_ids]
        shared[query] = np.maximum(confidence[query], mean[superpoint_ids])
    return smooth, shared
