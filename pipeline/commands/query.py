"""query: sentences asked of one scan, answered by the student."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.commands.command import Command, add_run_arguments
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Scene
    from stages.student.ask_student import Asked, StudentEngine


_OUT = "queries"


def _add_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("query", nargs="+", help="a sentence, such as: where can I sit?")
    add_run_arguments(parser)
    add("--scene", required=True, help="the scan to ask; any of the set's, of any split")
    add("--out", type=Path, default=Path(_OUT), help=f"folder to write to (default: {_OUT})")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")


def _query(options: Namespace) -> None:
    """Ask, print the answers, write a mesh and a picture of each."""
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
    engine = make_engine(plan, resolved(options.device))
    answers = engine.ask(options.scene, texts)
    _write(options.out, engine.prepare(options.scene), answers)


def _write(out: Path, scene: Scene, answers: list[Asked]) -> None:
    """Print each answer and write ``<out>/<scene>/<words>-<hash>.ply`` and ``.png``."""
    from stages.report.exports import write_bytes, write_meshes
    from stages.student.ask_student import exported, in_one_line, picture_of, render_scan

    content = exported(scene.scene_id, answers)
    meshes = write_meshes(out, content, scene.cloud, scene.triangles)
    rendered = render_scan(scene)
    for asked, mesh in zip(answers, meshes, strict=True):
        print(f"{in_one_line(asked.text)}\n  {_figures(asked)}")
        written = [mesh]
        if rendered is not None:
            written.append(mesh.with_suffix(".png"))
            write_bytes(written[-1], picture_of(rendered, asked))
        print("  " + ", ".join(map(str, written)))


def _figures(asked: Asked) -> str:
    centre, size = asked.box
    if centre is None or size is None:
        return f"nothing found (score {asked.score:.2f})"
    at, sides = (", ".join(f"{v:.2f}" for v in centre), " x ".join(f"{v:.2f}" for v in size))
    return (
        f"score {asked.score:.2f}, {asked.num_points} of {len(asked.mask)} points, "
        f"size {sides} m, centre ({at}) m"
    )


QUERY = Command("ask a scan a sentence, answered by the student alone", _add_arguments, _query)


SAME = "with the same --config and --overrides"


def prepared_scenes(plan: Plan) -> tuple[str, ...]:
    """Scenes of the set that are prepared, validation first; UserError where none is."""
    from data.artifacts.store import is_complete

    named = tuple(dict.fromkeys((*plan.scenes("val"), *plan.scenes())))
    found = tuple(scene for scene in named if is_complete(plan.key("prepare_scene", scene)))
    if not found:
        raise UserError(
            f"none of the {len(named)} scenes of {plan.scene_set.name} is prepared under this "
            f"config in {plan.output}. Run: luigi --module pipeline RunAll --scene-set "
            f"{plan.scene_set.name}, {SAME}"
        )
    return found


def check_scene(plan: Plan, scene_id: str) -> None:
    """Raise UserError for a scene that the set has not, or that is not prepared."""
    from data.artifacts.store import is_complete

    plan.split_of(scene_id)
    if not is_complete(plan.key("prepare_scene", scene_id)):
        raise UserError(
            f"--scene: {scene_id} is not prepared under this config. Run: luigi --module pipeline "
            f"PrepareScene --scene-set {plan.scene_set.name} --scene {scene_id}, {SAME}"
        )


def check_student(plan: Plan) -> None:
    """Raise UserError unless the run has a student and the way from words to its tokens."""
    from data.artifacts.store import is_complete
    from pipeline.steps import STEPS

    trained = STEPS[plan.student().stage].task_name
    wanted = {trained: plan.student(), "DistilText": plan.text()}
    missing = [task for task, key in wanted.items() if not is_complete(key)]
    if missing:
        place = plan.source.place if plan.experiment.predict.student and plan.source else ""
        where = f"--scene-set {place or plan.scene_set.name}, {SAME}"
        commands = " and: ".join(f"luigi --module pipeline {task} {where}" for task in missing)
        raise UserError(
            "the student cannot be asked in words yet: this config has no "
            f"{' and no '.join(_THINGS[task] for task in missing)}. Run: {commands}"
        )


_THINGS = {
    "TrainStudent": "trained student",
    "FinetuneStudent": "finetuned student",
    "DistilText": "text student (what turns words into the student's query tokens)",
}


def make_engine(plan: Plan, device: str) -> StudentEngine:
    """The run's student, ready to be asked; ``check_student`` comes before.

    Raises ArtifactError for damaged artifacts, UserError as of ``StudentEngine``.
    """
    from pipeline.steps import STEPS
    from stages.student.ask_student import AskConfigs, StudentEngine

    cfg = plan.experiment
    return StudentEngine(
        plan.student().folder,
        plan.read_part(STEPS["distil_text"], "text", plan.text()),
        lambda scene: plan.read("prepare_scene", "scene", scene),
        AskConfigs(cfg.predict, cfg.text, cfg.teacher),
        device,
    )
