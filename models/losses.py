"""The student's losses, each a pure function to a scalar that is 0 for a perfect prediction.

Shapes: Q queries over M voxels (or points) of one scene. ``weights`` (Q, M) >= 0 say how much
a label counts: the fusion confidence, 0 where nothing is known. With nothing to count, a loss
is 0 and its gradient too.
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
        mask_logits: (Q, M).
        targets: (Q, M) in [0, 1].
        weights: (Q, M).
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
        mask_logits: (Q, M).
        targets: (Q, M) in [0, 1].
        weights: (Q, M).
    """
    probs = mask_logits.sigmoid()
    overlap = 2 * (weights * probs * targets).sum(1)
    sizes = (weights * (probs**2 + targets**2)).sum(1)
    has_target = ((targets > 0.5) & (weights > 0)).any(1).to(sizes.dtype)
    return _mean_of_rows((1 - overlap / (sizes + _TINY)) * has_target, has_target)


def superpoint_spread(mask_logits: Tensor, superpoint_ids: Tensor) -> Tensor:
    """Mean variance of the probabilities inside superpoints, over voxels and queries.

    Args:
        mask_logits: (Q, M).
        superpoint_ids: (M,) int64, 0..S-1.
    """
    probs = mask_logits.sigmoid().T
    num = int(superpoint_ids.max()) + 1
    counts = torch.bincount(superpoint_ids, minlength=num).clamp(min=1).to(probs.dtype)
    sums = probs.new_zeros(num, probs.shape[1]).index_add(0, superpoint_ids, probs)
    means = (sums / counts[:, None])[superpoint_ids]
    return ((probs - means) ** 2).mean()


def claimed_tokens(targets: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """(M, T): each voxel's unit mean of the tokens of the queries that claim it; zero if none.

    A query claims a voxel whose label is above one half; it counts by label times weight.
    """
    claims = torch.where(targets > 0.5, targets * weights, 0.0)
    return F.normalize(claims.T @ F.normalize(tokens, dim=1), dim=1)


def feature_cosine(token_features: Tensor, wanted: Tensor) -> Tensor:
    """Mean of one minus cosine between voxel features and wanted tokens, where there is one.

    Args:
        token_features: (M, T).
        wanted: (M, T) unit rows, zero rows are left out; see ``claimed_tokens``.
    """
    has_token = (wanted != 0).any(1).to(token_features.dtype)
    cosine = (F.normalize(token_features, dim=1) * wanted).sum(1)
    return ((1 - cosine) * has_token).sum() / has_token.sum().clamp(min=1)


def absent(mask_logits: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of queries whose object is not in the scene: every voxel is negative.

    Args:
        mask_logits: (K, M); K may be 0.
        weights: (M,): how well each voxel is known.
    """
    per_query = (F.softplus(mask_logits) * weights).sum(1)
    return _mean_of_rows(per_query, weights.sum().expand(len(mask_logits)))


def _mean_of_rows(sums: Tensor, totals: Tensor) -> Tensor:
    """Mean over the rows whose total is positive of sum / total; 0 when there is none."""
    known = (totals > 0).to(sums.dtype)
    means = sums / torch.where(totals > 0, totals, 1.0)
    return (means * known).sum() / known.sum().clamp(min=1)
