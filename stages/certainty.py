"""How sure an answer is: the presence of its object, and the quality of its mask.

*Presence* is the probability that the scan holds what is asked for, *quality* the expected IoU of
the mask if it does. Both are logistic in a few features of the answer. The weights are fitted on
tuning rooms, with their truth (``python -m benchmarks.calibrate``); no label of a scan that is
judged is seen.

Features of probabilities, each (Q,):

- ``peak``: the logit of the largest probability;
- ``inside``: the mean probability of the answer's points;
- ``doubtful``: the share of near misses, points between half the threshold and the threshold,
  among these and the answer's.

Labels add, from the views that made them: ``support``, the share of the views that see the answer
whose masks support it; ``views``, log2 of one plus their number; ``trust``, the mean confidence of
the teacher in them. Student and labels together add ``own_peak`` and ``own_inside`` of the student
and ``agreement``, the IoU of its mask with that of the labels. Words add ``known``, the logit of
how well the text encoder knows them.
"""

from __future__ import annotations

import numpy as np

from data.artifacts.soft_masks import PseudoLabels
from data.types import Array
from stages.configs import OWN_FEATURES, CertaintyConfig, Weights

Features = dict[str, Array]
_NEAR = 0.5
_LEAST = 1e-4
_ROWS = 8


def mask_features(probs: Array, thresholds: Array, sizes: Array) -> Features:
    """Describe answers by probabilities (Q, S), thresholds (Q,) and the sizes (S,) of the pieces.

    A threshold above 1 is taken for half of the largest probability: a refused answer has features,
    too.
    """
    largest = probs.max(axis=1, initial=0)
    chosen = np.maximum(np.where(thresholds > 1, largest / 2, thresholds), 1e-6)[:, None]
    inside = probs >= chosen
    near = (probs >= _NEAR * chosen) & ~inside
    held, missed = inside @ sizes, near @ sizes
    return {
        "peak": logit(largest),
        "inside": (np.where(inside, probs, 0) @ sizes) / np.maximum(held, 1),
        "doubtful": missed / np.maximum(held + missed, 1),
    }


def label_features(labels: PseudoLabels) -> Features:
    """Describe the answers of labels, a few queries at a time."""
    ones = np.ones(labels.soft.shape[1])
    parts = [
        mask_features(labels.soft[rows], labels.evidence[rows, 0], ones)
        for rows in (slice(start, start + _ROWS) for start in range(0, len(labels.soft), _ROWS))
    ]
    found = {
        name: np.concatenate([np.zeros(0), *(part[name] for part in parts)])
        for name in OWN_FEATURES
    }
    _, seeing, supporting = labels.evidence.T.astype(np.float64)
    trusts = labels.view_weights.astype(np.float64) * labels.view_confidences
    return {
        **found,
        "support": supporting / np.maximum(seeing, 1),
        "views": np.log2(1 + supporting),
        "trust": trusts.sum(axis=1),
    }


def overlap(one: Array, other: Array, sizes: Array) -> Array:
    """Return the IoU (Q,) of masks (Q, S) bool of pieces of these sizes (S,); 0 for two empty."""
    return np.asarray(((one & other) @ sizes) / np.maximum((one | other) @ sizes, 1))


def answer_certainty(features: Features, cfg: CertaintyConfig, whose: str) -> Array:
    """Return presence and expected quality of answers, (2, Q) float32.

    ``whose`` they are is a key of ``FEATURES``.
    """
    weights: tuple[Weights, ...] = tuple(
        getattr(cfg, f"{whose}_{part}") for part in ("presence", "quality")
    )
    return np.stack([logistic(features, each) for each in weights])


def logistic(features: Features, weights: Weights) -> Array:
    """Sum ``features``, each times its weight, and return the logistic of it, (Q,) float32.

    The weight "bias" is added once.
    """
    total = np.full(len(features["peak"]), weights.get("bias", 0.0))
    for name, weight in weights.items():
        if name != "bias":
            total = total + weight * features[name]
    return np.asarray(1 / (1 + np.exp(-np.clip(total, -30, 30))), np.float32)


def logit(probs: Array) -> Array:
    """Return the log-odds of probabilities, clipped at 1 in 10,000."""
    clipped = np.clip(probs.astype(np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped / (1 - clipped)))
