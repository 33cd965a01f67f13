"""Figures of several runs over the queries that all were asked, against those of the first.

Runs are paired by query: an interval says how far a difference would move with other queries,
and a sign test whether as many queries got better as worse. Every figure is one of
``stages.evaluation.metrics``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.evaluation import QueryRow
from data.errors import UserError
from data.types import Array
from stages.evaluation import metrics

CIOU = "ciou"
STRICT = ("miou", "acc25", "acc50")
INCLUSIVE = ("inclusive_miou", "inclusive_acc25", "inclusive_acc50")
METRIC_NAMES: Mapping[str, str] = {
    "miou": "mIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
    CIOU: "cIoU",
    "giou": "gIoU",
    "inclusive_miou": "mIoU, empty = 1",
    "inclusive_acc25": "Acc@0.25, empty = 1",
    "inclusive_acc50": "Acc@0.50, empty = 1",
}
"""Every figure that is compared; those without a remark are strict, as in ``metrics.json``."""


@dataclass(frozen=True, eq=False)
class RunAnswers:
    """One run's answers, under the ``name`` that errors call it by.

    ``targets`` are the ids of each query's objects by prompt id, as far as they are known.
    """

    name: str
    rows: Sequence[QueryRow]
    targets: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class SharedQueries:
    """``rows`` by run, all of the same queries in the first run's order; how many were left out.

    ``reworded`` counts queries of the first run that have another sentence or scene elsewhere.
    """

    rows: tuple[tuple[QueryRow, ...], ...]
    left_out: tuple[int, ...]
    reworded: int


@dataclass(frozen=True)
class Change:
    """A figure of one run less that of the first, with its 95 % interval over queries.

    ``better``, ``worse`` and ``same`` count queries, and ``sign_p`` is the exact two-sided sign
    test's chance of such counts were either equally likely; None for cIoU, which no query has
    by itself.
    """

    difference: float
    low: float
    high: float
    better: int | None = None
    worse: int | None = None
    same: int | None = None
    sign_p: float | None = None


@dataclass(frozen=True)
class PairedMetric:
    """One figure: its ``values`` by run, and the ``changes`` of all runs but the first."""

    values: tuple[float, ...]
    changes: tuple[Change, ...]


def shared_queries(runs: Sequence[RunAnswers]) -> SharedQueries:
    """The queries with the same prompt id, scene and sentence in every run.

    Raises UserError when there is none, and when runs hold different things to be true of one.
    """
    by_id = [{row.prompt_id: row for row in run.rows} for run in runs]
    first = by_id[0]
    in_all = [name for name in first if all(name in rows for rows in by_id[1:])]
    kept = [name for name in in_all if len({_words(rows[name]) for rows in by_id}) == 1]
    if not kept:
        told = "; ".join(f"{run.name}: {_examples(run.rows)}" for run in runs)
        raise UserError(
            "these runs have no query in common (the same id, scene and sentence), so nothing can "
            f"be compared. {told}. Compare runs of one scene set and its queries."
        )
    for run, rows in zip(runs[1:], by_id[1:], strict=True):
        _refuse_other_truths(kept, runs[0], run, first, rows)
    return SharedQueries(
        tuple(tuple(rows[name] for name in kept) for rows in by_id),
        tuple(len(run.rows) - len(kept) for run in runs),
        len(in_all) - len(kept),
    )


def _words(row: QueryRow) -> tuple[str, str]:
    return row.scene_id, row.text


def _examples(rows: Sequence[QueryRow]) -> str:
    scenes = sorted({row.scene_id for row in rows})
    return f"{len(rows)} queries on scenes {', '.join(scenes[:3])}{', ...' * (len(scenes) > 3)}"


def _refuse_other_truths(
    names: Sequence[str],
    one: RunAnswers,
    two: RunAnswers,
    first: Mapping[str, QueryRow],
    second: Mapping[str, QueryRow],
) -> None:
    def true_of(run: RunAnswers, row: QueryRow) -> tuple[str, int, tuple[int, ...] | None]:
        known = row.prompt_id in one.targets and row.prompt_id in two.targets
        ids = tuple(sorted(run.targets[row.prompt_id])) if known else None
        return row.target_count, row.truth_points, ids

    other = [n for n in names if true_of(one, first[n]) != true_of(two, second[n])]
    if other:
        told = [
            _truth(*true_of(*pair)) for pair in ((one, first[other[0]]), (two, second[other[0]]))
        ]
        raise UserError(
            f"{two.name}: {len(other)} of {len(names)} shared queries have another truth than in "
            f"{one.name}; the first is {other[0]}: expected {told[0]}, found {told[1]}. Compare "
            "runs of the same scans and annotation."
        )


def _truth(targets: str, points: int, ids: tuple[int, ...] | None) -> str:
    told = f" (objects {', '.join(map(str, ids))})" if ids else ""
    return f"{points} true points of {targets} target{told}"


def paired_metrics(runs: Sequence[metrics.Counts]) -> dict[str, PairedMetric]:
    """All ``METRIC_NAMES`` of runs over the same Q >= 1 queries, in one order.

    ``draws`` are the same for every figure and run. Raises ValueError for runs of several lengths.
    """
    if len({len(counts) for counts in runs}) != 1 or not len(runs[0]):
        raise ValueError("expected runs over the same queries, and one query at least")
    drawn = metrics.draws(len(runs[0]))
    by_query = [_by_query(counts) for counts in runs]
    made = {}
    for name in METRIC_NAMES:
        if name == CIOU:
            made[name] = _ciou_metric(runs, drawn)
        else:
            made[name] = _mean_metric([values[name] for values in by_query], drawn)
    return made


def _by_query(counts: metrics.Counts) -> dict[str, Array]:
    """(Q,) float64 by figure: what its mean is taken of."""
    values = dict(zip(STRICT, metrics.per_query(counts).values(), strict=True))
    inclusive = metrics.per_query(counts, "inclusive").values()
    values |= dict(zip(INCLUSIVE, inclusive, strict=True))
    values["giou"] = metrics.lisa_iou(counts)
    return {name: of_each.astype(np.float64) for name, of_each in values.items()}


def _mean_metric(runs: Sequence[Array], drawn: Array) -> PairedMetric:
    changes = []
    for values in runs[1:]:
        gains = values - runs[0]
        better, worse = int((gains > 0).sum()), int((gains < 0).sum())
        changes.append(
            Change(
                float(gains.mean()),
                *metrics.interval(gains[drawn].mean(1)),
                better,
                worse,
                len(gains) - better - worse,
                sign_test(better, worse),
            )
        )
    return PairedMetric(tuple(float(values.mean()) for values in runs), tuple(changes))


def _ciou_metric(runs: Sequence[metrics.Counts], drawn: Array) -> PairedMetric:
    values = [metrics.cumulative_iou(counts) for counts in runs]
    samples = [
        metrics.iou_of_sums(counts.intersection[drawn].sum(1), counts.union[drawn].sum(1))
        for counts in runs
    ]
    changes = tuple(
        Change(value - values[0], *metrics.interval(sample - samples[0]))
        for value, sample in zip(values[1:], samples[1:], strict=True)
    )
    return PairedMetric(tuple(values), changes)


def sign_test(better: int, worse: int) -> float:
    """Exact two-sided p of so uneven a split, were each change as likely for better as for worse.

    Of right and wrong answers this is McNemar's exact test; 1 where nothing changed.
    """
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
