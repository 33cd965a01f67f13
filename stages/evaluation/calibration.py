"""How well answers know how sure they are (``stages.certainty``), against ground truth.

Presence is compared with whether a query has a target, over all queries; quality with the strict
IoU of the answers to queries with a target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.artifacts.evaluation import QueryRow
from data.artifacts.soft_masks import StudentTrust
from data.types import Array
from stages.evaluation.metrics import auc, mean_ranks

BINS = 10


def reliability(expected: Array, happened: Array) -> list[tuple[float, float, int]]:
    """Compare expectations in [0, 1] with outcomes, both (n,), in ten bins of equal width.

    Returns (mean expectation, mean outcome, number) of each bin that is not empty.
    """
    bins = np.minimum((expected * BINS).astype(int), BINS - 1)
    found = []
    for number in np.unique(bins).tolist():
        inside = bins == number
        means = float(expected[inside].mean()), float(happened[inside].mean())
        found.append((*means, int(inside.sum())))
    return found


def calibration_error(expected: Array, happened: Array) -> float:
    """Return the expected calibration error (Naeini et al. 2015); NaN without any value.

    It is the mean distance of expectation and outcome over the bins of ``reliability``, weighed by
    their numbers.
    """
    bins = reliability(expected, happened)
    total = sum(count for *_, count in bins)
    apart = sum(count * abs(mean - outcome) for mean, outcome, count in bins)
    return apart / total if total else float("nan")


def rank_correlation(one: Array, other: Array) -> float:
    """Return Spearman's rank correlation; NaN for fewer than two pairs or a constant side."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(mean_ranks(one), mean_ranks(other))[0, 1])


def summarise_trust(by_scene: Mapping[str, StudentTrust]) -> dict[str, Any] | None:
    """Return the mean agreement and share of a student over scenes, and both of each.

    ``unlike`` is the number of scenes in which it does not count; None without any scene.
    """
    if not by_scene:
        return None
    trusts = list(by_scene.values())
    return {
        "agreement": sum(trust.agreement for trust in trusts) / len(trusts),
        "share": sum(trust.share for trust in trusts) / len(trusts),
        "unlike": sum(trust.share == 0 for trust in trusts),
        "by_scene": {scene_id: asdict(trust) for scene_id, trust in by_scene.items()},
    }


def summarise_certainty(rows: Sequence[QueryRow], source: str) -> dict[str, Any]:
    """Return figures of presence and quality of one source's answers; None where undefined.

    ``auc`` tells queries with a target from others by presence, ``rank_correlation`` is that of
    quality and IoU, ``calibration_error`` and ``bins`` those of ``reliability``. Rows without
    certainty, those of searches over several scenes, are left out.
    """
    sure = [row for row in rows if row.scores[source].presence is not None]
    scores = [row.scores[source] for row in sure]
    presence = np.array([score.presence for score in scores], float)
    is_there = np.array([row.target_count != "zero" for row in sure], bool)
    quality = np.array([score.quality for score in scores], float)[is_there]
    ious = np.array([score.iou for score in scores], float)[is_there]
    return {
        "presence": {
            "auc": _or_none(auc(presence, is_there)),
            **_agreement(presence, is_there.astype(float)),
        },
        "quality": {
            "rank_correlation": _or_none(rank_correlation(quality, ious)),
            **_agreement(quality, ious),
        },
    }


def _agreement(expected: Array, happened: Array) -> dict[str, Any]:
    error = _or_none(calibration_error(expected, happened))
    bins = [list(row) for row in reliability(expected, happened)]
    return {"calibration_error": error, "bins": bins}


def _or_none(value: float) -> float | None:
    return None if value != value else value
