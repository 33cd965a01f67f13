"""Spatial consistency of labels: superpoints, those they touch, and rivals of the bank."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from data.neighbours import affinity_matrix
from data.types import Array, Neighbours

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


def yield_to_rivals(
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
