"""What free questions to a run's student need: its artifacts, checked, and its engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.errors import UserError
from pipeline.plan import Plan

if TYPE_CHECKING:
    from stages.student.ask_student import StudentEngine

SAME = "with the same --config and --overrides"


def prepared_scenes(plan: Plan) -> tuple[str, ...]:
    """Scenes of the set that are prepared, validation first; UserError where none is."""
    from data.artifacts.store import is_complete

    named = tuple(dict.fromkeys((*plan.scenes("val"), *plan.scenes())))
    found = tuple(scene for scene in named if is_complete(plan.prepare(scene)))
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
    if not is_complete(plan.prepare(scene_id)):
        raise UserError(
            f"--scene: {scene_id} is not prepared under this config. Run: luigi --module pipeline "
            f"PrepareScene --scene-set {plan.scene_set.name} --scene {scene_id}, {SAME}"
        )


def check_student(plan: Plan) -> None:
    """Raise UserError unless the run has a student and the way from words to its tokens."""
    from data.artifacts.store import is_complete

    wanted = {"TrainStudent": plan.student(), "DistilText": plan.text()}
    if plan.experiment.finetune.start:
        wanted = {"FinetuneStudent": plan.student(), "DistilText": plan.text()}
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
    from data.artifacts.scene import read_scene
    from data.artifacts.student import read_text_student
    from stages.student.ask_student import AskConfigs, StudentEngine

    cfg = plan.experiment
    return StudentEngine(
        plan.student().folder,
        read_text_student(plan.text().folder),
        lambda scene: read_scene(plan.prepare(scene).folder),
        AskConfigs(cfg.predict, cfg.text, cfg.teacher),
        device,
    )
