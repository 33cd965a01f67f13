"""Command export: write a scene set's answers for other programs."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.commands.command import Command, add_run_arguments

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from stages.report.exports import SceneAnswers


FORMATS = ("ply", "npz", "benchmark")


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add_run_arguments(parser)
    add("--format", required=True, choices=FORMATS)
    add("--output", required=True, type=Path, help="folder to write to; created when missing")
    add(
        "--scene",
        action="append",
        default=[],
        help="a scene; may be given several times (default: all of val)",
    )
    add(
        "--answers", choices=["student", "together"], default="together", help="source of the masks"
    )
    add("--classes", type=Path, help="benchmark: class list; label ids are line numbers from 0")
    add("--label-table", type=Path, help="benchmark: table with the names of class numbers")
    add("--masks", choices=["txt", "rle"], default="txt", help="benchmark: format of mask files")


def _export(options: Namespace) -> None:
    """Write every scene's answers; UserError, before any file is written, for missing ones."""
    from pipeline.plan import load_plan

    if options.format != "benchmark" and (options.classes or options.label_table):
        raise UserError(
            "--classes and --label-table: expected with --format benchmark only; leave them out"
        )
    if options.output.exists() and not options.output.is_dir():
        raise UserError(f"--output: {options.output} is a file; name a folder")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    scenes = tuple(dict.fromkeys(options.scene)) or plan.scenes("val")
    _check_complete(plan, scenes, options.scene_set)
    lines = [_export_scene(plan, scene, options) for scene in scenes]
    print("\n".join(lines))
    print(f"{options.output}: answers on {len(scenes)} scenes")


def _check_complete(plan: Plan, scenes: tuple[str, ...], scene_set: str) -> None:
    from data.artifacts.store import is_complete

    for scene in scenes:
        plan.split_of(scene)
    needed = [plan.key("find_rooms")] if plan.dataset.places else []
    keys = {scene: [plan.key("predict_masks", scene), *needed] for scene in scenes}
    missing = [scene for scene in scenes if not all(map(is_complete, keys[scene]))]
    if missing:
        shown = f"{', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}"
        raise UserError(
            f"{len(missing)} of {len(scenes)} scenes have no answers under this config ({shown}). "
            f"Run: luigi --module pipeline {'FindRooms' if needed else 'PredictMasks'} --scene-set "
            f"{scene_set}, with the same --config and --overrides"
        )


def _answers(plan: Plan, scene_id: str, source: str) -> SceneAnswers:
    from pipeline.steps.answers import Searches
    from pipeline.steps.questions import questions_of
    from stages.report.exports import SceneAnswers

    is_student = source == "student"
    questions = questions_of(plan)
    searches = questions.searches_in("val") if plan.split_of(scene_id) == "val" else []
    choices = plan.read("find_rooms", "rooms") if searches else {}
    search_prompts = Searches(searches, choices).found_in(scene_id, source)
    prompts = [*questions.of(scene_id), *search_prompts]
    prompt_ids = tuple(prompt.prompt_id for prompt in prompts)
    predictions = plan.read("predict_masks", "masks", scene_id).only(prompt_ids)
    return SceneAnswers(
        scene_id,
        prompt_ids,
        tuple(prompt.text for prompt in prompts),
        tuple(prompt.task for prompt in prompts),
        predictions.masks if is_student else predictions.together,
        predictions.presence(source),
    )


def _export_scene(plan: Plan, scene_id: str, options: Namespace) -> str:
    """Write one scene's files; returns a line about them."""
    from data.queries.classes import read_classes
    from stages.report import exports

    answers = _answers(plan, scene_id, options.answers)
    if options.format == "npz":
        return str(exports.write_npz(options.output, answers))
    if options.format == "ply":
        scene = plan.read("prepare_scene", "scene", scene_id)
        meshes = exports.write_meshes(options.output, answers, scene.cloud, scene.triangles)
        return f"{options.output / scene_id}: {len(meshes)} meshes"
    classes = read_classes(options.classes, options.label_table) if options.classes else None
    counts = exports.write_benchmark(options.output, answers, classes, options.masks)
    line = f"{options.output / scene_id}.txt: {counts.written} instances"
    if counts.empty:
        line += f", {counts.empty} answers empty"
    if counts.without_class:
        line += f", {counts.without_class} queries name no class"
    return line


EXPORT = Command("write answers as meshes, NumPy or benchmark files", _add_arguments, _export)
