"""From the answers of one arm on one scene to rows of an ablation, by the house's one IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.artifacts.ablation import AnswerRow, Wording
from data.artifacts.evaluation import TARGET_COUNTS
from data.artifacts.judgement import Judgement
from data.artifacts.teacher import FAILED
from data.bank import bank_prompts
from data.errors import DataError
from data.rooms.view_queries import VISIBLE_SHARE
from data.rooms.wording_kinds import COLOR, how_put
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages import metrics
from stages.metrics import PointCount, count_points
from stages.targets import target_ids

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
        out, as in ``stages.teacher_metrics``. Raises DataError for a judgement of other queries.
        """
        if judgement.prompt_ids != tuple(prompt.prompt_id for prompt in self.prompts):
            raise DataError(
                f"scene {self.scene_id}, judgement of the teacher",
                "one answer for each of the scene's queries",
                "those of other queries",
                "Run JudgeTeacher again.",
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
