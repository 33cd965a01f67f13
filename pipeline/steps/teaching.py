"""Steps that run the 2D teacher, for masks of the queries or for features of the images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.object_store import StoragePath
from data.errors import ArtifactError
from pipeline.steps.declaration import Input, Part, Preload, Source, Step, declare
from pipeline.steps.questions import RELATIONS, question_inputs, read_questions
from pipeline.steps.scans import BANK, queries_identity, scene_views
from pipeline.steps.step_inputs import LOG, StepInputs
from stages.teacher.identity import no_features

if TYPE_CHECKING:
    from pipeline.plan import Plan


def is_oracle(plan: Plan) -> bool:
    """Whether the teacher is ground truth with errors added, for controlled experiments."""
    return plan.experiment.teacher.name == "oracle"


def learns_features(plan: Plan) -> bool:
    """Whether the student also learns from the teacher's image features."""
    return plan.learns_features


def make_teacher_masks(inputs: StepInputs, place: StoragePath) -> None:
    """Fill the scene's teacher cache; continues after the views of an interrupted attempt."""
    from data.artifacts.teacher import TeacherWriter
    from stages.teacher import run_teacher as stage

    scene = inputs.read("views", "scene")
    questions = read_questions(inputs)
    prompts = questions.asked(inputs.scene)
    writer = TeacherWriter(
        place,
        [view.view_id for view in scene.views],
        [prompt.prompt_id for prompt in prompts],
    )

    def teacher() -> Any:
        if not inputs.has("truth"):
            from stages.teacher.make_teacher import make_teacher

            return make_teacher(inputs.config, inputs.device)
        from stages.teacher.oracle import make_oracle

        truths = questions.truths(inputs.read("truths"), inputs.scene)
        prompt_truths = [
            truths[prompt.prompt_id] for prompt in prompts if prompt.prompt_id in truths
        ]
        return make_oracle(scene, inputs.read("truth"), prompts, prompt_truths, inputs.config)

    report = stage.run(scene, prompts, teacher, writer, inputs.progress())
    if report.failed:
        first = "; ".join(f"view {view}: {reason}" for view, reason in report.failures[:3])
        LOG.warning("RunTeacher %s: %d answers failed; %s", inputs.scene, report.failed, first)


def views_done(folder: Path) -> tuple[int, int] | None:
    """Number of finished views of a teacher cache and of all its views; None before the first.

    A view is one file (``data.artifacts.teacher``), which Zarr renames into place when complete.
    Raises ArtifactError for a cache whose layout cannot be read.
    """
    views = folder / "teacher.zarr" / "views"
    try:
        (total,) = json.loads((views / "zarr.json").read_text())["shape"]
        names = [path.name for path in (views / "c").iterdir()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
        remedy = "Remove the folder and run RunTeacher again."
        raise ArtifactError(views / "zarr.json", "an array's layout", problem, remedy) from error
    return sum(name.isdecimal() for name in names), int(total)


def make_features(inputs: StepInputs, folder: Path) -> None:
    """Write the teacher's image features, averaged on superpoints."""
    from data.artifacts.embeddings import write_features
    from stages.teacher import lift_features as stage
    from stages.teacher.make_teacher import make_teacher

    teacher = make_teacher(inputs.config, inputs.device)
    scene, links = inputs.read("scene"), inputs.read("links")
    write_features(folder, stage.run(scene, links, teacher, inputs.progress()))


def _teacher_config(plan: Plan) -> Mapping[str, Any]:
    return plan.teacher_identity[0]


def _teacher_content(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    return plan.teacher_identity[1]


def _queries(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    return {"queries": queries_identity(plan, scene_id)}


def _refuse_oracle_features(plan: Plan) -> None:
    """Refuse the oracle, which has no image features; other teachers are checked when they run."""
    if is_oracle(plan):
        raise no_features("oracle")


TEACHER_CONTENT = Source(
    _teacher_content,
    {
        "weights": "the teacher's weights",
        "vision_tower": "the teacher's weights",
        "code": "the teacher's source code",
    },
)
RUN_TEACHER = declare(
    Step(
        name="run_teacher",
        version=3,
        summary="The 2D teacher's answers to every query in every view.",
        make="pipeline.steps.teaching:make_teacher_masks",
        section="teacher",
        config=_teacher_config,
        also=("prompts",),
        scenes="all",
        inputs=(
            scene_views("scene"),
            *question_inputs("queries"),
            Input("truth", "prepare_scene", ("truth",), known_by="views", when=is_oracle),
            Input("truths", "prepare_prompts", ("truths",), "set", "queries", when=is_oracle),
        ),
        sources=(
            Source(_queries, {"queries": "the query files"}),
            BANK,
            RELATIONS,
            TEACHER_CONTENT,
        ),
        parts={"masks": Part("data.artifacts.teacher:read_teacher")},
        oracle=is_oracle,
        resumable=True,
        in_object_store=True,
        asks_teacher=True,
        progress="pipeline.steps.teaching:views_done",
        preload=Preload(
            ("stages.teacher.run_teacher", "data.artifacts.teacher", "data.artifacts.scene")
        ),
    )
)
LIFT_FEATURES = declare(
    Step(
        name="lift_features",
        version=1,
        summary="The teacher's image features on superpoints, where student.loss.image is above 0.",
        make="pipeline.steps.teaching:make_features",
        section="teacher",
        config=_teacher_config,
        scenes="all",
        inputs=(
            Input("scene", "prepare_scene", ("scene",)),
            Input("links", "link_points", ("links",)),
        ),
        sources=(TEACHER_CONTENT,),
        parts={"features": Part("data.artifacts.embeddings:read_features")},
        check=_refuse_oracle_features,
        asks_teacher=True,
        preload=Preload(("stages.teacher.lift_features", "data.artifacts.embeddings")),
    )
)
