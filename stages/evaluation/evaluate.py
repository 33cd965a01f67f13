"""Stage ``evaluate``: score masks in 3D, and the teacher's masks in 2D, against ground truth.

Three sources of masks are scored in 3D: the student ("student"), the lifted pseudo-labels that it
was trained on ("fusion_only"), and both together ("together"). Points that the dataset leaves out
of evaluation count neither in intersections nor in unions. The official metrics of the queries'
benchmark are computed, too, and so is what the scan itself allows
(``stages.evaluation.scan_quality``).

In 2D a pair is one query on one view. The target is *in view* if at least ``VISIBLE_SHARE`` of the
picture shows it, and *absent* if no cell shows it. Pairs in between and answers that failed are
not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, Evaluation, QueryRow, Score
from data.artifacts.soft_masks import StudentTrust
from data.artifacts.teacher import FAILED, MASK
from data.artifacts.teacher_2d import Teacher2D
from data.errors import DataError
from data.queries.prompts import target_ids
from data.rooms.teacher_questions import VISIBLE_SHARE
from data.types import Array, GroundTruth, Progress, Prompt, PromptTruth, silent
from stages.evaluation import benchmarks, metrics
from stages.evaluation.benchmarks import QuerySource
from stages.evaluation.calibration import summarise_certainty, summarise_trust
from stages.evaluation.metrics import BoxScan, auc
from stages.evaluation.scan_quality import (
    SceneQuality,
    SuperpointTruth,
    summarise_scans,
    summarise_snapped,
)


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of a query and a view, all arrays (P,).

    ``failed`` and ``masked`` bool: the teacher's answer failed, or has a mask. ``share`` float64:
    the share of the picture that shows the target. ``iou`` float64 of the mask, 0 without a mask
    or a target. ``predicted_iou`` float64: the IoU that the teacher predicts, 0 without a mask.
    """

    failed: Array
    masked: Array
    share: Array
    iou: Array
    predicted_iou: Array

    @classmethod
    def of_query(cls, teacher_2d: Teacher2D, query: int) -> Pairs:
        """Return the pairs of one query with all views of its scene."""
        status = teacher_2d.status[:, query]
        union = np.maximum(teacher_2d.union[:, query], 1)
        return cls(
            status == FAILED,
            status == MASK,
            teacher_2d.covered[:, query] / teacher_2d.cells,
            teacher_2d.intersection[:, query] / union,
            teacher_2d.predicted_iou[:, query].astype(np.float64),
        )

    @classmethod
    def joined(cls, parts: Iterable[Pairs]) -> Pairs:
        """Concatenate pairs."""
        empty = cls(*(np.zeros(0, bool),) * 2, *(np.zeros(0),) * 3)
        all_parts = [empty, *parts]
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in all_parts]) for f in fields(cls))
        )


def summarise_teacher(judged: Sequence[tuple[str, Pairs]]) -> dict[str, Any]:
    """Return ``teacher_2d`` of ``metrics.json`` from (task, pairs of one query)."""
    by_task: dict[str, list[Pairs]] = {}
    for task, pairs in judged:
        by_task.setdefault(task, []).append(pairs)
    return {
        **teacher_metrics(Pairs.joined(pairs for _, pairs in judged)),
        "by_task": {task: teacher_metrics(Pairs.joined(by_task[task])) for task in sorted(by_task)},
    }


def teacher_metrics(pairs: Pairs) -> dict[str, Any]:
    """Compute metrics of a group of pairs: counts, and fractions or None without pairs.

    ``mask_iou`` is the mean over pairs in view, a missing mask counted 0. ``presence`` is the mean
    of the rates of true positives (a mask, the target in view) and true negatives (no mask, the
    target absent). ``belief_auc`` is the probability that the predicted IoU is higher where the
    target is in view than where it is absent.
    """
    in_view = ~pairs.failed & (pairs.share >= VISIBLE_SHARE)
    absent = ~pairs.failed & (pairs.share == 0)
    hits, refusals = metrics.mean(pairs.masked[in_view]), metrics.mean(~pairs.masked[absent])
    presence = belief_auc = None
    if hits is not None and refusals is not None:
        is_counted = in_view | absent
        presence = (hits + refusals) / 2
        belief_auc = auc(pairs.predicted_iou[is_counted], in_view[is_counted])
    return {
        "pairs": len(pairs.share),
        "in_view": int(in_view.sum()),
        "absent": int(absent.sum()),
        "mask_iou": metrics.mean(pairs.iou[in_view]),
        "presence": presence,
        "true_positives": hits,
        "true_negatives": refusals,
        "belief_auc": belief_auc,
        "failed": int(pairs.failed.sum()),
    }


_FALSE_MASK_RATE = "false_mask_rate"
_NOTHING: Mapping[str, Array] = {}


@dataclass(frozen=True, eq=False)
class EvaluationScene:
    """One scene's queries, their truths and the masks to score.

    ``truths`` is by prompt id; ``masks`` by source, then by prompt id, each (N,) bool over the
    scan's original points. A missing mask scores as empty. ``teacher_2d`` is None where the teacher
    was not evaluated in 2D; ``scan`` may be None where the benchmark's convention scores no boxes.
    ``superpoints`` (N,) are the superpoints of the points, None where the scan is not judged.
    ``certainty`` are presence and quality of the answers, by source, then by prompt id; ``trust``
    is how far the student counts in the answers together, None without student or labels.
    """

    scene_id: str
    prompts: Sequence[Prompt]
    truths: Mapping[str, PromptTruth]
    ground_truth: GroundTruth
    masks: Mapping[str, Mapping[str, Array]]
    teacher_2d: Teacher2D | None = None
    scan: BoxScan | None = None
    superpoints: Array | None = None
    certainty: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)
    trust: StudentTrust | None = None

    @cached_property
    def superpoint_truth(self) -> SuperpointTruth | None:
        """The truth against the superpoints; None where the scan is not judged."""
        if self.superpoints is None:
            return None
        return SuperpointTruth(self.ground_truth, self.superpoints)

    @cached_property
    def snapped(self) -> GroundTruth | None:
        """The truth snapped to superpoints; None where the scan is not judged."""
        return self.superpoint_truth.snapped() if self.superpoint_truth else None


def run(
    scenes: Iterable[EvaluationScene],
    progress: Progress = silent,
    queries: QuerySource = QuerySource(),
    search_rows: Sequence[QueryRow] = (),
) -> Evaluation:
    """Score every query of every scene; scenes are taken one at a time.

    ``queries`` is the origin of the queries, which gives the convention of ``benchmark``.
    ``search_rows`` are the scored searches over several scenes
    (``stages.evaluation.hierarchical_search``). ``progress`` gets (scenes done, 0), because the
    number of scenes is unknown.

    Raises DataError for a query without truth, for a truth that names an object the scene does not
    have, for a mask of another length, for two queries with the same id, and for no query at all.
    """
    rows: list[QueryRow] = []
    judged: list[tuple[str, Pairs]] = []
    qualities: list[SceneQuality] = []
    trusts: dict[str, StudentTrust] = {}
    num_aligned = 0
    for done, scene in enumerate(scenes, start=1):
        rows.extend(_row(scene, prompt, queries) for prompt in scene.prompts)
        judged.extend(_judged(scene))
        qualities.extend(_quality(scene))
        trusts |= {} if scene.trust is None else {scene.scene_id: scene.trust}
        num_aligned += scene.scan is not None and scene.scan.is_aligned and bool(scene.prompts)
        progress(done, 0)
    rows.extend(search_rows)
    _refuse_unusable(rows)
    sections = {
        "snapped": summarise_snapped(rows),
        "scan": summarise_scans(qualities),
        "benchmark": benchmarks.summarise(rows, queries, num_aligned),
        "certainty": {source: summarise_certainty(rows, source) for source in SOURCES},
        "trust": summarise_trust(trusts),
    }
    return Evaluation(tuple(rows), {**summarise(rows, judged), **sections})


def summarise(rows: Sequence[QueryRow], judged: Sequence[tuple[str, Pairs]]) -> dict[str, Any]:
    """Return the content of ``metrics.json``: metrics of the student, each source, the teacher.

    All metrics but counts are fractions in [0, 1]; None for a group without a query.
    """
    by_source = {source: _source_summary(rows, source) for source in SOURCES}
    shared = {key: value for key, value in by_source["student"].items() if key != "num_missing"}
    return {**shared, **by_source, "teacher_2d": summarise_teacher(judged)}


def _source_summary(rows: Sequence[QueryRow], source: str) -> dict[str, Any]:
    counts = metrics.counts_of(rows, source)
    tasks = sorted({row.task for row in rows})
    by_target = {
        target: metrics.headline(
            metrics.counts_of([r for r in rows if r.target_count == target], source)
        )
        for target in TARGET_COUNTS
    }
    absent = [row.scores[source] for row in rows if row.target_count == "zero"]
    false_masks = sum(score.predicted_points > 0 for score in absent)
    by_target["zero"][_FALSE_MASK_RATE] = false_masks / len(absent) if absent else None
    return {
        **metrics.headline(counts),
        "conventions": metrics.conventions(counts),
        "by_task": {
            task: metrics.headline(metrics.counts_of([r for r in rows if r.task == task], source))
            for task in tasks
        },
        "by_target_count": by_target,
        "num_missing": sum(row.scores[source].missing for row in rows),
    }


def _row(scene: EvaluationScene, prompt: Prompt, queries: QuerySource) -> QueryRow:
    truth = scene.ground_truth
    object_ids = target_ids(scene.scene_id, prompt, scene.truths, truth)
    targets = truth.counted_points(object_ids)
    # Each mask is looked up once: the lookup may read it from a file.
    masks = {source: scene.masks.get(source, _NOTHING).get(prompt.prompt_id) for source in SOURCES}
    snapped: dict[str, Score] = {}
    if scene.snapped is not None:
        snapped_targets = scene.snapped.counted_points(object_ids)
        snapped = _scores(scene, prompt.prompt_id, masks, snapped_targets)
    return QueryRow(
        prompt.prompt_id,
        scene.scene_id,
        prompt.text,
        prompt.task,
        TARGET_COUNTS[min(len(set(object_ids)), 2)],
        len(targets),
        _with_certainty(scene, prompt.prompt_id, _scores(scene, prompt.prompt_id, masks, targets)),
        benchmarks.group_of(queries, truth, object_ids),
        _official(scene, masks, queries, object_ids),
        snapped=snapped,
    )


def _with_certainty(
    scene: EvaluationScene, prompt_id: str, scores: Mapping[str, Score]
) -> dict[str, Score]:
    """Add presence and quality to a query's scores, where its sources tell them."""
    found = {source: scene.certainty.get(source, {}).get(prompt_id) for source in scores}
    return {
        source: replace(score, presence=sure[0], quality=sure[1]) if sure else score
        for (source, score), sure in zip(scores.items(), found.values(), strict=True)
    }


def _quality(scene: EvaluationScene) -> Iterator[SceneQuality]:
    """Yield the quality of the scan, where it is judged."""
    truth = scene.ground_truth
    if scene.superpoint_truth is not None:
        asked = (target_ids(scene.scene_id, p, scene.truths, truth) for p in scene.prompts)
        targets = [truth.counted_points(object_ids) for object_ids in asked]
        yield scene.superpoint_truth.quality(scene.scene_id, targets)


def _official(
    scene: EvaluationScene,
    masks: Mapping[str, Array | None],
    queries: QuerySource,
    object_ids: Sequence[int],
) -> dict[str, dict[str, float]]:
    """Compute the scores of a query's boxes for its benchmark; a missing mask is empty."""
    if not queries.convention.boxes:
        return {}
    empty = np.zeros(scene.ground_truth.num_points, bool)
    masks_or_empty = {source: empty if mask is None else mask for source, mask in masks.items()}
    return benchmarks.box_scores(
        queries, scene.scan, scene.ground_truth, object_ids, masks_or_empty
    )


def _scores(
    scene: EvaluationScene, prompt_id: str, masks: Mapping[str, Array | None], targets: Array
) -> dict[str, Score]:
    """Score one query's masks by source; a missing mask is empty."""
    counted = [_count(scene, source, prompt_id, mask, targets) for source, mask in masks.items()]
    ious = metrics.strict_iou(metrics.Counts.of((c.intersection, c.union) for c in counted))
    return {
        source: Score(count.intersection, count.union, float(iou), count.predicted, mask is None)
        for (source, mask), count, iou in zip(masks.items(), counted, ious, strict=True)
    }


def _count(
    scene: EvaluationScene, source: str, prompt_id: str, mask: Array | None, targets: Array
) -> metrics.PointCount:
    if mask is None:
        return metrics.PointCount(0, len(targets), 0)
    truth = scene.ground_truth
    try:
        return metrics.count_points(mask, targets, truth.num_points, truth.left_out)
    except ValueError as error:
        raise DataError(
            f"scene {scene.scene_id}, {source} mask of query {prompt_id}",
            f"{truth.num_points} bool values, one for each point of the scan",
            str(error),
            "Run the stage that wrote it again.",
        ) from error


def _judged(scene: EvaluationScene) -> list[tuple[str, Pairs]]:
    """Return (task, pairs) of each query of a scene whose teacher was evaluated in 2D."""
    if scene.teacher_2d is None:
        return []
    if scene.teacher_2d.prompt_ids != tuple(prompt.prompt_id for prompt in scene.prompts):
        raise DataError(
            f"scene {scene.scene_id}, evaluation of the teacher in 2D",
            "one answer for each of the scene's queries",
            "answers to other queries",
            "Run EvaluateTeacher2D again.",
        )
    teacher_2d = scene.teacher_2d
    return [(prompt.task, Pairs.of_query(teacher_2d, k)) for k, prompt in enumerate(scene.prompts)]


def _refuse_unusable(rows: Sequence[QueryRow]) -> None:
    if not rows:
        raise DataError(
            "validation queries",
            "at least one query",
            "none",
            "Add queries about the scenes of the validation split.",
        )
    ids_seen: set[str] = set()
    for row in rows:
        if row.prompt_id in ids_seen:
            raise DataError(
                f"scene {row.scene_id}, query {row.prompt_id}",
                "each query id once",
                "the id twice",
                "Give each query a different id and list each scene once.",
            )
        ids_seen.add(row.prompt_id)
