"""Stage ``evaluate``: the student's masks in 3D and the teacher's in 2D against ground truth.

A pair is one query queries on one view. The target counts as *in view* from ``VISIBLE_SHARE`` of
the picture on, as *absent* when not a cell of it shows; in between nothing is counted, and
neither is an answer that failed.

Points that the dataset leaves out of evaluation count neither in intersections nor in unions.

Masks of three sources are scored alike: the student's, as ``fusion_only`` those of the lifted
pseudo-labels it was taught with, and of both together. Beside them stand the 2D teacher in 2D, and
the official teacher_metrics of the benchmark that the queries belong to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, Evaluation, QueryRow, Score
from data.artifacts.teacher import FAILED, MASK
from data.artifacts.teacher_2d import Judgement
from data.errors import DataError
from data.queries.prompts import target_ids
from data.rooms.teacher_questions import VISIBLE_SHARE
from data.types import Array, GroundTruth, Progress, Prompt, PromptTruth, silent
from stages.evaluation import benchmarks, metrics
from stages.evaluation.benchmarks import QuerySource
from stages.evaluation.metrics import BoxScan, auc


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs, all arrays (P,).

    ``failed`` and ``masked`` bool: what came of the question; ``share`` float64 of the picture
    that shows the target; ``iou`` float64 of the mask, 0 without one or without a target;
    ``belief`` float64, the predicted IoU, 0 without a mask.
    """

    failed: Array
    masked: Array
    share: Array
    iou: Array
    belief: Array

    @classmethod
    def of_query(cls, judgement: Judgement, query: int) -> Pairs:
        """One query of a scene on all its views."""
        status = judgement.status[:, query]
        union = np.maximum(judgement.union[:, query], 1)
        return cls(
            status == FAILED,
            status == MASK,
            judgement.covered[:, query] / judgement.cells,
            judgement.intersection[:, query] / union,
            judgement.predicted_iou[:, query].astype(np.float64),
        )

    @classmethod
    def joined(cls, parts: Iterable[Pairs]) -> Pairs:
        """All pairs of the parts, one after the other."""
        nothing = cls(*(np.zeros(0, bool),) * 2, *(np.zeros(0),) * 3)
        every = [nothing, *parts]
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in every]) for f in fields(cls))
        )


def summarise_teacher(judged: Sequence[tuple[str, Pairs]]) -> dict[str, Any]:
    """``teacher_2d`` of ``metrics.json``, from (task, pairs of one query): teacher_metrics, ``by_task``."""
    by_task: dict[str, list[Pairs]] = {}
    for task, pairs in judged:
        by_task.setdefault(task, []).append(pairs)
    return {
        **teacher_metrics(Pairs.joined(pairs for _, pairs in judged)),
        "by_task": {task: teacher_metrics(Pairs.joined(by_task[task])) for task in sorted(by_task)},
    }


def teacher_metrics(pairs: Pairs) -> dict[str, Any]:
    """Figures of a group, all but the counts as fractions; None where nothing tells.

    ``mask_iou`` is the mean over what is in view, a missing mask counted 0; ``presence`` the
    mean of the rates of true positives (a mask, the target in view) and true negatives (no
    mask, the target absent); ``belief_auc`` the chance that the predicted IoU is higher where
    the target is in view than where it is absent.
    """
    in_view = ~pairs.failed & (pairs.share >= VISIBLE_SHARE)
    absent = ~pairs.failed & (pairs.share == 0)
    hits, refusals = metrics.mean(pairs.masked[in_view]), metrics.mean(~pairs.masked[absent])
    presence = belief_auc = None
    if hits is not None and refusals is not None:
        known = in_view | absent
        presence = (hits + refusals) / 2
        belief_auc = auc(pairs.belief[known], in_view[known])
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
    """One scene's queries, their truth and the masks to score.

    ``truths`` is by prompt id; ``masks`` by source ("student", "fusion_only"), then by prompt
    id, each (N,) bool over the scan's original points. A mask that is not there scores as
    empty. ``judgement`` is None where the teacher was not judged; ``scan`` may be None where the
    benchmark's convention scores no boxes.
    """

    scene_id: str
    prompts: Sequence[Prompt]
    truths: Mapping[str, PromptTruth]
    ground_truth: GroundTruth
    masks: Mapping[str, Mapping[str, Array]]
    judgement: Judgement | None = None
    scan: BoxScan | None = None


def run(
    scenes: Iterable[EvaluationScene],
    progress: Progress = silent,
    queries: QuerySource = QuerySource(),
    search_rows: Sequence[QueryRow] = (),
) -> Evaluation:
    """Score every query of every scene; scenes are taken one at a time.

    ``search_rows`` are searches over several scenes, scored already
    (``stages.evaluation.hierarchical_search``). ``queries`` says whose queries they are, and so by
    which convention ``benchmark`` is scored.

    Raises DataError for a query without truth, for a truth that names an object the scene does
    not have, for a mask of another scan's length, for a query queries twice, and when there is
    no query at all. ``progress`` gets (scenes done, 0): the number of scenes is not known.
    """
    rows: list[QueryRow] = []
    judged: list[tuple[str, Pairs]] = []
    num_aligned = 0
    for done, scene in enumerate(scenes, start=1):
        rows.extend(_row(scene, prompt, queries) for prompt in scene.prompts)
        judged.extend(_judged(scene))
        num_aligned += scene.scan is not None and scene.scan.is_aligned and bool(scene.prompts)
        progress(done, 0)
    rows.extend(search_rows)
    _refuse_unusable(rows)
    benchmark = {"benchmark": benchmarks.summarise(rows, queries, num_aligned)}
    return Evaluation(tuple(rows), {**summarise(rows, judged), **benchmark})


def summarise(rows: Sequence[QueryRow], judged: Sequence[tuple[str, Pairs]]) -> dict[str, Any]:
    """The content of ``metrics.json``: the student's teacher_metrics, each source's, the teacher's.

    All teacher_metrics but counts are fractions in [0, 1]; None stands where a group has no query.
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
    # Each mask is queries for once: it may be read from a file only now.
    masks = {source: scene.masks.get(source, _NOTHING).get(prompt.prompt_id) for source in SOURCES}
    return QueryRow(
        prompt.prompt_id,
        scene.scene_id,
        prompt.text,
        prompt.task,
        TARGET_COUNTS[min(len(set(object_ids)), 2)],
        len(targets),
        _scores(scene, prompt.prompt_id, masks, targets),
        benchmarks.group_of(queries, truth, object_ids),
        _official(scene, masks, queries, object_ids),
    )


def _official(
    scene: EvaluationScene,
    masks: Mapping[str, Array | None],
    queries: QuerySource,
    object_ids: Sequence[int],
) -> dict[str, dict[str, float]]:
    """What the benchmark's convention needs of a query's boxes; a missing mask has none."""
    if not queries.convention.boxes:
        return {}
    empty = np.zeros(scene.ground_truth.num_points, bool)
    drawn = {source: empty if mask is None else mask for source, mask in masks.items()}
    return benchmarks.box_scores(queries, scene.scan, scene.ground_truth, object_ids, drawn)


def _scores(
    scene: EvaluationScene, prompt_id: str, masks: Mapping[str, Array | None], targets: Array
) -> dict[str, Score]:
    """By source the score of one query's mask; a missing one is empty."""
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
    """(task, pairs) of each query of a scene whose teacher was judged."""
    if scene.judgement is None:
        return []
    if scene.judgement.prompt_ids != tuple(prompt.prompt_id for prompt in scene.prompts):
        raise DataError(
            f"scene {scene.scene_id}, judgement of the teacher",
            "one answer for each of the scene's queries",
            "those of other queries",
            "Run EvaluateTeacher2D again.",
        )
    judgement = scene.judgement
    return [(prompt.task, Pairs.of_query(judgement, k)) for k, prompt in enumerate(scene.prompts)]


def _refuse_unusable(rows: Sequence[QueryRow]) -> None:
    if not rows:
        raise DataError(
            "validation queries",
            "at least one query",
            "none",
            "Add queries about the scenes of the validation split.",
        )
    seen: set[str] = set()
    for row in rows:
        if row.prompt_id in seen:
            raise DataError(
                f"scene {row.scene_id}, query {row.prompt_id}",
                "every query once",
                "it twice",
                "Give each query an id of its own and each scene once.",
            )
        seen.add(row.prompt_id)
