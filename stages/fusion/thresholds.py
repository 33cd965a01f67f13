"""Where an answer begins: thresholds that need no labels."""

from __future__ import annotations

import numpy as np

from data.types import Array

NONE = 2.0
"""A threshold that no probability reaches: the query has no object."""


def choose_thresholds(
    probs: Array,
    rule: str,
    presence: float,
    weights: Array | None = None,
    sharpness: float = 0,
) -> Array:
    """(Q,) float32 thresholds of ``probs`` (Q, N); ``NONE`` where nothing reaches ``presence``.

    ``rule`` is "half" or "expected_dice", see there also for ``weights``; with a ``sharpness``
    above 0 the latter takes probabilities ``sharpen``.
    """
    chosen = np.full(len(probs), 0.5 if rule == "half" else NONE, np.float32)
    for query, row in enumerate(probs):
        largest = row.max(initial=0)
        if largest < presence or largest <= 0:
            chosen[query] = NONE
        elif rule == "expected_dice":
            believed = sharpen(row, sharpness) if sharpness > 0 else row
            chosen[query] = row[believed >= expected_dice(believed, weights)].min()
    return chosen


def sharpen(probs: Array, sharpness: float) -> Array:
    """(N,) what is believed of each part given that the object is there, drawn apart.

    ``probs`` (N,), not all 0, are divided by the largest, and their odds raised to the power
    ``sharpness``. A student hedges between like things: of two windows, of which one is the brown
    one, the second gets half of what the first has, and the best mask in expectation would hold
    both.
    """
    given = (probs / probs.max()).astype(np.float64)
    inside, outside = given**sharpness, (1 - given) ** sharpness
    return np.asarray(inside / (inside + outside))


def rescale_by_threshold(soft: Array, thresholds: Array) -> Array:
    """(Q, S) float32: labels scaled so that their query's threshold (Q,) becomes one half.

    Twice the threshold and more is 1; a query without object, whose threshold is above 1, is 0
    everywhere.
    """
    raised = np.clip(0.5 * soft / np.maximum(thresholds, 1e-6)[:, None], 0, 1)
    return np.where(thresholds[:, None] > 1, 0, raised).astype(np.float32)


def geometric_mean(probs: Array, labels: Array) -> Array:
    """Geometric mean of two beliefs of the same shape, in [0, 1]: high where both are."""
    return np.asarray(np.sqrt(probs * labels), np.float32)


def expected_dice(probs: Array, weights: Array | None = None) -> float:
    """The threshold whose mask has the largest expected Dice overlap, were the probabilities true.

    Of the n points most likely, 2 * sum of their probabilities / (n + sum of all) is the ratio
    of expectations; it is largest at about half of itself, so an unsure student needs a lower
    threshold than one half (Lipton et al. 2014). ``probs`` is (N,), N > 0; ``weights`` (N,)
    tell how many points each stands for, one where not given.
    """
    if weights is None:  # Sorting values is over three times as fast as finding their order.
        ordered = np.sort(probs)[::-1].astype(np.float64)
        sums, counts = np.cumsum(ordered), np.arange(1, len(ordered) + 1)
    else:
        order = np.argsort(-probs, kind="stable")
        ordered, masses = probs[order].astype(np.float64), weights[order].astype(np.float64)
        sums, counts = np.cumsum(ordered * masses), np.cumsum(masses)
    return float(ordered[np.argmax(2 * sums / (counts + sums[-1]))])
