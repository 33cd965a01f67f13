"""Synthetic teacher answers: blobs with soft borders, one per view and query."""

from __future__ import annotations

import numpy as np

from data.artifacts.teacher import MASK, NO_SEG, ViewAnswers
from data.types import Array


def blob_logits(num_queries: int, shape: tuple[int, int], seed: int) -> Array:
    """(Q, h, w) float32 logits of bumpy discs: positive inside, steep at the border."""
    random = np.random.default_rng(seed)
    height, width = shape
    y, x = np.ogrid[:height, :width]
    logits = np.empty((num_queries, height, width), np.float32)
    for query in range(num_queries):
        row, column = random.uniform(0.2, 0.8, 2) * shape
        angle = np.arctan2(y - row, x - column)
        bumps = sum(
            random.normal(0, 0.25 / k) * np.cos(k * angle + random.uniform(0, 6.3))
            for k in (2, 3, 5, 9)
        )
        radius = random.uniform(0.1, 0.35) * height * (1 + bumps)
        logits[query] = 12 * np.tanh((radius - np.hypot(y - row, x - column)) / (0.05 * height))
    return logits


def answers(logits: Array, embedding_dim: int, no_seg: float, seed: int) -> ViewAnswers:
    """Return one view's answers with masks (Q, h, w); a share ``no_seg`` of them has no mask."""
    random = np.random.default_rng((1, seed))
    num_queries = len(logits)
    status = np.where(random.random(num_queries) < no_seg, NO_SEG, MASK).astype(np.uint8)
    return ViewAnswers(
        status,
        logits,
        random.uniform(0.5, 1, num_queries).astype(np.float32),
        random.normal(size=(num_queries, embedding_dim)).astype(np.float32),
        ("It is [SEG].",) * num_queries,
    )
