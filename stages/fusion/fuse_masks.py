"""Stage ``fuse_masks``: fuse the masks of many views into one soft label per point and query.

View weights. The confidence a_v of view v is the teacher's presence (its probability of [SEG])
times the IoU it predicts for its mask; 0 without a mask. Under ``filtered`` two checks lower it:

- the token gate finds the direction c that most confident [SEG] embeddings e_v share. It starts
  from the sum of the e_v, each weighted by how well the others agree with it, and repeats
  w_v = a_v max(0, cos(e_v, c)), c = normalised sum of w_v e_v, until c is stable (power
  iteration on the second moment of the e_v);
- the 3D agreement multiplies a_v by the soft IoU, over the points that both see, of the view's
  mask and the mean of the other views' masks (``stages.fusion.votes``).

Views below ``gate_floor`` of the largest weight are dropped, and the reason is stored. ``all``,
the published baseline, weighs every mask equally, withheld masks included; ``best`` takes one view.

Vote. Weights are scaled so that the best view has weight 1, which makes ``prior`` a number of
views: p_i = sum_v w_v sigmoid(m_v(u_iv)) / (sum_v (w_v + n_v) visible_iv + prior). A view
without [SEG] is evidence against the points it sees, of weight n_v = ``no_seg_weight`` times
(1 - presence). So a mask hallucinated in one view of twenty is outvoted, and points of absent
objects become confident negatives. Failed views do not vote.

The confidence of a point is n / (n + 1) |2 q - 1| with n = sum_v (w_v + n_v) visible_iv and q
the vote without prior: it grows with the number of views and with their agreement. It is 0 only
where n is 0: such a point is unlabelled, not negative.

Every vote and every weight in these sums is multiplied by the trust in the link of view and point
(``stages.fusion.link_trust``).

Space. Points take the label of their superpoint, labels diffuse between adjacent superpoints,
and labels are halved where a competing category claims the superpoint. The threshold of each
query is chosen without labels (``stages.fusion.thresholds``), and an answer that hardly any view
supports is none (``stages.fusion.evidence``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from data.artifacts.links import Links
from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, TeacherCache
from data.geometry.superpoints import affinity_matrix, neighbours_of
from data.types import Array, Neighbours, Progress, Scene, silent
from stages.configs import FuseConfig
from stages.fusion.evidence import count_support, supported
from stages.fusion.sample_masks import LiftedViews, check_links
from stages.fusion.thresholds import NONE, choose_thresholds
from stages.fusion.votes import Votes, agreement, sum_votes

_LEAST_PEAK = 0.3
_OTSU_POWER = 0.5
"""``otsu``: a superpoint of n points has weight n to this power, so that walls do not decide."""


def smooth_superpoints(
    soft: Array, confidence: Array, superpoint_ids: Array
) -> tuple[Array, Array]:
    """Average labels and confidences inside superpoints; returns (Q, N) float32 each.

    All points of a superpoint take its confidence-weighted mean label. A point takes the
    superpoint's mean confidence, in which unseen points count 0, where that exceeds its own.
    """
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


def diffuse(labels: Array, neighbours: Neighbours, cfg: FuseConfig) -> Array:
    """Diffuse labels (S, Q) between adjacent superpoints; returns (S, Q) float32.

    Runs ``cfg.neighbour_rounds`` rounds of x = (1 - a) labels + a W x, where W is the affinity
    matrix with rows that sum to 1. The weight a is nearly ``cfg.neighbours`` for superpoints with
    large affinities and less for others, half of it where they sum to ``cfg.neighbour_strength``;
    a superpoint without neighbours keeps its label.
    """
    affinity = affinity_matrix(neighbours)
    total = np.asarray(affinity.sum(axis=1)).ravel()
    pull = (cfg.neighbours * total / (total + cfg.neighbour_strength))[:, None]
    mixing = sparse.diags(1 / np.where(total > 0, total, 1)) @ affinity
    moved = labels
    for _ in range(cfg.neighbour_rounds):
        moved = (1 - pull) * labels + pull * (mixing @ moved)
    return np.asarray(moved, np.float32)


def halve_contested_labels(
    labels: Array, tokens: Array, competing: Array, factor: float, cosine: float
) -> Array:
    """Halve labels (S, Q) where a competing category claims the superpoint more strongly.

    A claim is a label divided by the largest label of its query (at least 0.3), so that a thin
    object with low labels can compete with a large one with high labels. The competing
    categories are the background categories, the same list for every scene, whose tokens
    differ from the query's.

    Args:
        labels: (S, Q).
        tokens: (Q, D), unit or zero rows.
        competing: (Q,) bool, true for the queries that are background categories.
        factor: above 0; a label is halved where a competing claim exceeds its own claim times
            ``factor``.
        cosine: categories whose tokens are at least this similar do not compete.
    """
    claims = labels / np.maximum(labels.max(axis=0, initial=0), _LEAST_PEAK)
    opposed = (tokens @ tokens.T < cosine) & competing
    np.fill_diagonal(opposed, False)
    reduced = labels.copy()
    for query in np.flatnonzero(opposed.any(axis=1)):
        strongest = claims[:, opposed[query]].max(axis=1)
        reduced[strongest > factor * claims[:, query], query] *= 0.5
    return reduced


_STABLE = 1e-5


class ViewWeights(NamedTuple):
    """Weights of one query's views.

    ``weights`` (V,) have maximum 1 or are all 0; ``center`` (D,) is the fused token, unit or 0.
    ``cosines`` (V,) compare each view's embedding with the centre, 0 for views without a mask;
    ``support`` (V,) in [0, 1] is the 3D agreement of the view's mask, 1 where not computed.
    """

    weights: Array
    center: Array
    cosines: Array
    support: Array


def weigh_views(
    cache: TeacherCache, cfg: FuseConfig, support: Array | None = None
) -> list[ViewWeights]:
    """Weigh each query's views by ``cfg.views``; ``support`` (V, Q) is the agreement in 3D."""
    if support is None:
        support = np.ones(cache.status.shape)
    confidence = view_confidence(cache)
    queries = range(len(cache.prompt_ids))
    return [_gate(cache, query, cfg, confidence[:, query], support[:, query]) for query in queries]


def view_confidence(cache: TeacherCache) -> Array:
    """Return (V, Q) float64 in [0, 1]: presence times predicted IoU, 0 without a mask.

    If the teacher gives all masks of a query confidence 0, they all get confidence 1.
    """
    drawn = cache.drawn.astype(np.float64)
    confidence = np.clip(cache.presence.astype(np.float64) * cache.predicted_iou, 0, 1) * drawn
    return np.where(confidence.any(axis=0), confidence, drawn)


def _gate(
    cache: TeacherCache, query: int, cfg: FuseConfig, confidence: Array, support: Array
) -> ViewWeights:
    drawn = cache.drawn[:, query].astype(np.float64)
    vectors = normalised(cache.seg_embeddings[:, query].astype(np.float64) * drawn[:, None])
    if cfg.views == "all":
        return _weighed(vectors, drawn, support)
    confidence = confidence * support
    if cfg.views == "best":
        best = int(np.argmax(confidence)) if confidence.any() else -1
        return _weighed(vectors, np.arange(len(confidence)) == best, support)
    if cfg.token_gate:
        center = shared_direction(vectors, confidence, cfg.gate_iterations)
        confidence = confidence * np.maximum(vectors @ center, 0)
    largest = confidence.max(initial=0)
    if largest <= 0:
        return _weighed(vectors, np.zeros(len(confidence)), support)
    kept = confidence >= cfg.gate_floor * largest
    return _weighed(vectors, np.where(kept, confidence / largest, 0), support)


def _weighed(vectors: Array, weights: Array, support: Array) -> ViewWeights:
    center = normalised(weights @ vectors)
    return ViewWeights(weights.astype(np.float64), center, vectors @ center, support)


def shared_direction(vectors: Array, confidence: Array, iterations: int) -> Array:
    """Find the unit vector (D,) to which most confident ``vectors`` point.

    ``vectors`` (V, D) have unit or zero rows; ``confidence`` (V,) weighs them. The result is 0
    if all weighted vectors are 0.
    """
    similar = np.maximum(vectors @ vectors.T, 0) ** 2 @ confidence
    center = normalised((confidence * similar) @ vectors)
    for _ in range(iterations):
        moved = normalised((confidence * np.maximum(vectors @ center, 0)) @ vectors)
        stable = np.linalg.norm(moved - center) < _STABLE
        center = moved
        if stable:
            break
    return center


def normalised(vectors: Array) -> Array:
    """Scale vectors (..., D) to unit length; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1))


def reasons(
    gate: ViewWeights, weights: Array, cache: TeacherCache, query: int, cfg: FuseConfig
) -> tuple[str, ...]:
    """Return the reason why each view has no weight, "" for views with weight.

    ``weights`` (V,) are the stored ones: in float32 a very small weight is 0.
    """
    texts = []
    for view, weight in enumerate(weights):
        presence, iou = cache.presence[view, query], cache.predicted_iou[view, query]
        if weight > 0:
            texts.append("")
        elif cache.status[view, query] == FAILED:
            texts.append("failed")
        elif not cache.drawn[view, query]:
            texts.append("no [SEG]")
        elif cfg.views == "best":
            texts.append("another view is believed more")
        elif presence < 0.5:
            texts.append(f"no [SEG] (presence {presence:.2f})")
        elif cfg.token_gate and gate.cosines[view] < 0.5:
            texts.append(f"off-topic token (cos {gate.cosines[view]:.2f})")
        elif gate.support[view] < min(iou, 0.5):
            texts.append(f"no other view agrees (overlap {gate.support[view]:.2f})")
        else:
            texts.append(f"low predicted IoU ({iou:.2f})")
    return tuple(texts)


LEAST_CONFIDENCE = 1 / 255


def run(
    scene: Scene,
    links: Links,
    cache: TeacherCache,
    cfg: FuseConfig,
    competing: Array | None = None,
    progress: Progress = silent,
    device: str = "cpu",
) -> PseudoLabels:
    """Fuse all views of a scene; masks are read a few views at a time.

    ``competing`` (Q,) bool marks the queries that are background categories, none by default.
    With a CUDA ``device`` the votes are summed on the GPU. Raises ValueError unless scene, links
    and cache have the same views and points.
    """
    _check(scene, links, cache)
    views = LiftedViews(scene, links, cache, cfg)
    gates, votes = _weigh_and_vote(views, len(scene.cloud), cache, cfg, progress, device)
    soft, confidence = decide(votes, cfg)
    tokens = np.array([gate.center for gate in gates], np.float32).reshape(-1, cache.embedding_dim)
    if cfg.superpoints:
        soft, confidence = _consistent(scene, soft, confidence, tokens, cfg, competing)
    # Thresholds are chosen on what is stored, so that reading back moves no point across them.
    soft = np.rint(soft * 255).astype(np.uint8).astype(np.float32) / np.float32(255)
    weights = _weights(gates, cache)
    totals = weights.sum(axis=0)
    stored = (weights / np.where(totals > 0, totals, 1)).T.astype(np.float32)
    thresholds = _thresholds(scene, soft, cfg)
    answers = np.ascontiguousarray((soft >= thresholds[:, None]).T)
    counts = count_support(views, answers, weights)
    evidence = np.stack([thresholds, *counts], axis=1).astype(np.float32)
    if cfg.support > 0:
        thresholds[~supported(counts, cfg.support)] = NONE
    return PseudoLabels(
        scene.scene_id,
        cache.prompt_ids,
        cache.view_ids,
        soft,
        confidence,
        stored,
        tuple(reasons(gate, stored[q], cache, q, cfg) for q, gate in enumerate(gates)),
        tokens,
        thresholds,
        np.ascontiguousarray(cache.seg_embeddings.transpose(1, 0, 2), np.float32),
        np.ascontiguousarray(view_confidence(cache).T, np.float32),
        evidence,
    )


def _thresholds(scene: Scene, soft: Array, cfg: FuseConfig) -> Array:
    """Choose (Q,) thresholds of labels (Q, N); ``otsu`` weighs superpoints, not points."""
    if cfg.threshold != "otsu" or not cfg.superpoints:
        return choose_thresholds(soft, cfg.threshold, cfg.presence)
    _, first, sizes = np.unique(scene.superpoint_ids, return_index=True, return_counts=True)
    return choose_thresholds(soft[:, first], "otsu", cfg.presence, sizes**_OTSU_POWER)


def _check(scene: Scene, links: Links, cache: TeacherCache) -> None:
    check_links(scene, links)
    if cache.view_ids != links.view_ids:
        raise ValueError(f"scene {scene.scene_id}: the teacher cache is of other views")


def _weigh_and_vote(
    views: LiftedViews,
    num_points: int,
    cache: TeacherCache,
    cfg: FuseConfig,
    progress: Progress,
    device: str,
) -> tuple[list[ViewWeights], Votes]:
    """Weigh views and sum votes; with ``agreement``, a first vote measures the 3D agreement."""
    gates = weigh_views(cache, cfg)
    twice = cfg.views == "filtered" and cfg.agreement
    num_views = len(cache.view_ids)
    before, total = twice * num_views, (1 + twice) * num_views
    if twice:
        weights = _weights(gates, cache)

        def half(done: int, _: int) -> None:
            progress(done, total)

        first = collect_votes(views, num_points, cache, weights, cfg, half, device)
        support = agreement(views, weights, first.masks, first.mask_weights, device)
        gates = weigh_views(cache, cfg, support)
    weights = _weights(gates, cache)

    def rest(done: int, _: int) -> None:
        progress(before + done, total)

    return gates, collect_votes(views, num_points, cache, weights, cfg, rest, device)


def _weights(gates: list[ViewWeights], cache: TeacherCache) -> Array:
    """Stack the view weights of all queries as (V, Q)."""
    shape = (len(cache.prompt_ids), len(cache.view_ids))
    return np.array([gate.weights for gate in gates]).reshape(shape).T


def collect_votes(
    views: LiftedViews,
    num_points: int,
    cache: TeacherCache,
    weights: Array,
    cfg: FuseConfig,
    progress: Progress,
    device: str = "cpu",
) -> Votes:
    """Sum the votes of all views over the points they see; ``weights`` is (V, Q)."""
    doubt = np.where(cache.status == FAILED, 0, 1 - cache.presence) * np.float32(cfg.no_seg_weight)
    return sum_votes(views, num_points, weights, doubt, progress, device)


def decide(votes: Votes, cfg: FuseConfig) -> tuple[Array, Array]:
    """Compute soft labels and confidences, (Q, N) float32 each, from the sums over views."""
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
    competing: Array | None,
) -> tuple[Array, Array]:
    """Smooth labels in space: superpoints, diffusion, competing categories; (Q, N) each."""
    ids = scene.superpoint_ids
    soft, confidence = smooth_superpoints(soft, confidence, ids)
    first = np.unique(ids, return_index=True)[1]
    labels = np.ascontiguousarray(soft[:, first].T)
    if cfg.neighbours > 0:
        near = neighbours_of(scene)
        labels = diffuse(labels, near, cfg)
    if cfg.rivals > 0 and competing is not None and competing.any():
        labels = halve_contested_labels(labels, tokens, competing, cfg.rivals, cfg.rival_cosine)
    return np.ascontiguousarray(labels[ids].T, np.float32), confidence
