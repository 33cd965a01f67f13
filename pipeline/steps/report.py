"""The step that writes the report page, and the inputs of the page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.steps.answers import Searches, evaluation_scenes, has_truth, read_masks
from pipeline.steps.declaration import Input, Preload, Step, declare
from pipeline.steps.learning import answering_student, has_student
from pipeline.steps.questions import Questions, question_inputs, read_questions
from pipeline.steps.step_inputs import StepInputs

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from stages.report.inputs import (
        AnsweredScene,
        ReportInputs,
        ReportScene,
        RunRecord,
        StageRecord,
    )


def has_no_truth(plan: Plan) -> bool:
    """Whether the scene set has no ground truth, so that nothing is measured."""
    return not has_truth(plan)


def make_report(inputs: StepInputs, folder: Path) -> None:
    """Write ``report.html``, its overview picture, and ``metrics.json`` or ``answers.json``."""
    from data.artifacts.evaluation import write_report
    from stages.report import report as stage

    show, cfg = inputs.progress(alone=True), inputs.config
    if inputs.has("evaluation"):
        write_report(folder, stage.run(report_inputs(inputs), cfg, show))
        return
    scenes = partial(_answered_scenes, inputs, read_questions(inputs))
    write_report(folder, stage.run_answers(scenes, _record(inputs), cfg, show))


def report_inputs(inputs: StepInputs) -> ReportInputs:
    """Inputs of the report page of one experiment."""
    from stages.report.inputs import ReportInputs

    scenes = partial(_report_scenes, inputs, read_questions(inputs))
    return ReportInputs(inputs.read("evaluation"), scenes, _record(inputs))


def _report_scenes(inputs: StepInputs, questions: Questions) -> Iterator[ReportScene]:
    from stages.report.inputs import ReportScene

    searches = Searches.read(inputs, questions)
    for item in evaluation_scenes(inputs, questions):
        name = item.scene_id
        scene = inputs.read("scene", "scene", name)
        targets = {p.prompt_id: item.truths[p.prompt_id].object_ids for p in item.prompts}
        truths = {prompt: item.ground_truth.mask(ids) for prompt, ids in targets.items()}
        searched = searches.shown(name, item.masks, item.ground_truth, item.truths)
        masks = {source: {**item.masks[source], **searched.masks[source]} for source in item.masks}
        views, labels = inputs.read("teacher", scene=name), inputs.read("labels", scene=name)
        yield ReportScene(scene, masks, {**truths, **searched.truths}, views, labels)


def _answered_scenes(inputs: StepInputs, questions: Questions) -> Iterator[AnsweredScene]:
    from stages.report.inputs import AnsweredScene
    from stages.teacher.identity import words_met

    met = words_met(inputs.section("teacher"))
    for name in inputs.scenes("masks"):
        predictions = inputs.read("masks", scene=name)
        presences, qualities = (
            of("together").tolist() for of in (predictions.presence, predictions.quality)
        )
        sure = dict(zip(predictions.prompt_ids, zip(presences, qualities), strict=True))
        bank = {prompt.prompt_id: category for prompt, category in questions.bank_of(name)}
        answers = inputs.read("answers", scene=name)
        texts = {key: answer.answer for key, answer in answers.items()}
        views, labels = inputs.read("teacher", scene=name), inputs.read("labels", scene=name)
        scene, masks = inputs.read("scene", "scene", name), read_masks(inputs, name)
        prompts = questions.of(name)
        given = (scene, prompts, masks, sure, texts, views, labels, bank, met)
        yield AnsweredScene(*given, trust=predictions.trust)


def _record(inputs: StepInputs) -> RunRecord:
    from stages.report.inputs import RunRecord

    return RunRecord(
        inputs.dataset.scene_set.title,
        inputs.section("teacher").name,
        inputs.experiment,
        _stage_records(inputs),
        inputs.read("student", "log") if inputs.has("student") else (),
        inputs.has("student") and inputs.config_of("student").get("supervision") == "oracle",
        inputs.has("student"),
        inputs.teacher_warning,
    )


def _stage_records(inputs: StepInputs) -> list[StageRecord]:
    """Time and memory of each step of this run, from its artifacts' metadata."""
    from stages.report.inputs import StageRecord

    records = []
    for step, contents in inputs.costs().items():
        if step.in_report:
            seconds = sum(content["wall_seconds"] for content in contents)
            memory = max(content["peak_memory_mb"] for content in contents)
            digest = contents[0]["fingerprint"] if len(contents) == 1 else ""
            records.append(StageRecord(step.stage_folder, digest, seconds, memory, len(contents)))
    return records


def _val(name: str, step: str, *parts: str) -> Input:
    """An input of all validation scenes whose content the evaluation's fingerprint covers."""
    return Input(name, step, parts, "val", "evaluation", when=has_truth)


def _val_without_truth(name: str, step: str, part: str, known_by: str) -> Input:
    return Input(name, step, (part,), "val", known_by, when=has_no_truth)


REPORT = declare(
    Step(
        name="report",
        version=6,
        summary="report.html with metrics.json, or with answers.json where there is no truth.",
        make="pipeline.steps.report:make_report",
        section="report",
        also=("*", "prompts", "teacher"),
        inputs=(
            Input("evaluation", "evaluate", ("evaluation",), "set", when=has_truth),
            _val("masks", "predict_masks", "masks"),
            _val("answers", "answer_questions", "answers"),
            _val("scene", "prepare_scene", "scene", "truth"),
            _val("teacher", "run_teacher", "masks"),
            _val("labels", "fuse_masks", "labels"),
            _val("teacher_2d", "evaluate_teacher_2d", "teacher_2d"),
            *question_inputs("evaluation", "truths", when=has_truth),
            Input("rooms", "find_rooms", ("rooms",), "set", "evaluation", when=has_truth),
            Input(
                "student",
                "train_student",
                ("log",),
                "set",
                "masks",
                when=has_student,
                origin=answering_student,
            ),
            _val_without_truth("masks", "predict_masks", "masks", ""),
            _val_without_truth("answers", "answer_questions", "answers", ""),
            *question_inputs(when=has_no_truth),
            _val_without_truth("scene", "prepare_scene", "scene", "masks"),
            _val_without_truth("teacher", "run_teacher", "masks", "answers"),
            _val_without_truth("labels", "fuse_masks", "labels", "answers"),
        ),
        labels="evaluation",
        preload=Preload(
            ("stages.report.report",),
            calls=("stages.report.html:load_templates", "stages.report.page:published_tables"),
        ),
    )
)
