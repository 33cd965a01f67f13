"""Stage ``fuse_masks``: masks of many views to one soft label a point and query.

Belief a_v of a view is the teacher's presence (how likely it was to say [SEG]) times the IoU it
predicts for its mask; 0 where nothing was drawn. What a view says against the others comes from
its [SEG] vector e_v and from its mask in 3D:

- the token gate looks for the direction c that most of the confident vectors share: it starts
  from the sum of the e_v, each weighted by how many others point its way, and repeats
  w_v = a_v max(0, cos(e_v, c)), c = normalised sum of w_v e_v, until c is stable (power
  iteration on the second moment of the e_v);
- the agreement of a mask with the others' is the soft IoU, at the points that both see, of the
  mask and the mean of the other views' masks (``stages.fusion.votes``): a view whose mask nobody
  supports loses weight.

Views under ``gate_floor`` of the largest weight are dropped, with the reason.

Views. ``filtered`` weighs them as ``stages.fusion.fuse_masks`` says; ``all``, the published
baseline, takes every view's mask alike, also those that answers without [SEG] held back; ``best``
takes one view.

Vote. Weights are scaled so that the best view counts 1, which makes ``prior`` a number of
views: p_i = sum_v w_v sigmoid(m_v(u_iv)) / (sum_v (w_v + n_v) visible_iv + prior). A view that
did not say [SEG] did look: n_v = ``no_seg_weight`` times how unlikely it was to say it counts
against the points it sees, so that a mask hallucinated in one view of twenty is outvoted and
points of absent objects become confident negatives. Failed views say nothing.

Confidence of a point is n / (n + 1) |2 q - 1| with n = sum_v (w_v + n_v) visible_iv and q the
vote without prior: it grows with the number of views and with their agreement. It is 0 only
where n is 0: unlabelled, not negative.

Space. Points of a superpoint take its label, superpoints lean on those they touch and yield to
rivals (``stages.fusion.fuse_masks``). What counts as the answer begins at a threshold that is
chosen for each query without labels (``stages.fusion.thresholds``).
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
from stages.fusion.sample_masks import check_links, lifted_views
from stages.fusion.thresholds import choose_thresholds
from stages.fusion.votes import Votes, agreement, sum_votes

_ROUNDS = 5
_STRONG = 0.3
"""Sum of affinities at which neighbours have half of the share they may have."""
_LEAST_PEAK = 0.3


def smooth_superpoints(
    soft: Array, confidence: Array, superpoint_ids: Array
) -> tuple[Array, Array]:
    """Labels and confidences after sharing them inside superpoints, (Q, N) float32 each.

    All points of a superpoint take its confidence-weighted mean label. Points take the
    superpoint's mean confidence (unseen points counting 0 in it) where it is above their own.
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


def diffuse(labels: Array, neighbours: Neighbours, share: float) -> Array:
    """(S, Q) labels of superpoints, each drawn towards those that it touches.

    Five rounds of x = (1 - a) labels + a W x, W the affinities with rows of sum 1: what a
    superpoint has of its own stays its anchor. a is ``share`` for superpoints with strong ties
    and less for others, so that one without neighbours keeps its label.
    """
    affinity = affinity_matrix(neighbours)
    total = np.asarray(affinity.sum(axis=1)).ravel()
    pull = (share * total / (total + _STRONG))[:, None]
    mixing = sparse.diags(1 / np.where(total > 0, total, 1)) @ affinity
    moved = labels
    for _ in range(_ROUNDS):
        moved = (1 - pull) * labels + pull * (mixing @ moved)
    return np.asarray(moved, np.float32)


def halve_contested_labels(
    labels: Array, tokens: Array, rivals: Array, factor: float, cosine: float
) -> Array:
    """(S, Q) labels, halved where a rival claims a superpoint ``factor`` times as much.

    Claims are labels relative to the query's own largest (at least 0.3), so that a thin thing
    seen faintly can hold its place against a large one seen well. Rivals are the categories of
    the bank, a list that is the same for every scene, whose tokens are not like the query's.

    Args:
        labels: (S, Q).
        tokens: (Q, D) unit or 0.
        rivals: (Q,) bool, the queries that are the bank's.
        factor: above 0.
        cosine: tokens at least this close are not rivals.
    """
    claims = labels / np.maximum(labels.max(axis=0, initial=0), _LEAST_PEAK)
    opposed = (tokens @ tokens.T < cosine) & rivals
    np.fill_diagonal(opposed, False)
    yielded = labels.copy()
    for query in np.flatnonzero(opposed.any(axis=1)):
        rival = claims[:, opposed[query]].max(axis=1)
        yielded[rival > factor * claims[:, query], query] *= 0.5
    return yielded


_STABLE = 1e-5


class ViewWeights(NamedTuple):
    """One query's views: ``weights`` (V,) with maximum 1 or all 0, ``center`` (D,) unit or 0.

    ``cosines`` (V,) of each view's vector with the centre, 0 for views without a mask;
    ``support`` (V,) in [0, 1], the agreement of its mask with the others', 1 where not asked.
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
    believed = view_confidence(cache)
    queries = range(len(cache.prompt_ids))
    return [_gate(cache, query, cfg, believed[:, query], support[:, query]) for query in queries]


def view_confidence(cache: TeacherCache) -> Array:
    """(V, Q) float64 in [0, 1]: presence times predicted IoU, 0 where nothing is drawn.

    Views of equal belief stand in for it where a teacher believes nothing of what it drew.
    """
    drawn = cache.drawn.astype(np.float64)
    believed = np.clip(cache.presence.astype(np.float64) * cache.predicted_iou, 0, 1) * drawn
    return np.where(believed.any(axis=0), believed, drawn)


def _gate(
    cache: TeacherCache, query: int, cfg: FuseConfig, believed: Array, support: Array
) -> ViewWeights:
    drawn = cache.drawn[:, query].astype(np.float64)
    vectors = normalised(cache.seg_embeddings[:, query].astype(np.float64) * drawn[:, None])
    if cfg.views == "all":
        return _weighed(vectors, drawn, support)
    believed = believed * support
    if cfg.views == "best":
        best = int(np.argmax(believed)) if believed.any() else -1
        return _weighed(vectors, np.arange(len(believed)) == best, support)
    if cfg.token_gate:
        center = shared_direction(vectors, believed, cfg.gate_iterations)
        believed = believed * np.maximum(vectors @ center, 0)
    largest = believed.max(initial=0)
    if largest <= 0:
        return _weighed(vectors, np.zeros(len(believed)), support)
    kept = believed >= cfg.gate_floor * largest
    return _weighed(vectors, np.where(kept, believed / largest, 0), support)


def _weighed(vectors: Array, weights: Array, support: Array) -> ViewWeights:
    center = normalised(weights @ vectors)
    return ViewWeights(weights.astype(np.float64), center, vectors @ center, support)


def shared_direction(vectors: Array, believed: Array, iterations: int) -> Array:
    """The unit vector (D,) most of the confident ``vectors`` (V, D), unit or zero, point to."""
    company = np.maximum(vectors @ vectors.T, 0) ** 2 @ believed
    center = normalised((believed * company) @ vectors)
    for _ in range(iterations):
        moved = normalised((believed * np.maximum(vectors @ center, 0)) @ vectors)
        stable = np.linalg.norm(moved - center) < _STABLE
        center = moved
        if stable:
            break
    return center


def normalised(vectors: Array) -> Array:
    """Vectors (..., D) scaled to unit length; zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1))


def reasons(gate: ViewWeights, cache: TeacherCache, query: int, cfg: FuseConfig) -> tuple[str, ...]:
    """Why each view has no weight; "" for views that have."""
    told = []
    for view, weight in enumerate(gate.weights):
        presence, iou = cache.presence[view, query], cache.predicted_iou[view, query]
        if weight > 0:
            told.append("")
        elif cache.status[view, query] == FAILED:
            told.append("failed")
        elif not cache.drawn[view, query]:
            told.append("no [SEG]")
        elif cfg.views == "best":
            told.append("another view is believed more")
        elif presence < 0.5:
            told.append(f"no [SEG] (presence {presence:.2f})")
        elif cfg.token_gate and gate.cosines[view] < 0.5:
            told.append(f"off-topic token (cos {gate.cosines[view]:.2f})")
        elif gate.support[view] < min(iou, 0.5):
            told.append(f"no other view agrees (overlap {gate.support[view]:.2f})")
        else:
            told.append(f"low predicted IoU ({iou:.2f})")
    return tuple(told)


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
        np.ascontiguousarray(view_confidence(cache).T, np.float32),
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
) -> tuple[list[ViewWeights], Votes]:
    """Gates and votes; with ``agreement``, a first vote tells which masks the others support."""
    gates = weigh_views(cache, cfg)
    twice = cfg.views == "filtered" and cfg.agreement
    before, total = twice * len(scene.views), (1 + twice) * len(scene.views)
    if twice:
        weights = _weights(gates, cache)

        def half(done: int, _: int) -> None:
            progress(done, total)

        first = collect_votes(scene, links, cache, weights, cfg, half, device)
        lifted = lifted_views(scene, links, cache)
        support = agreement(lifted, weights, first.masks, first.mask_weights, device)
        gates = weigh_views(cache, cfg, support)
    weights = _weights(gates, cache)

    def rest(done: int, _: int) -> None:
        progress(before + done, total)

    return gates, collect_votes(scene, links, cache, weights, cfg, rest, device)


def _weights(gates: list[ViewWeights], cache: TeacherCache) -> Array:
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
    soft, confidence = smooth_superpoints(soft, confidence, ids)
    first = np.unique(ids, return_index=True)[1]
    labels = np.ascontiguousarray(soft[:, first].T)
    if cfg.neighbours > 0:
        near = neighbours_of(scene)
        labels = diffuse(labels, near, cfg.neighbours)
    if cfg.rivals > 0 and rivals is not None and rivals.any():
        labels = halve_contested_labels(labels, tokens, rivals, cfg.rivals, cfg.rival_cosine)
    return np.ascontiguousarray(labels[ids].T, np.float32), confidence
