"""Figures of an ablation's arms over chosen queries, and how sure they are.

Figures are the strict convention's. A query's are averaged over an arm's seeds first; the
interval then says how far the mean would move with other queries, the deviation how far it
moves with the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.artifacts.ablation import AnswerRow, ArmRows
from data.types import Array
from stages import bootstrap, metrics
from stages.arm_rows import COLOUR, IMPLICIT, REFERRING

FIGURES = ("miou", "acc25", "acc50")
HEADLINE = (REFERRING, COLOUR, IMPLICIT)

Chooses = Callable[[AnswerRow], bool]


@dataclass(frozen=True, eq=False)
class _Answers:
    """Q queries of one arm: ``totals`` (S, Q) float64 by figure, summed over a query's rows.

    ``weights`` (Q,) counts those rows: 1, or the pictures of a query where pictures are scored.
    """

    totals: Mapping[str, Array]
    weights: Array


def headline_of(rows: Sequence[AnswerRow]) -> Chooses:
    """Which queries the headline is over: referring, colour and implicit ones with a target.

    Where a set of queries knows no such tasks, all that have a target.
    """
    named = any(row.kind in HEADLINE for row in rows)
    return lambda row: row.target_count != "zero" and (row.kind in HEADLINE or not named)


def told(rows: Sequence[AnswerRow], headline: Chooses) -> str:
    """Which queries, and how many, in words."""
    count, every = len({r.prompt_id for r in rows if headline(r)}), len({r.prompt_id for r in rows})
    kinds = sorted({row.kind for row in rows if headline(row)})
    return f"{count} of {every} queries: those with a target that are {', '.join(kinds)}"


def arm_figures(arm: ArmRows, headline: Chooses) -> dict[str, Any]:
    """An arm's entry under ``arms``: figures with deviation and interval, cost and counts."""
    answers = _answers(arm, headline)
    return {
        "title": arm.title,
        **{name: _figure(answers.totals[name], answers.weights) for name in FIGURES},
        "seconds": float(np.mean(arm.seconds)),
        "num_queries": len(answers.weights),
        "seeds": len(arm.rows),
    }


def queries_of(arms: Sequence[ArmRows]) -> tuple[AnswerRow, ...]:
    """All queries of one seed, as far as the arms tell; ValueError where there is none."""
    if not any(arm.rows[0] for arm in arms):
        raise ValueError("expected the answers of at least one arm to at least one query")
    in_3d = [arm for arm in arms if not arm.in_pictures]
    return (in_3d or arms)[0].rows[0]


def means(arm: ArmRows, chooses: Chooses) -> dict[str, Any]:
    """Means over seeds of the figures of some queries, and how many those are.

    ``false_masks`` is the share of answers about absent objects that are a mask. None stands
    where there is no query.
    """
    answers = _answers(arm, chooses)
    absent = [row for of_seed in arm.rows for row in of_seed if is_absent(row) and chooses(row)]
    drawn = sum(row.predicted_points > 0 for row in absent)
    asked = answers.weights.sum()
    return {
        **{n: float(answers.totals[n].mean(0).sum() / asked) if asked else None for n in FIGURES},
        "num_queries": len(answers.weights),
        "false_masks": drawn / len(absent) if absent else None,
    }


def is_absent(row: AnswerRow) -> bool:
    """Whether the query's object is not there."""
    return row.target_count == "zero"


def _answers(arm: ArmRows, chooses: Chooses) -> _Answers:
    """Totals per query, in the order of the first seed's rows."""
    chosen = [[row for row in of_seed if chooses(row)] for of_seed in arm.rows]
    order = {name: k for k, name in enumerate(dict.fromkeys(r.prompt_id for r in chosen[0]))}
    asked = [row.prompt_id for row in chosen[0]]
    if any([row.prompt_id for row in of_seed] != asked for of_seed in chosen):
        raise ValueError(f"arm {arm.name}: its seeds answered different queries")
    index = np.array([order[name] for name in asked], np.int64)
    totals: dict[str, list[Array]] = {name: [] for name in FIGURES}
    for of_seed in chosen:
        counts = metrics.Counts(
            np.array([row.intersection for row in of_seed], np.int64),
            np.array([row.union for row in of_seed], np.int64),
        )
        for name, values in metrics.per_query(counts).items():
            totals[name].append(np.bincount(index, values.astype(np.float64), len(order)))
    weights = np.bincount(index, minlength=len(order))
    return _Answers({name: np.stack(of_seeds) for name, of_seeds in totals.items()}, weights)


def _figure(totals: Array, weights: Array) -> dict[str, Any]:
    """``mean``, ``std`` over seeds (sample deviation, 0 for one seed) and ``ci95`` over queries."""
    if not weights.sum():
        return {"mean": None, "std": None, "ci95": [None, None]}
    by_seed = totals.sum(1) / weights.sum()
    return {
        "mean": float(by_seed.mean()),
        "std": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0,
        "ci95": list(bootstrap_interval(totals.mean(0), weights)),
    }


def bootstrap_interval(totals: Array, weights: Array) -> tuple[float, float]:
    """95 % percentile interval of sum(totals) / sum(weights), both (Q,), over drawn queries.

    Every arm of Q queries meets the same draws.
    """
    drawn = bootstrap.draws(len(totals))
    averages = totals[drawn].sum(1) / np.maximum(weights[drawn].sum(1), 1)
    return bootstrap.interval(averages)
