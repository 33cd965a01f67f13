"""Command query: ask sentences about one scan; the student answers."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Scene
    from stages.student.ask_student import SentenceAnswer, StudentEngine


_OUT = "queries"
_MOST_NAMES, _NAME_WORDS = 200, 3


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("query", nargs="+", help="a sentence, such as: where can I sit?")
    add_run_arguments(parser)
    add("--scene", required=True, help="id of the scene to ask about, of any split")
    add("--out", type=Path, default=Path(_OUT), help=f"folder to write to (default: {_OUT})")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device for tensors")


def _query(options: Namespace) -> None:
    """Answer the sentences, print the answers, and write a mesh and a picture of each."""
    from data.queries.prompts import check_sentence
    from pipeline.plan import load_plan

    texts = list(dict.fromkeys(options.query))
    for text in texts:
        check_sentence(text)
    if options.out.exists() and not options.out.is_dir():
        raise UserError(f"--out: {options.out} is a file; name a folder")
    plan = load_plan(options.scene_set, options.config, options.overrides)
    check_scene(plan, options.scene)
    check_student(plan)

    from pipeline.process.process import limit_threads, num_cores, resolved

    limit_threads(num_cores())
    if plan.teacher_warning:
        print(f"warning: {plan.teacher_warning}", file=sys.stderr)
    engine = make_engine(plan, resolved(options.device))
    answers = engine.ask(options.scene, texts)
    _write(options.out, engine.prepare(options.scene), answers)


def _write(out: Path, scene: Scene, answers: list[SentenceAnswer]) -> None:
    """Print each answer and write ``<out>/<scene>/<words>-<hash>.ply`` and ``.png``."""
    from stages.report.exports import write_bytes, write_meshes
    from stages.student.ask_student import exported, in_one_line, picture_of, render_scan

    content = exported(scene.scene_id, answers)
    meshes = write_meshes(out, content, scene.cloud, scene.triangles)
    rendered = render_scan(scene)
    for answer, mesh in zip(answers, meshes, strict=True):
        print(f"{in_one_line(answer.text)}\n  {_answer_text(answer)}")
        for line in answer.reasons:
            print(f"  {line}")
        written = [mesh]
        if rendered is not None:
            written.append(mesh.with_suffix(".png"))
            write_bytes(written[-1], picture_of(rendered, answer))
        print("  " + ", ".join(map(str, written)))


def _answer_text(answer: SentenceAnswer) -> str:
    from data.queries.vocabulary import why_nothing
    from stages.student.ask_student import in_percent

    centre, size = answer.box
    why = why_nothing(answer.unmet, answer.holds)
    more = f"; {why}" if why else ""
    if centre is None or size is None:
        return f"nothing fits (presence {100 * answer.presence:.0f} %){more}"
    at, sides = (", ".join(f"{v:.2f}" for v in centre), " x ".join(f"{v:.2f}" for v in size))
    return (
        f"{in_percent(answer)}; {answer.num_points} of {len(answer.mask)} points, "
        f"size {sides} m, centre ({at}) m{more}"
    )


QUERY = Command("ask sentences about a scan; the student alone answers", _add_arguments, _query)


SAME_OPTIONS = "with the same --config and --overrides"


def prepared_scenes(plan: Plan) -> tuple[str, ...]:
    """Prepared scenes of the set, validation first; UserError where there is none."""
    from data.artifacts.store import is_complete

    scene_ids = tuple(dict.fromkeys((*plan.scenes("val"), *plan.scenes())))
    prepared = tuple(scene for scene in scene_ids if is_complete(plan.key("prepare_scene", scene)))
    if not prepared:
        raise UserError(
            f"none of the {len(scene_ids)} scenes of {plan.scene_set.name} is prepared under this "
            f"config in {plan.output}. Run: luigi --module pipeline RunAll --scene-set "
            f"{plan.scene_set.name}, {SAME_OPTIONS}"
        )
    return prepared


def check_scene(plan: Plan, scene_id: str) -> None:
    """Raise UserError for a scene that the set does not have or that is not prepared."""
    from data.artifacts.store import is_complete

    plan.split_of(scene_id)
    if not is_complete(plan.key("prepare_scene", scene_id)):
        raise UserError(
            f"--scene: {scene_id} is not prepared under this config. Run: luigi --module pipeline "
            f"PrepareScene --scene-set {plan.scene_set.name} --scene {scene_id}, {SAME_OPTIONS}"
        )


def check_student(plan: Plan) -> None:
    """Raise UserError unless the run has a student and a text student."""
    from data.artifacts.store import is_complete
    from pipeline.steps import STEPS

    if not plan.has_student:
        count, least = len(plan.scenes("train")), plan.experiment.student.least_scenes
        raise UserError(
            f"this run has no student that could answer new sentences: {count} training scenes, "
            f"and student.least_scenes is {least}. Add the sentences to the queries and run RunAll "
            "again, or train one nevertheless: --overrides student.least_scenes=1"
        )
    training_task = STEPS[plan.student().stage].task_name
    keys = {training_task: plan.student(), "DistilText": plan.text()}
    missing = [task for task, key in keys.items() if not is_complete(key)]
    if missing:
        reference = plan.source.reference if plan.experiment.predict.student and plan.source else ""
        parameters = f"--scene-set {reference or plan.scene_set.name}, {SAME_OPTIONS}"
        commands = " and: ".join(f"luigi --module pipeline {task} {parameters}" for task in missing)
        raise UserError(
            "the student cannot answer sentences yet: this config has no "
            f"{' and no '.join(_NAMES[task] for task in missing)}. Run: {commands}"
        )


_NAMES = {
    "TrainStudent": "trained student",
    "FinetuneStudent": "finetuned student",
    "DistilText": "text student (which turns words into the student's query tokens)",
}


def make_engine(plan: Plan, device: str) -> StudentEngine:
    """The run's student, ready for sentences; call ``check_student`` first.

    Raises ArtifactError for damaged artifacts, UserError as ``StudentEngine`` does.
    """
    from pipeline.steps import STEPS
    from pipeline.steps.questions import relates
    from stages.configs import RelationsConfig
    from stages.student.ask_student import AskConfigs, StudentEngine

    cfg = plan.experiment
    relations = cfg.relations if relates(plan) else RelationsConfig(mode="off")
    return StudentEngine(
        plan.student().folder,
        plan.read_part(STEPS["distil_text"], "text", plan.text()),
        lambda scene: plan.read("prepare_scene", "scene", scene),
        AskConfigs(cfg.predict, cfg.text, cfg.teacher, relations),
        device,
        suggested_names(plan),
    )


def suggested_names(plan: Plan) -> tuple[str, ...]:
    """What may be suggested where nothing fits: the bank, else the set's shortest sentences."""
    from data.artifacts.store import is_complete
    from data.queries.vocabulary import words_of

    if plan.experiment.prompts.bank:
        return tuple(plan.experiment.prompts.bank)
    if not is_complete(plan.key("prepare_prompts")):
        return ()
    by_split = plan.read("prepare_prompts", "prompts")
    texts = {prompt.text for prompts in by_split.values() for prompt in prompts}
    short = sorted(text for text in texts if len(words_of(text)) <= _NAME_WORDS)
    return tuple(short[:_MOST_NAMES])
