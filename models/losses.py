"""The student's losses, each a pure function to a scalar that is 0 for a perfect prediction.

Shapes: Q queries over S superpoints of one scene. ``weights`` (Q, S) >= 0 say how much a label
counts: size and clearness of the superpoint's label, 0 where nothing is known. With nothing to
count, a loss is 0 and its gradient too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_TINY = 1e-6


def weighted_bce(
    mask_logits: Tensor, targets: Tensor, weights: Tensor, positive_weight: float
) -> Tensor:
    """Excess binary cross entropy, averaged over each query's weights, then over queries.

    The entropy of soft targets is taken off, so that predicting them exactly costs 0.

    Args:
        mask_logits: (Q, S).
        targets: (Q, S) in [0, 1].
        weights: (Q, S).
        positive_weight: factor on the positive part.
    """
    wrong = F.softplus(mask_logits)  # Cost of a negative; that of a positive is less its logit.
    # The best logit for a soft target under the positive weight, and what it costs.
    share = positive_weight * targets / (positive_weight * targets + 1 - targets)
    floor = -(torch.xlogy(positive_weight * targets, share) + torch.xlogy(1 - targets, 1 - share))
    positive = positive_weight * targets
    cost = ((positive + 1 - targets) * wrong - positive * mask_logits - floor) * weights
    return _mean_of_rows(cost.sum(1), weights.sum(1))


def dice(mask_logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice overlap with squared sizes (Milletari et al. 2016), over queries.

    Queries without a target (no weighted label above one half) are left out: overlap with
    nothing says nothing. Equal soft masks cost 0.

    Args:
        mask_logits: (Q, S).
        targets: (Q, S) in [0, 1].
        weights: (Q, S).
    """
    probs = mask_logits.sigmoid()
    overlap = 2 * (weights * probs * targets).sum(1)
    sizes = (weights * (probs**2 + targets**2)).sum(1)
    has_target = ((targets > 0.5) & (weights > 0)).any(1).to(sizes.dtype)
    return _mean_of_rows((1 - overlap / (sizes + _TINY)) * has_target, has_target)


def neighbour_pull(mask_logits: Tensor, pairs: Tensor, affinity: Tensor) -> Tensor:
    """Mean squared difference of the probabilities of touching superpoints, by affinity.

    Args:
        mask_logits: (Q, S).
        pairs: (P, 2) int64; P may be 0.
        affinity: (P,) >= 0, how likely two are one object.
    """
    probs = mask_logits.sigmoid()
    apart = ((probs[:, pairs[:, 0]] - probs[:, pairs[:, 1]]) ** 2 * affinity).sum(1)
    return _mean_of_rows(apart, affinity.sum().expand(len(mask_logits)))


def claimed_tokens(targets: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """(S, T): each superpoint's unit mean of the tokens of the queries that claim it, or 0.

    A query claims a superpoint whose label is above one half; it counts by label times weight.
    """
    claims = torch.where(targets > 0.5, targets * weights, 0.0)
    return F.normalize(claims.T @ F.normalize(tokens, dim=1), dim=1)


def feature_cosine(token_features: Tensor, wanted: Tensor) -> Tensor:
    """Mean of one minus cosine between features and wanted tokens, where there is one.

    Args:
        token_features: (S, T).
        wanted: (S, T) unit rows, zero rows are left out; see ``claimed_tokens``.
    """
    has_token = (wanted != 0).any(1).to(token_features.dtype)
    cosine = (F.normalize(token_features, dim=1) * wanted).sum(1)
    return ((1 - cosine) * has_token).sum() / has_token.sum().clamp(min=1)


def absent(mask_logits: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of queries whose object is not in the scene: every superpoint is negative.

    Args:
        mask_logits: (K, S); K may be 0.
        weights: (S,): how well each superpoint is known.
    """
    per_query = (F.softplus(mask_logits) * weights).sum(1)
    return _mean_of_rows(per_query, weights.sum().expand(len(mask_logits)))


def _mean_of_rows(sums: Tensor, totals: Tensor) -> Tensor:
    """Mean over the rows whose total is positive of sum / total; 0 when there is none."""
    known = (totals > 0).to(sums.dtype)
    means = sums / torch.where(totals > 0, totals, 1.0)
    return (means * known).sum() / known.sum().clamp(min=1)
