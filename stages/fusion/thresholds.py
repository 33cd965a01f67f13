"""Choose the threshold of each query's mask without labels, and rescale labels by it."""

from __future__ import annotations

import numpy as np

from data.types import Array

NONE = 2.0
"""Threshold of a query without object; no probability reaches it."""


def choose_thresholds(
    probs: Array,
    rule: str,
    presence: float,
    weights: Array | None = None,
    sharpness: float = 0,
) -> Array:
    """Choose (Q,) float32 thresholds for ``probs`` (Q, N).

    A query none of whose probabilities reaches ``presence`` gets ``NONE``. ``rule`` is "half",
    "expected_dice" or "otsu" (see the functions of these names, also for ``weights``). With
    ``sharpness`` above 0, "expected_dice" first sharpens the probabilities.
    """
    chosen = np.full(len(probs), 0.5 if rule == "half" else NONE, np.float32)
    for query, row in enumerate(probs):
        largest = row.max(initial=0)
        if largest < presence or largest <= 0:
            chosen[query] = NONE
        elif rule == "expected_dice":
            sharp = sharpen(row, sharpness) if sharpness > 0 else row
            chosen[query] = row[sharp >= expected_dice(sharp, weights)].min()
        elif rule == "otsu":
            chosen[query] = otsu(row, weights)
    return chosen


def sharpen(probs: Array, sharpness: float) -> Array:
    """Sharpen probabilities (N,): divide by the maximum, then raise the odds to ``sharpness``.

    ``probs`` must not be all 0. A student hedges between similar objects: for "the brown window"
    a second window may get half the probability of the brown one, and the mask of the largest
    expected Dice would include both.
    """
    relative = (probs / probs.max()).astype(np.float64)
    inside, outside = relative**sharpness, (1 - relative) ** sharpness
    return np.asarray(inside / (inside + outside))


def rescale_by_threshold(soft: Array, thresholds: Array) -> Array:
    """Scale labels (Q, S) so that the threshold (Q,) of their query becomes one half; float32.

    Labels of at least twice the threshold become 1. A query without object, whose threshold is
    above 1, becomes 0 everywhere.
    """
    raised = np.clip(0.5 * soft / np.maximum(thresholds, 1e-6)[:, None], 0, 1)
    return np.where(thresholds[:, None] > 1, 0, raised).astype(np.float32)


def geometric_mean(probs: Array, labels: Array, share: float = 0.5) -> Array:
    """Combine probabilities and labels of one shape, in [0, 1], by their geometric mean.

    The probabilities have exponent ``share``, the labels one minus it.
    """
    if share == 0.5:  # The square root is exact where both are equal.
        return np.asarray(np.sqrt(probs * labels), np.float32)
    return np.asarray(probs**share * labels ** (1 - share), np.float32)


def expected_dice(probs: Array, weights: Array | None = None) -> float:
    """Return the threshold whose mask has the largest expected Dice under calibrated ``probs``.

    The mask of the n most likely points has the ratio of expectations 2 * (sum of their
    probabilities) / (n + sum of all probabilities). The best threshold is about half of the
    largest ratio, so low probabilities need a threshold below one half (Lipton et al. 2014).
    ``probs`` is (N,), N > 0; ``weights`` (N,) is the number of points that each probability
    stands for, 1 by default.
    """
    if weights is None:  # Sorting values is over three times as fast as finding their order.
        ordered = np.sort(probs)[::-1].astype(np.float64)
        sums, counts = np.cumsum(ordered), np.arange(1, len(ordered) + 1)
    else:
        order = np.argsort(-probs, kind="stable")
        ordered, masses = probs[order].astype(np.float64), weights[order].astype(np.float64)
        sums, counts = np.cumsum(ordered * masses), np.cumsum(masses)
    return float(ordered[np.argmax(2 * sums / (counts + sums[-1]))])


def otsu(probs: Array, weights: Array | None = None) -> float:
    """Return the threshold that best parts ``probs`` into two groups (Otsu 1979).

    It is the smallest value of the upper group where the variance between the groups, w0 w1
    (m1 - m0)^2, is largest; of equal variances the one with the smaller upper group. Unlike the
    expected Dice it does not take the values for calibrated: where votes agree, labels come in two
    heaps, whatever their heights. ``probs`` is (N,), N > 0; ``weights`` (N,) is the number of
    points that each probability stands for, 1 by default.
    """
    order = np.argsort(-probs, kind="stable")
    ordered = probs[order].astype(np.float64)
    masses = np.ones(len(probs)) if weights is None else weights[order].astype(np.float64)
    ends = np.flatnonzero(np.diff(ordered) < 0)  # The last of each value but the smallest.
    if not len(ends):
        return float(ordered[0])
    mass, total = np.cumsum(masses), np.cumsum(masses * ordered)
    upper, lower = mass[ends], mass[-1] - mass[ends]
    apart = total[ends] / upper - (total[-1] - total[ends]) / lower
    return float(ordered[ends[np.argmax(upper * lower * apart**2)]])
