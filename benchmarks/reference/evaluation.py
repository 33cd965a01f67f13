"""Evaluation: per query, the truth from instance ids and two reductions over all points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.types import Array


def score(prediction: Array, instance_ids: Array, object_ids: Sequence[int]) -> tuple[int, int]:
    """Intersection and union of a mask (N,) bool with the objects' points."""
    truth = np.isin(instance_ids, object_ids)
    intersection = np.logical_and(prediction, truth).sum()
    union = np.logical_or(prediction, truth).sum()
    return int(intersection), int(union)


def summary(counts: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Mean IoU and Acc@0.25 / 0.50 of all queries, IoU = I / (U + 1e-6), strictly above."""
    ious = np.array([i / (u + 1e-6) for i, u in counts])
    return {
        "miou": float(ious.mean()),
        "acc25": float((ious > 0.25).mean()),
        "acc50": float((ious > 0.5).mean()),
    }
