"""Stage ``ablation``: what each arm of the ablation scores, and how arms compare.

The headline is over referring, colour and implicit queries that have a target; spatial,
several-target and absent ones have rows of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.artifacts.ablation import ArmRows
from stages.arm_figures import (
    FIGURES,
    Chooses,
    arm_figures,
    headline_of,
    is_absent,
    means,
    queries_of,
    told,
)

FALSE_MASKS = 0.25
"""Share of absent queries answered with a mask at which arms are compared."""
_THRESHOLDS = 41


def run(arms: Sequence[ArmRows], system: str) -> dict[str, Any]:
    """The content of ``ablation.json``; ``system`` names the arm that is the system's answer.

    Raises ValueError where seeds of an arm answered other queries, or there is no query.
    """
    rows = queries_of(arms)
    headline = headline_of(rows)
    kinds = sorted({row.kind for arm in arms for row in arm.rows[0]})
    curve = [point for arm in arms for point in absent_curve(arm, headline)]
    content: dict[str, Any] = {
        "arms": {arm.name: arm_figures(arm, headline) for arm in arms},
        "by_type": {kind: _by_arm(arms, _of_kind(kind)) for kind in kinds},
        "absent_curve": curve,
    }
    if any(row.wording for row in rows):
        content["wordings"] = _wordings(arms, headline)
    if words := _colour_words(arms):
        content["colour_word"] = words
    return {
        **content,
        "ratios": ratios(content["arms"], curve, system),
        "system": system,
        "convention": "strict",
        "seeds": list(range(max(len(arm.rows) for arm in arms))),
        "queries": told(rows, headline),
    }


def _by_arm(arms: Sequence[ArmRows], chooses: Chooses) -> dict[str, Any]:
    return {arm.name: means(arm, chooses) for arm in arms}


def _wordings(arms: Sequence[ArmRows], headline: Chooses) -> dict[str, Any]:
    """Figures of the headline's queries by whether training rooms are asked in their words."""
    return {
        arm.name: {
            wording: means(arm, _worded(headline, wording)) for wording in ("seen", "held_out")
        }
        for arm in arms
    }


def _colour_words(arms: Sequence[ArmRows]) -> dict[str, Any]:
    """What colour queries score in rooms with several things of the kind, and what its name alone.

    An arm that does not see the colour would get the same from both; pictures are left out.
    """
    told = {}
    for arm in arms:
        rows = [row for of_seed in arm.rows for row in of_seed if row.plain_iou is not None]
        if rows:
            told[arm.name] = {
                "with": float(np.mean([row.iou for row in rows])),
                "without": float(np.mean([row.plain_iou or 0.0 for row in rows])),
                "num_queries": len({row.prompt_id for row in rows}),
            }
    return told


def _worded(headline: Chooses, wording: str) -> Chooses:
    return lambda row: headline(row) and row.wording == wording


def _of_kind(kind: str) -> Chooses:
    return lambda row: row.kind == kind


def absent_curve(arm: ArmRows, headline: Chooses) -> list[dict[str, Any]]:
    """False masks against mIoU when answers below a score are taken back, score by score.

    Thresholds are quantiles of the scores; means are over seeds. Nothing for an arm without
    scores, or without queries about absent objects.
    """
    rows = [row for of_seed in arm.rows for row in of_seed if is_absent(row) or headline(row)]
    score = np.array([np.nan if row.score is None else row.score for row in rows], np.float64)
    absent = np.array([is_absent(row) for row in rows], bool)
    if not absent.any() or absent.all() or np.isnan(score).any():
        return []
    drawn = np.array([row.predicted_points > 0 for row in rows], bool)
    iou = np.array([row.iou for row in rows], np.float64)
    thresholds = np.unique(np.quantile(score, np.linspace(0, 1, _THRESHOLDS), method="lower"))
    return [
        {
            "arm": arm.name,
            "threshold": threshold,
            "false_masks": float((drawn & (score >= threshold))[absent].mean()),
            "miou": float(np.where(score >= threshold, iou, 0)[~absent].mean()),
        }
        for threshold in thresholds.tolist()
    ]


def ratios(
    arms: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], system: str
) -> dict[str, float]:
    """How arms compare, as the issue asks for it; what an arm left out would tell is left out."""
    pairs = [("system", "B", figure) for figure in FIGURES]
    pairs += [("system", "B+", "miou"), ("C", "B", "miou"), ("D", "C", "miou"), ("E", "D", "miou")]
    pairs += [("F", "E", "miou"), ("G", "F", "miou")]
    known = {**arms, **({"system": arms[system]} if system in arms else {})}
    result = {}
    for one, other, figure in pairs:
        if one in known and other in known and known[other][figure]["mean"]:
            ratio = known[one][figure]["mean"] / known[other][figure]["mean"]
            result[f"{one}_over_{other}_{figure}"] = ratio
    if {"system", "B", "H"} <= set(known):
        system_miou, base, bound = (known[name]["miou"]["mean"] for name in ("system", "B", "H"))
        if None not in (system_miou, base, bound) and bound > base:
            result["closed_gap_miou"] = (system_miou - base) / (bound - base)
    quiet = [p["miou"] for p in curve if p["arm"] == system and p["false_masks"] <= FALSE_MASKS]
    if quiet and "B" in known and known["B"]["miou"]["mean"]:
        result["system_at_25_false_masks_over_B_miou"] = max(quiet) / known["B"]["miou"]["mean"]
    return result
