"""Steps from masks to answers: words, the room that a search finds, and metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import TypeAdapter

from pipeline.scene_sets import Dataset
from pipeline.steps.declaration import Input, Part, Preload, Step, declare
from pipeline.steps.questions import Questions, question_inputs, read_questions
from pipeline.steps.scans import has_places
from pipeline.steps.step_inputs import StepInputs

if TYPE_CHECKING:
    from data.artifacts.answers import AnswerInWords, RoomChoice
    from data.artifacts.soft_masks import Predictions, PseudoLabels
    from data.queries.hierarchical_search import Search
    from data.types import Array, GroundTruth, Prompt, Scene
    from pipeline.plan import Plan
    from stages.evaluation.benchmarks import QuerySource
    from stages.evaluation.evaluate import EvaluationScene
    from stages.evaluation.hierarchical_search import SearchedRoom, SearchResult
    from stages.evaluation.metrics import BoxScan

Masks = dict[str, dict[str, "Array"]]
"""(N,) masks of one scene by source ("student", "fusion_only", "together") and prompt id."""


def has_truth(plan: Plan) -> bool:
    """Whether the scene set has ground truth."""
    return plan.scene_set.has_truth


def masks_by_source(student: Predictions, labels: PseudoLabels) -> Masks:
    """Masks of one scene: the student's, the lifted labels', and both combined."""
    lifted = labels.answers()
    return {
        "student": dict(zip(student.prompt_ids, student.masks, strict=True)),
        "fusion_only": dict(zip(labels.prompt_ids, lifted, strict=True)),
        "together": dict(zip(student.prompt_ids, student.together, strict=True)),
    }


def certainty_by_source(predictions: Predictions) -> dict[str, dict[str, tuple[float, float]]]:
    """Presence and quality of the answers of one scene, by source that tells them and prompt id."""
    from data.artifacts.evaluation import SOURCES

    found: dict[str, dict[str, tuple[float, float]]] = {}
    for source in SOURCES:
        presences = predictions.presence(source).tolist()
        sure = zip(presences, predictions.quality(source).tolist(), strict=True)
        pairs = zip(predictions.prompt_ids, sure, strict=True)
        found[source] = {name: pair for name, pair in pairs if not math.isnan(pair[0])}
    return found


def read_masks(inputs: StepInputs, scene: str) -> Masks:
    """``masks_by_source`` for a step's inputs "masks" and "labels"."""
    return masks_by_source(inputs.read("masks", scene=scene), inputs.read("labels", scene=scene))


def make_teacher_metrics(inputs: StepInputs, folder: Path) -> None:
    """Compare the teacher's masks of one scene with ground truth, in 2D."""
    from data.artifacts.teacher_2d import write_teacher_2d
    from stages.teacher import evaluate_teacher_2d as stage

    teacher_2d = stage.run(
        inputs.read("scene", "scene"),
        inputs.read("scene", "truth"),
        read_questions(inputs).of(inputs.scene),
        inputs.read("prompts", "truths"),
        inputs.read("teacher"),
        inputs.config,
        inputs.progress(),
    )
    write_teacher_2d(folder, teacher_2d)


def make_answers(inputs: StepInputs, folder: Path) -> None:
    """Write the teacher's answer in words to each query of one scene."""
    from data.artifacts.answers import write_answers
    from stages.evaluation import answer_questions as stage

    prompts = read_questions(inputs).of(inputs.scene)
    artifacts = inputs.read("teacher"), inputs.read("labels"), inputs.read("masks")
    write_answers(folder, stage.run(prompts, *artifacts))


def make_room_choices(inputs: StepInputs, folder: Path) -> None:
    """Choose a room for every search of the validation places."""
    from data.artifacts.answers import write_rooms
    from stages.evaluation import hierarchical_search as stage

    scores = {name: _scores(inputs, name) for name in inputs.scenes("masks")}
    write_rooms(folder, stage.run_find_rooms(read_questions(inputs).searches_in("val"), scores))


def _scores(inputs: StepInputs, scene: str) -> dict[str, dict[str, float]]:
    """Presence of each prompt's object in a scene, by source and prompt id.

    That of the labels is their largest value: asked by words, a student does not read them.
    """
    predictions, labels = inputs.read("masks", scene=scene), inputs.read("labels", scene=scene)
    peaks = labels.soft.max(axis=1, initial=0).tolist()
    student, together = (
        dict(zip(predictions.prompt_ids, predictions.presence(source).tolist(), strict=True))
        for source in ("student", "together")
    )
    fusion_only = dict(zip(labels.prompt_ids, peaks, strict=True))
    return {"student": student, "fusion_only": fusion_only, "together": together}


@dataclass(frozen=True)
class Searches:
    """Searches in the validation places, and the room chosen for each."""

    searches: Sequence[Search]
    choices: Mapping[tuple[str, str], RoomChoice]

    @classmethod
    def read(cls, inputs: StepInputs, questions: Questions) -> Searches:
        """Those of a step's inputs "prompts" and "rooms"; none for a set without places."""
        searches = questions.searches_in("val") if inputs.has("rooms") else []
        return cls(searches, inputs.read("rooms") if searches else {})

    def found_in(self, scene_id: str, source: str) -> list[Prompt]:
        """Searches for which a source chose a scene, as prompts of that scene.

        The prompts have the ids of the scene's own prompts and the full sentences.
        """
        from data.queries.hierarchical_search import SEARCH_TASK
        from data.types import Prompt

        return [
            Prompt(search.prompt_id(scene_id), scene_id, search.text, SEARCH_TASK)
            for search in self.searches
            if self.choices[search.search_id, source].room == scene_id
        ]

    def shown(
        self,
        scene_id: str,
        masks: Mapping[str, Mapping[str, Array]],
        truth: GroundTruth,
        truths: Mapping[str, Any],
    ) -> Shown:
        """Masks and ground truth to draw for the searches whose target lies in a scene."""
        masks_by_source: dict[str, dict[str, Array]] = {source: {} for source in masks}
        true_masks: dict[str, Array] = {}
        for search in self.searches:
            if truths[search.search_id].scene_id != scene_id:
                continue
            true_masks[search.search_id] = truth.mask(truths[search.search_id].object_ids)
            for source in masks:
                if self.choices[search.search_id, source].room in ("", scene_id):
                    mask = masks[source].get(search.prompt_id(scene_id))
                    if mask is not None:
                        masks_by_source[source][search.search_id] = mask
        return Shown(masks_by_source, true_masks)


class Shown(NamedTuple):
    """Masks of each source, and true masks, of one scene by search id."""

    masks: Mapping[str, Mapping[str, Array]]
    truths: Mapping[str, Array]


def search_result(inputs: StepInputs, searches: Searches) -> SearchResult | None:
    """Scores of all searches in the validation places; None where there are none."""
    from stages.evaluation import hierarchical_search as stage

    if not searches.searches:
        return None
    truths = inputs.read("prompts", "truths")
    return stage.run_search_rows(
        searches.searches, truths, searches.choices, _searched_rooms(inputs)
    )


def _searched_rooms(inputs: StepInputs) -> Iterator[SearchedRoom]:
    from stages.evaluation.hierarchical_search import SearchedRoom
    from stages.evaluation.scan_quality import SuperpointTruth

    for name in inputs.scenes("masks"):
        truth, scene = inputs.read("scene", "truth", name), inputs.read("scene", "scene", name)
        snapped = SuperpointTruth(truth, scene.superpoint_ids).snapped()
        yield SearchedRoom(name, truth, read_masks(inputs, name), snapped)


def evaluation_scenes(inputs: StepInputs, questions: Questions) -> Iterator[EvaluationScene]:
    """Answers and ground truth of each validation scene, one scene at a time."""
    from stages.evaluation.evaluate import EvaluationScene

    truths = inputs.read("prompts", "truths")
    for name in inputs.scenes("masks"):
        truth = inputs.read("scene", "truth", name)
        teacher_2d = inputs.read("teacher_2d", scene=name)
        predictions = inputs.read("masks", scene=name)
        masks = masks_by_source(predictions, inputs.read("labels", scene=name))
        scene = EvaluationScene(name, questions.of(name), truths, truth, masks, teacher_2d)
        sure = certainty_by_source(predictions)
        yield replace(scene, certainty=sure, trust=predictions.trust)


def asked_by(dataset: Dataset) -> QuerySource:
    """Whose queries a data set asks, which decides by which benchmark's rule they are scored."""
    from stages.evaluation.benchmarks import QuerySource

    return TypeAdapter(QuerySource).validate_python(dataset.scene_set.asked)


def with_scans(inputs: StepInputs, scenes: Iterator[EvaluationScene]) -> Iterator[EvaluationScene]:
    """The scenes with their superpoints, and with their points where boxes are scored.

    Reads one scene at a time. Raises DataError for a damaged ``axisAlignment``.
    """
    needs_boxes = bool(asked_by(inputs.dataset).convention.boxes)
    for item in scenes:
        scene = inputs.read("scene", "scene", item.scene_id)
        scan = _box_scan(inputs, scene) if needs_boxes else None
        yield replace(item, scan=scan, superpoints=scene.superpoint_ids)


def _box_scan(inputs: StepInputs, scene: Scene) -> BoxScan:
    from stages.evaluation.metrics import BoxScan

    alignment = None
    if inputs.dataset.scene_set.asked["dataset"] == "scannet":
        from data.readers.scannet import read_axis_alignment

        alignment = read_axis_alignment(inputs.dataset.root, scene.scene_id)
    return BoxScan.make(scene.cloud.points, scene.triangles, alignment)


def make_metrics(inputs: StepInputs, folder: Path) -> None:
    """Write the metrics of the validation split."""
    from data.artifacts.evaluation import Evaluation, write_evaluation
    from stages.evaluation import answer_questions
    from stages.evaluation import evaluate as stage

    questions = read_questions(inputs)
    searched = search_result(inputs, Searches.read(inputs, questions))
    scenes = with_scans(inputs, evaluation_scenes(inputs, questions))
    more = searched.rows if searched else ()
    evaluation = stage.run(scenes, queries=asked_by(inputs.dataset), search_rows=more)
    truths = inputs.read("prompts", "truths")
    answered = answer_questions.run_scores(evaluation.rows, _answers(inputs), truths)
    sections = {
        **({"search": searched.metrics} if searched else {}),
        **({"qa": answered.metrics} if answered.metrics else {}),
    }
    write_evaluation(folder, Evaluation(answered.rows, {**evaluation.summary, **sections}))


def _answers(inputs: StepInputs) -> dict[str, AnswerInWords]:
    """Answers in words for all validation scenes, by prompt id."""
    answers = (inputs.read("answers", scene=name) for name in inputs.scenes("answers"))
    return {prompt_id: answer for of_scene in answers for prompt_id, answer in of_scene.items()}


ANSWER_QUESTIONS = declare(
    Step(
        name="answer_questions",
        version=2,
        summary="One answer in words for each query, from the teacher's answers in all views.",
        make="pipeline.steps.answers:make_answers",
        also=("prompts",),
        scenes="val",
        inputs=(
            Input("teacher", "run_teacher", ("masks",)),
            Input("labels", "fuse_masks", ("labels",)),
            Input("masks", "predict_masks", ("masks",)),
            *question_inputs(),
        ),
        parts={"answers": Part("data.artifacts.answers:read_answers")},
        preload=Preload(("stages.evaluation.answer_questions", "data.artifacts.answers")),
    )
)
FIND_ROOMS = declare(
    Step(
        name="find_rooms",
        version=1,
        summary="The room of its place that each search finds.",
        make="pipeline.steps.answers:make_room_choices",
        also=("prompts",),
        inputs=(
            *question_inputs(),
            Input("masks", "predict_masks", ("masks",), "val"),
            Input("labels", "fuse_masks", ("labels",), "val"),
        ),
        parts={"rooms": Part("data.artifacts.answers:read_rooms")},
        exists=has_places,
    )
)
EVALUATE_TEACHER_2D = declare(
    Step(
        name="evaluate_teacher_2d",
        former=("judge_teacher",),
        version=3,
        summary="The teacher's masks against ground truth on the images.",
        make="pipeline.steps.answers:make_teacher_metrics",
        section="judge",
        also=("prompts",),
        scenes="val",
        inputs=(
            Input("scene", "prepare_scene", ("scene", "truth")),
            Input("teacher", "run_teacher", ("masks",)),
            *question_inputs("", "truths"),
        ),
        parts={
            "teacher_2d": Part("data.artifacts.teacher_2d:read_teacher_2d", has_labels=True),
        },
        labels="evaluation",
        needs_truth=True,
        preload=Preload(("stages.teacher.evaluate_teacher_2d", "data.artifacts.teacher_2d")),
    )
)
EVALUATE = declare(
    Step(
        name="evaluate",
        version=8,
        summary="Metrics of student, lifted labels and teacher over the validation split.",
        make="pipeline.steps.answers:make_metrics",
        config=lambda plan: plan.scene_set.asked,
        also=("prompts",),
        inputs=(
            *question_inputs("", "truths"),
            Input("masks", "predict_masks", ("masks",), "val"),
            Input("teacher_2d", "evaluate_teacher_2d", ("teacher_2d",), "val"),
            Input("answers", "answer_questions", ("answers",), "val"),
            Input("labels", "fuse_masks", ("labels",), "val", "answers"),
            Input("scene", "prepare_scene", ("scene", "truth"), "val", "teacher_2d"),
            Input("rooms", "find_rooms", ("rooms",), "set"),
        ),
        parts={"evaluation": Part("data.artifacts.evaluation:read_evaluation", has_labels=True)},
        labels="evaluation",
        needs_truth=True,
        preload=Preload(("stages.evaluation.evaluate", "stages.evaluation.answer_questions")),
    )
)
