"""Jobs of evaluation and report: where answers and labels meet, scene by scene."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.artifacts.store import ArtifactKey, read_metadata
from pipeline import process, progress, search_jobs
from pipeline.benchmark_scans import asked_by, with_scans
from pipeline.plan import Plan
from pipeline.scene_data import masks_of, prompts_of

if TYPE_CHECKING:
    from data.artifacts.answers import Said
    from stages.evaluation.evaluate import EvaluationScene
    from stages.report.inputs import (
        AnsweredScene,
        ReportInputs,
        ReportScene,
        RunRecord,
        StageRecord,
    )


def judge_teacher(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The teacher's masks of one scene against ground truth, in 2D."""
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth, read_scene
    from data.artifacts.teacher import read_teacher
    from data.artifacts.teacher_2d import write_judgement
    from stages.teacher import evaluate_teacher_2d as stage

    if scene_id is None:
        raise ValueError("this stage works on one scene")
    source = plan.prepare(scene_id).folder
    judgement = stage.run(
        read_scene(source),
        read_ground_truth(source),
        prompts_of(plan, scene_id),
        read_truths(plan.prompts().folder),
        read_teacher(plan.teacher(scene_id).place),
        plan.experiment.judge,
        progress.reporter(f"JudgeTeacher {scene_id}"),
    )
    write_judgement(folder, judgement)


def answer_questions(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """What the teacher says of one scene's queries, in words."""
    from data.artifacts.answers import write_said
    from data.artifacts.soft_masks import read_predictions, read_pseudo
    from data.artifacts.teacher import read_teacher
    from stages.evaluation import answer_questions as stage

    name = process.one_scene(scene_id)
    prompts, cache = prompts_of(plan, name), read_teacher(plan.teacher(name).place)
    labels, found = read_pseudo(plan.fuse(name).folder), read_predictions(plan.predict(name).folder)
    write_said(folder, stage.run(prompts, cache, labels, found))


def _evaluation_scenes(plan: Plan) -> Iterator[EvaluationScene]:
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth
    from data.artifacts.teacher_2d import read_judgement
    from stages.evaluation.evaluate import EvaluationScene

    truths = read_truths(plan.prompts().folder)
    for name in plan.scenes("val"):
        prompts = prompts_of(plan, name)
        truth = read_ground_truth(plan.prepare(name).folder)
        judgement = read_judgement(plan.judge(name).folder)
        yield EvaluationScene(name, prompts, truths, truth, masks_of(plan, name), judgement)


def evaluate(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Metrics over the validation split."""
    from data.artifacts.evaluation import Evaluation, write_evaluation
    from data.artifacts.prompts import read_truths
    from stages.evaluation import answer_questions as question_figures
    from stages.evaluation import evaluate as stage

    truths = read_truths(plan.prompts().folder)
    searched = search_jobs.search_result(plan)
    scenes, more = with_scans(plan, _evaluation_scenes(plan)), searched.rows if searched else ()
    evaluation = stage.run(scenes, asked=asked_by(plan), search_rows=more)
    answered = question_figures.run_scores(evaluation.rows, _said(plan), truths)
    sections = {
        **({"search": searched.figures} if searched else {}),
        **({"qa": answered.figures} if answered.figures else {}),
    }
    write_evaluation(folder, Evaluation(answered.rows, {**evaluation.summary, **sections}))


def _said(plan: Plan) -> dict[str, Said]:
    """Answers in words of all validation scenes, by prompt id."""
    from data.artifacts.answers import read_said

    answers = (read_said(plan.said(name).folder) for name in plan.scenes("val"))
    return {prompt_id: said for of_scene in answers for prompt_id, said in of_scene.items()}


def _report_scenes(plan: Plan) -> Iterator[ReportScene]:
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import read_pseudo
    from data.artifacts.teacher import read_teacher
    from stages.report.inputs import ReportScene

    for item in _evaluation_scenes(plan):
        scene = read_scene(plan.prepare(item.scene_id).folder, plan.root)
        targets = {p.prompt_id: item.truths[p.prompt_id].object_ids for p in item.prompts}
        truths = {name: item.ground_truth.mask(ids) for name, ids in targets.items()}
        found = search_jobs.shown(plan, item.scene_id, item.masks, item.ground_truth)
        masks = {source: {**item.masks[source], **found.masks[source]} for source in item.masks}
        views = read_teacher(plan.teacher(item.scene_id).place)
        labels = read_pseudo(plan.fuse(item.scene_id).folder)
        yield ReportScene(scene, masks, {**truths, **found.truths}, views, labels)


def _stage_records(plan: Plan) -> list[StageRecord]:
    """What each stage of this run cost, from the metadata of its artifacts.

    Rooms and queries are made for the whole set; of later stages a run needs no tuning scene.
    """
    from stages.report.inputs import StageRecord

    every, val = plan.scenes("train", "val"), plan.scenes("val")
    rooms = plan.scenes() if plan.scene_set.generated else ()
    keys = {
        "generate_rooms": [plan.room(name) for name in rooms],
        "prepare_scene": [plan.prepare(name) for name in every],
        "prepare_prompts": [plan.prompts()],
        "link_points": [plan.link(name) for name in every],
        "run_teacher": [plan.teacher(name) for name in every],
        "fuse_masks": [plan.fuse(name) for name in every],
        "lift_features": [plan.features(s) for s in plan.scenes("train") if plan.learns_features],
        "oracle_labels": [plan.labels(s) for s in plan.scenes("train") if plan.learns_truth],
        **_training(plan),
        "distil_text": [plan.text()] if plan.experiment.predict.tokens == "text" else [],
        "predict_masks": [plan.predict(name) for name in val],
        "answer_questions": [plan.said(name) for name in val],
        "find_rooms": [plan.rooms_found()] if plan.places else [],
    }
    if plan.scene_set.has_truth:
        keys |= {"judge_teacher": [plan.judge(name) for name in val], "evaluate": [plan.evaluate()]}
    records = []
    for stage, of_stage in keys.items():
        contents = [content for key in of_stage if (content := read_metadata(key.place))]
        if contents:
            seconds = sum(content["wall_seconds"] for content in contents)
            memory = max(content["peak_memory_mb"] for content in contents)
            digest = contents[0]["fingerprint"] if len(contents) == 1 else ""
            records.append(StageRecord(stage, digest, seconds, memory, len(contents)))
    return records


def _training(plan: Plan) -> dict[str, list[ArtifactKey]]:
    """By stage: the student that answers, and the one that it started from."""
    student, source = plan.student(), plan.source
    started = {source.key.stage: [source.key]} if source is not None else {}
    return {**started, student.stage: [student]}


def _record(plan: Plan) -> RunRecord:
    from data.artifacts.student import read_log
    from stages.report.inputs import RunRecord

    return RunRecord(
        plan.scene_set.title,
        plan.experiment.teacher.name,
        plan.experiment,
        _stage_records(plan),
        read_log(plan.student().folder),
        plan.student().config.get("supervision") == "oracle",
    )


def report_inputs(plan: Plan) -> ReportInputs:
    """What the page shows of one experiment."""
    from data.artifacts.evaluation import read_evaluation
    from stages.report.inputs import ReportInputs

    evaluation = read_evaluation(plan.evaluate().folder)
    return ReportInputs(evaluation, lambda: _report_scenes(plan), _record(plan))


def _answered_scenes(plan: Plan) -> Iterator[AnsweredScene]:
    from data.artifacts.answers import read_said
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import read_predictions, read_pseudo
    from data.artifacts.teacher import read_teacher
    from stages.report.inputs import AnsweredScene

    for name in plan.scenes("val"):
        found = read_predictions(plan.predict(name).folder)
        scores = dict(zip(found.prompt_ids, found.score("together").tolist(), strict=True))
        scene = read_scene(plan.prepare(name).folder, plan.root)
        said = {key: one.answer for key, one in read_said(plan.said(name).folder).items()}
        masks, views = masks_of(plan, name), read_teacher(plan.teacher(name).place)
        labels = read_pseudo(plan.fuse(name).folder)
        yield AnsweredScene(scene, prompts_of(plan, name), masks, scores, said, views, labels)


def report(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """``report.html``, the overview picture, and ``metrics.json`` or else ``answers.json``."""
    from data.artifacts.evaluation import write_report
    from stages.report import report as answers_report
    from stages.report import report as stage

    show, cfg = progress.reporter("Report", alone=True), plan.experiment.report
    if plan.scene_set.has_truth:
        write_report(folder, stage.run(report_inputs(plan), cfg, show))
        return
    scenes = partial(_answered_scenes, plan)
    write_report(folder, answers_report.run_answers(scenes, _record(plan), cfg, show))
