"""Metrics of several runs over the queries that all of them have, compared with the first run.

Runs are paired by query. The interval of a difference is over queries; the sign test compares the
number of queries that improved with the number that got worse. Every metric is one of
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
"""The metrics that are compared; unmarked ones are strict, as in ``metrics.json``."""


@dataclass(frozen=True, eq=False)
class RunAnswers:
    """The scored answers of one run; messages call the run ``name``.

    ``targets`` holds the object ids of queries by prompt id, for queries whose targets are known.
    """

    name: str
    rows: Sequence[QueryRow]
    targets: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class SharedQueries:
    """``rows`` by run, for the same queries in the first run's order, and numbers left out.

    ``left_out`` counts the other queries of each run. ``reworded`` counts queries of the first run
    whose sentence or scene differs in another run.
    """

    rows: tuple[tuple[QueryRow, ...], ...]
    left_out: tuple[int, ...]
    reworded: int


@dataclass(frozen=True)
class Change:
    """The difference of a metric between a run and the first, with its 95 % interval.

    ``better``, ``worse`` and ``same`` count queries. ``sign_p`` is the p value of the exact
    two-sided sign test. All four are None for cIoU, which is not a mean over queries.
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
    """One metric: its ``values`` by run, and the ``changes`` of all runs but the first."""

    values: tuple[float, ...]
    changes: tuple[Change, ...]


def shared_queries(runs: Sequence[RunAnswers]) -> SharedQueries:
    """Return the queries with the same prompt id, scene and sentence in every run.

    Raises UserError where there is no such query, and where runs have different truths of a query.
    """
    by_id = [{row.prompt_id: row for row in run.rows} for run in runs]
    first = by_id[0]
    in_all = [name for name in first if all(name in rows for rows in by_id[1:])]
    kept = [name for name in in_all if len({_scene_and_text(rows[name]) for rows in by_id}) == 1]
    if not kept:
        examples = "; ".join(f"{run.name}: {_examples(run.rows)}" for run in runs)
        raise UserError(
            "these runs have no query in common (the same id, scene and sentence), so nothing can "
            f"be compared. {examples}. Compare runs of one scene set and its queries."
        )
    for run, rows in zip(runs[1:], by_id[1:], strict=True):
        _refuse_other_truths(kept, runs[0], run, first, rows)
    return SharedQueries(
        tuple(tuple(rows[name] for name in kept) for rows in by_id),
        tuple(len(run.rows) - len(kept) for run in runs),
        len(in_all) - len(kept),
    )


def _scene_and_text(row: QueryRow) -> tuple[str, str]:
    return row.scene_id, row.text


def _examples(rows: Sequence[QueryRow]) -> str:
    scenes = sorted({row.scene_id for row in rows})
    return f"{len(rows)} queries on scenes {', '.join(scenes[:3])}{', ...' * (len(scenes) > 3)}"


def _refuse_other_truths(
    names: Sequence[str],
    first_run: RunAnswers,
    second_run: RunAnswers,
    first: Mapping[str, QueryRow],
    second: Mapping[str, QueryRow],
) -> None:
    def true_of(run: RunAnswers, row: QueryRow) -> tuple[str, int, tuple[int, ...] | None]:
        has_targets = row.prompt_id in first_run.targets and row.prompt_id in second_run.targets
        ids = tuple(sorted(run.targets[row.prompt_id])) if has_targets else None
        return row.target_count, row.truth_points, ids

    differing = [n for n in names if true_of(first_run, first[n]) != true_of(second_run, second[n])]
    if differing:
        truths = [
            _truth(*true_of(*pair))
            for pair in ((first_run, first[differing[0]]), (second_run, second[differing[0]]))
        ]
        raise UserError(
            f"{second_run.name}: {len(differing)} of {len(names)} shared queries have a different "
            f"truth than in {first_run.name}; the first is {differing[0]}: expected {truths[0]}, "
            f"found {truths[1]}. Compare runs of the same scans and annotation."
        )


def _truth(targets: str, points: int, ids: tuple[int, ...] | None) -> str:
    objects = f" (objects {', '.join(map(str, ids))})" if ids else ""
    return f"{points} true points of {targets} target{objects}"


def paired_metrics(runs: Sequence[metrics.Counts]) -> dict[str, PairedMetric]:
    """Compute all ``METRIC_NAMES`` of runs over the same Q >= 1 queries, in one order.

    The bootstrap draws are the same for every metric and run. Raises ValueError for runs of
    different lengths and for no query.
    """
    if len({len(counts) for counts in runs}) != 1 or not len(runs[0]):
        raise ValueError("expected runs over the same queries, and one query at least")
    resamples = metrics.draws(len(runs[0]))
    by_query = [_by_query(counts) for counts in runs]
    by_name = {}
    for name in METRIC_NAMES:
        if name == CIOU:
            by_name[name] = _ciou_metric(runs, resamples)
        else:
            by_name[name] = _mean_metric([values[name] for values in by_query], resamples)
    return by_name


def _by_query(counts: metrics.Counts) -> dict[str, Array]:
    """Return by metric the values (Q,) float64 that its mean is taken of."""
    values = dict(zip(STRICT, metrics.per_query(counts).values(), strict=True))
    inclusive = metrics.per_query(counts, "inclusive").values()
    values |= dict(zip(INCLUSIVE, inclusive, strict=True))
    values["giou"] = metrics.lisa_iou(counts)
    return {name: of_each.astype(np.float64) for name, of_each in values.items()}


def _mean_metric(runs: Sequence[Array], resamples: Array) -> PairedMetric:
    changes = []
    for values in runs[1:]:
        gains = values - runs[0]
        better, worse = int((gains > 0).sum()), int((gains < 0).sum())
        changes.append(
            Change(
                float(gains.mean()),
                *metrics.interval(gains[resamples].mean(1)),
                better,
                worse,
                len(gains) - better - worse,
                sign_test(better, worse),
            )
        )
    return PairedMetric(tuple(float(values.mean()) for values in runs), tuple(changes))


def _ciou_metric(runs: Sequence[metrics.Counts], resamples: Array) -> PairedMetric:
    values = [metrics.cumulative_iou(counts) for counts in runs]
    samples = [
        metrics.iou_of_sums(counts.intersection[resamples].sum(1), counts.union[resamples].sum(1))
        for counts in runs
    ]
    changes = tuple(
        Change(value - values[0], *metrics.interval(sample - samples[0]))
        for value, sample in zip(values[1:], samples[1:], strict=True)
    )
    return PairedMetric(tuple(values), changes)


def sign_test(better: int, worse: int) -> float:
    """Return the exact two-sided p value of a sign test: both directions are equally likely.

    For right and wrong answers this is McNemar's exact test. The value is 1 where nothing changed.
    """
    from scipy.stats import binomtest

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
