"""Which views of a query count, and how much: the view filter and the token gate of fusion.

Belief a_v of a view is the teacher's presence (how likely it was to say [SEG]) times the IoU it
predicts for its mask; 0 where nothing was drawn. What a view says against the others comes from
its [SEG] vector e_v and from its mask in 3D:

- the token gate looks for the direction c that most of the confident vectors share: it starts
  from the sum of the e_v, each weighted by how many others point its way, and repeats
  w_v = a_v max(0, cos(e_v, c)), c = normalised sum of w_v e_v, until c is stable (power
  iteration on the second moment of the e_v);
- the agreement of a mask with the others' is the soft IoU, at the points that both see, of the
  mask and the mean of the other views' masks (``stages.votes``): a view whose mask nobody
  supports loses weight.

Views under ``gate_floor`` of the largest weight are dropped, with the reason.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from data.artifacts.teacher import FAILED, TeacherCache
from data.types import Array
from stages.configs import FuseConfig

_STABLE = 1e-5


class Gate(NamedTuple):
    """One query's views: ``weights`` (V,) with maximum 1 or all 0, ``center`` (D,) unit or 0.

    ``cosines`` (V,) of each view's vector with the centre, 0 for views without a mask;
    ``support`` (V,) in [0, 1], the agreement of its mask with the others', 1 where not asked.
    """

    weights: Array
    center: Array
    cosines: Array
    support: Array


def gate_views(cache: TeacherCache, cfg: FuseConfig, support: Array | None = None) -> list[Gate]:
    """Weigh each query's views by ``cfg.views``; ``support`` (V, Q) is the agreement in 3D."""
    if support is None:
        support = np.ones(cache.status.shape)
    believed = belief(cache)
    queries = range(len(cache.prompt_ids))
    return [_gate(cache, query, cfg, believed[:, query], support[:, query]) for query in queries]


def belief(cache: TeacherCache) -> Array:
    """(V, Q) float64 in [0, 1]: presence times predicted IoU, 0 where nothing is drawn.

    Views of equal belief stand in for it where a teacher believes nothing of what it drew.
    """
    drawn = cache.drawn.astype(np.float64)
    believed = np.clip(cache.presence.astype(np.float64) * cache.predicted_iou, 0, 1) * drawn
    return np.where(believed.any(axis=0), believed, drawn)


def _gate(
    cache: TeacherCache, query: int, cfg: FuseConfig, believed: Array, support: Array
) -> Gate:
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


def _weighed(vectors: Array, weights: Array, support: Array) -> Gate:
    center = normalised(weights @ vectors)
    return Gate(weights.astype(np.float64), center, vectors @ center, support)


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


def reasons(gate: Gate, cache: TeacherCache, query: int, cfg: FuseConfig) -> tuple[str, ...]:
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
