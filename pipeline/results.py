"""Jobs of evaluation and report: where answers and labels meet, scene by scene."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data.artifacts.store import read_metadata
from pipeline import progress
from pipeline.benchmark_scans import asked_by, with_scans
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Array, Prompt
    from stages.evaluate import EvaluationScene
    from stages.report_inputs import (
        AnsweredScene,
        ReportInputs,
        ReportScene,
        RunRecord,
        StageRecord,
    )


def prompts_of(plan: Plan, scene_id: str) -> list[Prompt]:
    """Queries of one scene, without any label."""
    from data.artifacts.prompts import read_prompts

    prompts = read_prompts(plan.prompts().folder)[plan.split_of(scene_id)]
    return [prompt for prompt in prompts if prompt.scene_id == scene_id]


def asked_of(plan: Plan, scene_id: str) -> list[Prompt]:
    """All that the teacher is asked of one scene: its queries, then the bank's categories."""
    from data.bank import bank_prompts

    return prompts_of(plan, scene_id) + bank_prompts(plan.experiment.prompts.bank, scene_id)


def _masks(plan: Plan, scene_id: str) -> dict[str, dict[str, Array]]:
    """Masks of one scene by source and prompt id: the student's, its labels', both together."""
    from data.artifacts.predictions import read_predictions
    from data.artifacts.pseudo import read_pseudo

    student, labels = (
        read_predictions(plan.predict(scene_id).folder),
        read_pseudo(plan.fuse(scene_id).folder),
    )
    lifted = labels.answers()
    return {
        "student": dict(zip(student.prompt_ids, student.masks, strict=True)),
        "fusion_only": dict(zip(labels.prompt_ids, lifted, strict=True)),
        "together": dict(zip(student.prompt_ids, student.together, strict=True)),
    }


def judge_teacher(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The teacher's masks of one scene against ground truth, in 2D."""
    from data.artifacts.judgement import write_judgement
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth, read_scene
    from data.artifacts.teacher import read_teacher
    from stages import judge_teacher as stage

    if scene_id is None:
        raise ValueError("this stage works on one scene")
    source = plan.prepare(scene_id).folder
    judgement = stage.run(
        read_scene(source),
        read_ground_truth(source),
        prompts_of(plan, scene_id),
        read_truths(plan.prompts().folder),
        read_teacher(plan.teacher(scene_id).folder),
        plan.experiment.judge,
        progress.reporter(f"JudgeTeacher {scene_id}"),
    )
    write_judgement(folder, judgement)


def _evaluation_scenes(plan: Plan) -> Iterator[EvaluationScene]:
    from data.artifacts.judgement import read_judgement
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth
    from stages.evaluate import EvaluationScene

    truths = read_truths(plan.prompts().folder)
    for name in plan.scenes("val"):
        prompts = prompts_of(plan, name)
        truth = read_ground_truth(plan.prepare(name).folder)
        judgement = read_judgement(plan.judge(name).folder)
        yield EvaluationScene(name, prompts, truths, truth, _masks(plan, name), judgement)


def evaluate(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Metrics over the validation split."""
    from data.artifacts.evaluation import write_evaluation
    from stages import evaluate as stage

    scenes = with_scans(plan, _evaluation_scenes(plan))
    write_evaluation(folder, stage.run(scenes, asked=asked_by(plan)))


def _report_scenes(plan: Plan) -> Iterator[ReportScene]:
    from data.artifacts.scene import read_scene
    from stages.report_inputs import ReportScene

    for item in _evaluation_scenes(plan):
        scene = read_scene(plan.prepare(item.scene_id).folder)
        targets = {p.prompt_id: item.truths[p.prompt_id].object_ids for p in item.prompts}
        truths = {name: item.ground_truth.mask(ids) for name, ids in targets.items()}
        yield ReportScene(scene, item.masks, truths)


def _stage_records(plan: Plan) -> list[StageRecord]:
    """What each stage of this run cost, from the metadata of its artifacts.

    Rooms and queries are made for the whole set; of later stages a run needs no tuning scene.
    """
    from stages.report_inputs import StageRecord

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
        "train_student": [plan.student()],
        "predict_masks": [plan.predict(name) for name in val],
    }
    if plan.scene_set.has_truth:
        keys |= {"judge_teacher": [plan.judge(name) for name in val], "evaluate": [plan.evaluate()]}
    records = []
    for stage, of_stage in keys.items():
        contents = [content for key in of_stage if (content := read_metadata(key.folder))]
        if contents:
            seconds = sum(content["wall_seconds"] for content in contents)
            memory = max(content["peak_memory_mb"] for content in contents)
            digest = contents[0]["fingerprint"] if len(contents) == 1 else ""
            records.append(StageRecord(stage, digest, seconds, memory, len(contents)))
    return records


def _record(plan: Plan) -> RunRecord:
    from data.artifacts.student import read_log
    from stages.report_inputs import RunRecord

    return RunRecord(
        plan.scene_set.title,
        plan.experiment.teacher.name,
        plan.experiment,
        _stage_records(plan),
        read_log(plan.student().folder),
    )


def report_inputs(plan: Plan) -> ReportInputs:
    """What the page shows of one experiment."""
    from data.artifacts.evaluation import read_evaluation
    from stages.report_inputs import ReportInputs

    evaluation = read_evaluation(plan.evaluate().folder)
    return ReportInputs(evaluation, lambda: _report_scenes(plan), _record(plan))


def _answered_scenes(plan: Plan) -> Iterator[AnsweredScene]:
    from data.artifacts.predictions import read_predictions
    from data.artifacts.scene import read_scene
    from stages.report_inputs import AnsweredScene

    for name in plan.scenes("val"):
        found = read_predictions(plan.predict(name).folder)
        scores = dict(zip(found.prompt_ids, found.score("together").tolist(), strict=True))
        scene = read_scene(plan.prepare(name).folder)
        yield AnsweredScene(scene, prompts_of(plan, name), _masks(plan, name), scores)


def report(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """``report.html``, the overview picture, and ``metrics.json`` or else ``answers.json``."""
    from data.artifacts.report import write_report
    from stages import answers_report
    from stages import report as stage

    show, cfg = progress.reporter("Report", alone=True), plan.experiment.report
    if plan.scene_set.has_truth:
        write_report(folder, stage.run(report_inputs(plan), cfg, show))
        return
    scenes = partial(_answered_scenes, plan)
    write_report(folder, answers_report.run(scenes, _record(plan), cfg, show))
