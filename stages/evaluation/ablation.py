"""Stage ``ablation``: score each arm of the ablation query by query, and compare arms.

Metrics follow the strict convention. The metrics of a query are averaged over the seeds of an arm
first. The confidence interval is over queries, the standard deviation over seeds.

The headline is over referring, colour and implicit queries that have a target. Spatial queries,
queries with several targets and queries about absent objects are reported separately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.artifacts.evaluation import TARGET_COUNTS, AnswerRow, ArmRows, Wording
from data.artifacts.teacher import FAILED
from data.artifacts.teacher_2d import Teacher2D
from data.errors import DataError
from data.queries.prompts import bank_prompts, target_ids
from data.rooms.teacher_questions import VISIBLE_SHARE
from data.rooms.wordings import COLOR, recognise_wording
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages.evaluation import metrics
from stages.evaluation.metrics import PointCount, count_points

REFERRING, COLOUR, IMPLICIT = "referring", "colour", "implicit"


class SceneQueries:
    """The queries of one scene with their truths.

    ``truths`` is by prompt id. ``generated`` is True for a generated room, whose queries have
    known wordings. ``bank`` holds the categories that the teacher is asked for besides. Raises
    DataError for a query without truth and for a truth that names an object the scene does not
    have.
    """

    def __init__(
        self,
        scene_id: str,
        prompts: Sequence[Prompt],
        truths: Mapping[str, PromptTruth],
        ground_truth: GroundTruth,
        generated: bool,
        bank: Sequence[str] = (),
    ) -> None:
        self.scene_id, self.prompts = scene_id, prompts
        self._ground_truth, self._generated = ground_truth, generated
        names = (prompt.prompt_id for prompt in bank_prompts(bank, scene_id))
        self._of_category = dict(zip(bank, names, strict=True))
        self._targets = {
            p.prompt_id: target_ids(scene_id, p, truths, ground_truth) for p in prompts
        }

    def rows_of_masks(
        self, masks: Mapping[str, Array], scores: Mapping[str, float]
    ) -> Iterator[AnswerRow]:
        """Yield a row per query of (N,) bool masks by prompt id; a missing mask is empty.

        Raises DataError for a mask of another length or type.
        """
        for prompt in self.prompts:
            name = prompt.prompt_id
            truth = self._ground_truth.counted_points(self._targets[name])
            row = self._row(prompt, *self._count(masks, name, truth), scores.get(name, 0.0))
            category = self._of_category.get(self._ambiguous_label(row, name), "")
            if category in masks:
                intersection, union, _ = self._count(masks, category, truth)
                row = replace(row, plain_iou=_strict_iou(intersection, union))
            yield row

    def _count(self, masks: Mapping[str, Array], name: str, truth_ids: Array) -> PointCount:
        """Count the points of intersection, union and mask that count in evaluation."""
        truth, mask = self._ground_truth, masks.get(name)
        if mask is None:
            return PointCount(0, len(truth_ids), 0)
        try:
            return count_points(mask, truth_ids, truth.num_points, truth.left_out)
        except ValueError as error:
            raise DataError(
                f"scene {self.scene_id}, mask of query {name}",
                f"{truth.num_points} bool values, one for each point of the scan",
                str(error),
                "Run the stage that wrote it again.",
            ) from error

    def _ambiguous_label(self, row: AnswerRow, name: str) -> str:
        """Return the label of a colour query's target if the room has several of it, else ""."""
        if row.kind != COLOUR or row.target_count != "single":
            return ""
        labels = self._ground_truth.labels
        label = labels[self._ground_truth.object_ids.index(self._targets[name][0])]
        return label if labels.count(label) > 1 else ""

    def rows_of_pictures(self, teacher_2d: Teacher2D) -> Iterator[AnswerRow]:
        """Yield a row per query and picture that shows its target, any for an absent object.

        A picture shows the target if at least ``VISIBLE_SHARE`` of its cells do. Answers that
        failed are omitted, as in ``stages.evaluation.evaluate``. Raises DataError for an
        evaluation of the teacher on other queries.
        """
        if teacher_2d.prompt_ids != tuple(prompt.prompt_id for prompt in self.prompts):
            raise DataError(
                f"scene {self.scene_id}, evaluation of the teacher in 2D",
                "one answer for each of the scene's queries",
                "answers to other queries",
                "Run EvaluateTeacher2D again.",
            )
        is_shown = teacher_2d.covered / teacher_2d.cells >= VISIBLE_SHARE
        predicted = teacher_2d.intersection + teacher_2d.union - teacher_2d.covered
        for query, prompt in enumerate(self.prompts):
            absent = not self._targets[prompt.prompt_id]
            counted = (is_shown[:, query] | absent) & (teacher_2d.status[:, query] != FAILED)
            for view in np.flatnonzero(counted).tolist():
                counts = (
                    a[view, query] for a in (teacher_2d.intersection, teacher_2d.union, predicted)
                )
                intersection, union, cells = map(int, counts)
                yield self._row(prompt, intersection, union, cells, None)

    def _row(
        self, prompt: Prompt, intersection: int, union: int, predicted: int, score: float | None
    ) -> AnswerRow:
        wording_of = recognise_wording(prompt.text) if self._generated else None
        wording: Wording = (
            "" if wording_of is None else "held_out" if wording_of.held_out else "seen"
        )
        names_colour = (
            wording_of is not None and wording_of.kind == COLOR and prompt.task == REFERRING
        )
        targets = len(set(self._targets[prompt.prompt_id]))
        return AnswerRow(
            prompt.prompt_id,
            self.scene_id,
            COLOUR if names_colour else prompt.task,
            TARGET_COUNTS[min(targets, 2)],
            wording,
            intersection,
            union,
            _strict_iou(intersection, union),
            predicted,
            score,
        )


def _strict_iou(intersection: int, union: int) -> float:
    return float(metrics.strict_iou(metrics.Counts.of([(intersection, union)]))[0])


ARM_METRICS = ("miou", "acc25", "acc50")
HEADLINE = (REFERRING, COLOUR, IMPLICIT)

Chooses = Callable[[AnswerRow], bool]


@dataclass(frozen=True, eq=False)
class _Answers:
    """Q queries of one arm: ``totals`` (S, Q) float64 by metric, summed over a query's rows.

    S is the number of seeds. ``weights`` (Q,) counts the rows of a query: 1 for masks in 3D, the
    number of its pictures where pictures are scored.
    """

    totals: Mapping[str, Array]
    weights: Array


def headline_of(rows: Sequence[AnswerRow]) -> Chooses:
    """Return the condition of the headline: referring, colour and implicit queries with a target.

    Where no query has one of these tasks, the condition accepts all queries with a target.
    """
    named = any(row.kind in HEADLINE for row in rows)
    return lambda row: row.target_count != "zero" and (row.kind in HEADLINE or not named)


def describe_queries(rows: Sequence[AnswerRow], headline: Chooses) -> str:
    """Describe in words the queries of the headline, and their number."""
    count, total = len({r.prompt_id for r in rows if headline(r)}), len({r.prompt_id for r in rows})
    kinds = sorted({row.kind for row in rows if headline(row)})
    return f"{count} of {total} queries: those with a target that are {', '.join(kinds)}"


def arm_metrics(arm: ArmRows, headline: Chooses) -> dict[str, Any]:
    """Return an arm's entry under ``arms``: metrics with deviation and interval, cost, counts."""
    answers = _answers(arm, headline)
    return {
        "title": arm.title,
        **{name: _metric(answers.totals[name], answers.weights) for name in ARM_METRICS},
        "seconds": float(np.mean(arm.seconds)),
        "num_queries": len(answers.weights),
        "seeds": len(arm.rows),
    }


def queries_of(arms: Sequence[ArmRows]) -> tuple[AnswerRow, ...]:
    """Return the rows of one seed; ValueError where no arm has a row."""
    if not any(arm.rows[0] for arm in arms):
        raise ValueError("expected the answers of at least one arm to at least one query")
    in_3d = [arm for arm in arms if not arm.in_pictures]
    return (in_3d or arms)[0].rows[0]


def means(arm: ArmRows, chooses: Chooses) -> dict[str, Any]:
    """Average the metrics of the chosen queries over seeds, and count these queries.

    ``false_masks`` is the share of answers about absent objects that are a mask. Values are None
    where no query is chosen.
    """
    answers = _answers(arm, chooses)
    absent = [row for of_seed in arm.rows for row in of_seed if is_absent(row) and chooses(row)]
    num_false_masks = sum(row.predicted_points > 0 for row in absent)
    num_answers = answers.weights.sum()
    return {
        **{
            n: float(answers.totals[n].mean(0).sum() / num_answers) if num_answers else None
            for n in ARM_METRICS
        },
        "num_queries": len(answers.weights),
        "false_masks": num_false_masks / len(absent) if absent else None,
    }


def is_absent(row: AnswerRow) -> bool:
    """Tell whether the query is about an absent object."""
    return row.target_count == "zero"


def _answers(arm: ArmRows, chooses: Chooses) -> _Answers:
    """Sum the metrics per query, in the order of the first seed's rows."""
    chosen = [[row for row in of_seed if chooses(row)] for of_seed in arm.rows]
    order = {name: k for k, name in enumerate(dict.fromkeys(r.prompt_id for r in chosen[0]))}
    prompt_ids = [row.prompt_id for row in chosen[0]]
    if any([row.prompt_id for row in of_seed] != prompt_ids for of_seed in chosen):
        raise ValueError(f"arm {arm.name}: its seeds answered different queries")
    index = np.array([order[name] for name in prompt_ids], np.int64)
    totals: dict[str, list[Array]] = {name: [] for name in ARM_METRICS}
    for of_seed in chosen:
        counts = metrics.Counts(
            np.array([row.intersection for row in of_seed], np.int64),
            np.array([row.union for row in of_seed], np.int64),
        )
        for name, values in metrics.per_query(counts).items():
            totals[name].append(np.bincount(index, values.astype(np.float64), len(order)))
    weights = np.bincount(index, minlength=len(order))
    return _Answers({name: np.stack(of_seeds) for name, of_seeds in totals.items()}, weights)


def _metric(totals: Array, weights: Array) -> dict[str, Any]:
    """Return ``mean``, ``std`` over seeds (sample deviation) and ``ci95`` over queries."""
    if not weights.sum():
        return {"mean": None, "std": None, "ci95": [None, None]}
    by_seed = totals.sum(1) / weights.sum()
    return {
        "mean": float(by_seed.mean()),
        "std": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0,
        "ci95": list(bootstrap_interval(totals.mean(0), weights)),
    }


def bootstrap_interval(totals: Array, weights: Array) -> tuple[float, float]:
    """Return the 95 % percentile interval of sum(totals) / sum(weights), both (Q,), over queries.

    All arms of Q queries use the same bootstrap draws.
    """
    resamples = metrics.draws(len(totals))
    averages = totals[resamples].sum(1) / np.maximum(weights[resamples].sum(1), 1)
    return metrics.interval(averages)


FALSE_MASKS = 0.25
"""Share of queries about absent objects answered with a mask, at which arms are compared."""
_THRESHOLDS = 41


def run(arms: Sequence[ArmRows], system: str) -> dict[str, Any]:
    """Return the content of ``ablation.json``; ``system`` names the arm of the full system.

    Raises ValueError where seeds of an arm answered different queries, and for no query.
    """
    rows = queries_of(arms)
    headline = headline_of(rows)
    kinds = sorted({row.kind for arm in arms for row in arm.rows[0]})
    curve = [point for arm in arms for point in absent_curve(arm, headline)]
    content: dict[str, Any] = {
        "arms": {arm.name: arm_metrics(arm, headline) for arm in arms},
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
        "queries": describe_queries(rows, headline),
    }


def _by_arm(arms: Sequence[ArmRows], chooses: Chooses) -> dict[str, Any]:
    return {arm.name: means(arm, chooses) for arm in arms}


def _wordings(arms: Sequence[ArmRows], headline: Chooses) -> dict[str, Any]:
    """Average the headline's queries by whether their wording occurs in training rooms."""
    return {
        arm.name: {
            wording: means(arm, _worded(headline, wording)) for wording in ("seen", "held_out")
        }
        for arm in arms
    }


def _colour_words(arms: Sequence[ArmRows]) -> dict[str, Any]:
    """Compare colour queries with queries for the category alone, in rooms with several of it.

    An arm that ignores the colour scores the same on both. Arms of pictures are omitted.
    """
    by_arm = {}
    for arm in arms:
        rows = [row for of_seed in arm.rows for row in of_seed if row.plain_iou is not None]
        if rows:
            by_arm[arm.name] = {
                "with": float(np.mean([row.iou for row in rows])),
                "without": float(np.mean([row.plain_iou or 0.0 for row in rows])),
                "num_queries": len({row.prompt_id for row in rows}),
            }
    return by_arm


def _worded(headline: Chooses, wording: str) -> Chooses:
    return lambda row: headline(row) and row.wording == wording


def _of_kind(kind: str) -> Chooses:
    return lambda row: row.kind == kind


def absent_curve(arm: ArmRows, headline: Chooses) -> list[dict[str, Any]]:
    """Return mIoU and the share of false masks when answers below a score threshold are dropped.

    Thresholds are quantiles of the scores; values are means over seeds. The list is empty for an
    arm without scores, and without queries about absent objects.
    """
    rows = [row for of_seed in arm.rows for row in of_seed if is_absent(row) or headline(row)]
    score = np.array([np.nan if row.score is None else row.score for row in rows], np.float64)
    absent = np.array([is_absent(row) for row in rows], bool)
    if not absent.any() or absent.all() or np.isnan(score).any():
        return []
    has_mask = np.array([row.predicted_points > 0 for row in rows], bool)
    iou = np.array([row.iou for row in rows], np.float64)
    thresholds = np.unique(np.quantile(score, np.linspace(0, 1, _THRESHOLDS), method="lower"))
    return [
        {
            "arm": arm.name,
            "threshold": threshold,
            "false_masks": float((has_mask & (score >= threshold))[absent].mean()),
            "miou": float(np.where(score >= threshold, iou, 0)[~absent].mean()),
        }
        for threshold in thresholds.tolist()
    ]


def ratios(
    arms: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], system: str
) -> dict[str, float]:
    """Return ratios of metrics between arms, and the share of the gap to the upper bound closed."""
    pairs = [("system", "B", metric) for metric in ARM_METRICS]
    pairs += [("system", "B+", "miou"), ("C", "B", "miou"), ("D", "C", "miou"), ("E", "D", "miou")]
    pairs += [("F", "E", "miou"), ("G", "F", "miou")]
    by_name = {**arms, **({"system": arms[system]} if system in arms else {})}
    result = {}
    for first, second, metric in pairs:
        if first in by_name and second in by_name and by_name[second][metric]["mean"]:
            ratio = by_name[first][metric]["mean"] / by_name[second][metric]["mean"]
            result[f"{first}_over_{second}_{metric}"] = ratio
    if {"system", "B", "H"} <= set(by_name):
        system_miou, base, bound = (by_name[name]["miou"]["mean"] for name in ("system", "B", "H"))
        if None not in (system_miou, base, bound) and bound > base:
            result["closed_gap_miou"] = (system_miou - base) / (bound - base)
    with_few_false_masks = [
        p["miou"] for p in curve if p["arm"] == system and p["false_masks"] <= FALSE_MASKS
    ]
    if with_few_false_masks and "B" in by_name and by_name["B"]["miou"]["mean"]:
        result["system_at_25_false_masks_over_B_miou"] = (
            max(with_few_false_masks) / by_name["B"]["miou"]["mean"]
        )
    return result
