"""Scoring of ablation arms and error curves, scene by scene.

This module reads ground truth to score masks, as the step ``evaluate`` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.store import ArtifactKey, read_metadata, writing
from data.types import Split
from pipeline.plan import Plan
from pipeline.process import progress
from pipeline.steps import STEPS
from pipeline.steps.questions import questions_of
from pipeline.steps.report import report_inputs
from pipeline.steps.step_inputs import StepInputs
from pipeline.tasks.arms import SYSTEM, Arm, ArmRun

if TYPE_CHECKING:
    from data.artifacts.evaluation import AnswerRow, ArmRows
    from stages.evaluation.ablation import SceneQueries

RunPlans = Sequence[tuple[ArmRun, Plan]]


def leaf_key(arm: Arm, plan: Plan, scene_id: str) -> ArtifactKey:
    """Key of the artifact whose masks are scored for a scene; ``plan`` has the arm's overrides."""
    return plan.key(arm.step, scene_id)


def own_keys(arm: Arm, plan: Plan, split: Split) -> list[ArtifactKey]:
    """Artifacts whose time is an arm's cost: fusion, and for a student training and prediction.

    A student queried by text needs the text student, but no fusion of the scenes it is asked about.
    For the teacher in 2D it is the teacher's cache, which all other arms use as well.
    """
    scenes = plan.scenes(split)
    if arm.scored == "teacher_2d":
        return [plan.key("run_teacher", name) for name in scenes]
    fusion = [plan.key("fuse_masks", name) for name in scenes]
    if not arm.is_trained:
        return fusion
    query_keys = [plan.text()] if plan.experiment.predict.tokens == "text" else fusion
    steps = ["fuse_masks", "oracle_labels" if plan.learns_truth else "fuse_masks"]
    steps += ["lift_features"] if plan.learns_features else []
    training_keys = [plan.key(step, name) for step in steps for name in plan.scenes("train")]
    predictions = [plan.key("predict_masks", name) for name in scenes]
    keys = [*query_keys, *training_keys, plan.student(), *predictions]
    return list({key.folder: key for key in keys}.values())


def _seconds(keys: Sequence[ArtifactKey]) -> float:
    contents = (read_metadata(key.folder) for key in keys)
    return float(sum(content["wall_seconds"] for content in contents if content))


def _rows(arm: Arm, plan: Plan, queries: SceneQueries) -> list[AnswerRow]:
    """Rows of one arm's answers on one scene."""
    from stages.certainty import answer_certainty, label_features

    name = queries.scene_id
    if arm.scored == "teacher_2d":
        return list(queries.rows_of_pictures(plan.read(arm.step, "teacher_2d", name)))
    if arm.scored == "labels":
        labels = plan.read(arm.step, "labels", name)
        prompt_ids, masks = labels.prompt_ids, labels.answers()
        cfg = plan.experiment.predict.certainty
        scores = answer_certainty(label_features(labels), cfg, "labels")[0]
    else:
        predictions = plan.read(arm.step, "masks", name)
        prompt_ids, scores = predictions.prompt_ids, predictions.presence(arm.scored)
        masks = predictions.masks if arm.scored == "student" else predictions.together
    by_id = dict(zip(prompt_ids, masks, strict=True))
    return list(queries.rows_of_masks(by_id, dict(zip(prompt_ids, scores.tolist(), strict=True))))


def arm_rows(plan: Plan, run_plans: RunPlans, split: Split, title: str) -> list[ArmRows]:
    """Rows of all runs, arm by arm in the given order; each scene's ground truth is read once."""
    from data.artifacts.evaluation import ArmRows
    from stages.evaluation.ablation import SceneQueries

    truths, questions = plan.read("prepare_prompts", "truths"), questions_of(plan)
    show = progress.reporter(title, alone=True)
    rows: list[list[AnswerRow]] = [[] for _ in run_plans]
    scenes = plan.scenes(split)
    for done, scene in enumerate(scenes):
        truth = plan.read("prepare_scene", "truth", scene)
        prompts = questions.of(scene)
        bank = plan.experiment.prompts.bank
        queries = SceneQueries(scene, prompts, truths, truth, plan.scene_set.generated, bank)
        for (run, run_plan), rows_of_run in zip(run_plans, rows, strict=True):
            rows_of_run.extend(_rows(run.arm, run_plan, queries))
        show(done + 1, len(scenes))
    rows_of_arms: list[ArmRows] = []
    for arm in dict.fromkeys(run.arm.name for run, _ in run_plans):
        run_indices = [index for index, (run, _) in enumerate(run_plans) if run.arm.name == arm]
        of_arm = run_plans[run_indices[0]][0].arm
        seconds = [_seconds(own_keys(of_arm, run_plans[index][1], split)) for index in run_indices]
        answers = tuple(tuple(rows[index]) for index in run_indices)
        in_pictures = of_arm.scored == "teacher_2d"
        rows_of_arms.append(ArmRows(arm, of_arm.title, answers, tuple(seconds), in_pictures))
    return rows_of_arms


def measure(key: ArtifactKey, plan: Plan, run_plans: RunPlans, split: Split) -> None:
    """Write the ablation's metrics, rows and chart."""
    from data.artifacts.evaluation import write_ablation
    from stages.evaluation import ablation as stage
    from stages.report.charts import arm_bars, drawn

    with writing(key) as folder:
        if folder is not None:
            rows = arm_rows(plan, run_plans, split, "Ablation")
            figures = {**stage.run(rows, SYSTEM), "split": split}
            title = "mIoU of each arm in percent, with 95 % intervals over queries"
            write_ablation(folder, figures, rows, drawn(arm_bars(figures["arms"], "miou", title)))


def report(key: ArtifactKey, plan: Plan, ablation: Path, device: str) -> None:
    """Write the report with a section on the ablation."""
    from data.artifacts.evaluation import read_ablation, write_report
    from stages.report import report as stage

    with writing(key) as folder:
        if folder is not None:
            inputs = report_inputs(StepInputs(plan, STEPS["report"], None, device))
            with_ablation = replace(inputs, ablation=read_ablation(ablation))
            show = progress.reporter("AblationReport", alone=True)
            write_report(folder, stage.run(with_ablation, plan.experiment.report, show))


def error_curves(
    key: ArtifactKey, plan: Plan, settings: Mapping[str, Mapping[float, RunPlans]]
) -> None:
    """Write mIoU against the rate of each error; ``settings`` holds the runs by error and rate."""
    from data.artifacts.evaluation import write_error_curves
    from stages.report import error_curves as stage

    with writing(key) as folder:
        if folder is None:
            return
        figures_by_overrides: dict[tuple[str, ...], dict[str, Any]] = {}
        curves: dict[str, dict[float, dict[str, Any]]] = {}
        for error, by_rate in settings.items():
            for rate, run_plans in by_rate.items():
                overrides = tuple(run.overrides for run, _ in run_plans)
                if overrides not in figures_by_overrides:
                    rows = arm_rows(plan, run_plans, "val", f"ErrorCurves {error} {rate:g}")
                    figures_by_overrides[overrides] = stage.setting_metrics(rows)
                curves.setdefault(error, {})[rate] = figures_by_overrides[overrides]
        content = stage.run(curves)
        write_error_curves(folder, content, stage.chart(content))
