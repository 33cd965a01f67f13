"""Bootstrap over queries: whatever is compared meets the same draws, so intervals are paired."""

from __future__ import annotations

import numpy as np

from data.types import Array

RESAMPLES = 2000
SEED = 0
_PERCENTILES = (2.5, 97.5)


def draws(count: int) -> Array:
    """(RESAMPLES, count) int64: queries drawn with replacement, the same ones at every call."""
    return np.random.default_rng(SEED).integers(count, size=(RESAMPLES, count))


def interval(samples: Array) -> tuple[float, float]:
    """95 % percentile interval of a figure's (RESAMPLES,) values over the draws."""
    low, high = np.percentile(samples, _PERCENTILES).tolist()
    return low, high
