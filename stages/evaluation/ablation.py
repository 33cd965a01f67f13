"""Stage ``ablation``: score each arm of the ablation query by query, and compare arms.

Figures are the strict convention's. A query's are averaged over an arm's seeds first; the
interval then says how far the mean would move with other queries, the deviation how far it
moves with the seed.

The headline is over referring, colour and implicit queries that have a target; spatial,
several-target and absent ones have rows of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.artifacts.evaluation import TARGET_COUNTS, AnswerRow, ArmRows, Wording
from data.artifacts.teacher import FAILED
from data.artifacts.teacher_2d import Judgement
from data.errors import DataError
from data.queries.prompts import bank_prompts, target_ids
from data.rooms.teacher_questions import VISIBLE_SHARE
from data.rooms.wordings import COLOR, how_put
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages.evaluation import metrics
from stages.evaluation.metrics import PointCount, count_points

REFERRING, COLOUR, IMPLICIT = "referring", "colour", "implicit"


class SceneQueries:
    """One scene's queries with their truth; ``truths`` is by prompt id.

    ``generated`` tells a generated room, of whose queries the wording is known; ``bank`` holds the
    categories that are asked for besides. Raises DataError
    for a query without truth and for a truth that names an object the scene does not have.
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
        """A row per query of (N,) bool masks by prompt id; a mask that is not there is empty.

        Raises DataError for a mask of another scan's length or type.
        """
        for prompt in self.prompts:
            name = prompt.prompt_id
            truth = self._ground_truth.counted_points(self._targets[name])
            row = self._row(prompt, *self._count(masks, name, truth), scores.get(name, 0.0))
            category = self._of_category.get(self._kind_told_by_colour(row, name), "")
            if category in masks:
                intersection, union, _ = self._count(masks, category, truth)
                row = replace(row, plain_iou=_strict_iou(intersection, union))
            yield row

    def _count(self, masks: Mapping[str, Array], name: str, truth_ids: Array) -> PointCount:
        """Points of intersection, union and mask, of those that count in evaluation."""
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

    def _kind_told_by_colour(self, row: AnswerRow, name: str) -> str:
        """The label of a colour query's target where the room has another of it, else ""."""
        if row.kind != COLOUR or row.target_count != "single":
            return ""
        labels = self._ground_truth.labels
        label = labels[self._ground_truth.object_ids.index(self._targets[name][0])]
        return label if labels.count(label) > 1 else ""

    def rows_of_pictures(self, judgement: Judgement) -> Iterator[AnswerRow]:
        """A row per query and picture that shows its target, or any picture for an absent one.

        A picture shows the target from ``VISIBLE_SHARE`` of it on; answers that failed are left
        out, as in ``stages.evaluation.evaluate``. Raises DataError for a judgement of other
        queries.
        """
        if judgement.prompt_ids != tuple(prompt.prompt_id for prompt in self.prompts):
            raise DataError(
                f"scene {self.scene_id}, judgement of the teacher",
                "one answer for each of the scene's queries",
                "those of other queries",
                "Run EvaluateTeacher2D again.",
            )
        shown = judgement.covered / judgement.cells >= VISIBLE_SHARE
        drawn = judgement.intersection + judgement.union - judgement.covered
        for query, prompt in enumerate(self.prompts):
            absent = not self._targets[prompt.prompt_id]
            counted = (shown[:, query] | absent) & (judgement.status[:, query] != FAILED)
            for view in np.flatnonzero(counted).tolist():
                counts = (a[view, query] for a in (judgement.intersection, judgement.union, drawn))
                intersection, union, cells = map(int, counts)
                yield self._row(prompt, intersection, union, cells, None)

    def _row(
        self, prompt: Prompt, intersection: int, union: int, drawn: int, score: float | None
    ) -> AnswerRow:
        put = how_put(prompt.text) if self._generated else None
        wording: Wording = "" if put is None else "held_out" if put.held_out else "seen"
        names_colour = put is not None and put.kind == COLOR and prompt.task == REFERRING
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
            drawn,
            score,
        )


def _strict_iou(intersection: int, union: int) -> float:
    return float(metrics.strict_iou(metrics.Counts.of([(intersection, union)]))[0])


ARM_METRICS = ("miou", "acc25", "acc50")
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


def describe_queries(rows: Sequence[AnswerRow], headline: Chooses) -> str:
    """Which queries, and how many, in words."""
    count, every = len({r.prompt_id for r in rows if headline(r)}), len({r.prompt_id for r in rows})
    kinds = sorted({row.kind for row in rows if headline(row)})
    return f"{count} of {every} queries: those with a target that are {', '.join(kinds)}"


def arm_metrics(arm: ArmRows, headline: Chooses) -> dict[str, Any]:
    """An arm's entry under ``arms``: figures with deviation and interval, cost and counts."""
    answers = _answers(arm, headline)
    return {
        "title": arm.title,
        **{name: _metric(answers.totals[name], answers.weights) for name in ARM_METRICS},
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
        **{
            n: float(answers.totals[n].mean(0).sum() / asked) if asked else None
            for n in ARM_METRICS
        },
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
    drawn = metrics.draws(len(totals))
    averages = totals[drawn].sum(1) / np.maximum(weights[drawn].sum(1), 1)
    return metrics.interval(averages)


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
    pairs = [("system", "B", figure) for figure in ARM_METRICS]
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
