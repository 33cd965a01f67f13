"""From artifacts to a stage and back: loads what a stage needs, calls it, saves what it gives.

Each job imports its stage when it runs, so that planning stays light. Of the jobs here only
the oracle teacher's reads labels; of ``pipeline.learning_jobs`` those of the upper bound and of
fine-tuning do, and those of ``pipeline.results`` do too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.object_store import Place
from data.artifacts.store import ArtifactKey, writing_anywhere
from pipeline import gpus
from pipeline import learning_jobs as learning
from pipeline import process, progress, prompt_jobs, results, scene_data, search_jobs
from pipeline.plan import Plan

if TYPE_CHECKING:
    from data.types import Prompt, Scene

_LOG = logging.getLogger("luigi-interface.stages")

Job = Callable[..., None]
"""``job(plan, scene_id, place, device)``, with what ``run`` was given besides.

The place is a ``Place`` for teacher and links, and a folder for all others.
"""


def run(key: ArtifactKey, plan: Plan, scene_id: str | None, device: str, **more: Any) -> None:
    """Make one artifact, or wait for another process that is making it.

    ``more`` goes to the job as it is; only those that train take any: ``processes``.
    """
    job, resumable = _JOBS[key.stage]
    with writing_anywhere(key, resumable) as folder:
        if folder is not None:
            job(plan, scene_id, folder, device, **more)


def generate_rooms(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """One room, or, once all are there, the files that span them."""
    from stages.scene import generate_rooms as stage

    cfg = plan.experiment.generate
    if scene_id is None:
        stage.run_index(plan.root, cfg)
        return
    split = plan.split_of(scene_id)
    stage.run_room(plan.root, split, plan.scenes(split).index(scene_id), cfg)


def prepare_scene(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Scan to ``scene.h5``."""
    from data.artifacts.scene import write_scene
    from stages.scene import prepare_scene as stage

    name, cfg = process.one_scene(scene_id), plan.experiment.prepare
    scan = plan.reader.read_scan(plan.root, name, cfg.camera)
    prepared = stage.run(scan, cfg, progress.reporter(f"PrepareScene {name}"))
    write_scene(
        folder,
        prepared.cloud,
        prepared.triangles,
        prepared.superpoint_ids,
        prepared.views,
        prepared.depths,
        prepared.truth,
        name,
        plan.root,
        prepared.annotation_sha256,
        prepared.neighbours,
    )


def link_points(plan: Plan, scene_id: str | None, folder: Place, device: str) -> None:
    """Visible points per view."""
    from data.artifacts.links import write_links
    from data.artifacts.scene import read_scene
    from stages.scene import link_points as stage

    name = process.one_scene(scene_id)
    scene = read_scene(plan.prepare(name).folder, plan.root)
    # torch is asked for its devices only where there may be one: importing it takes seconds.
    device = process.resolved(device) if gpus.wanted(device) else "cpu"
    show = progress.reporter(f"LinkPoints {name}")
    links = stage.run(scene, plan.experiment.link, show, device)
    write_links(folder, [view.view_id for view in scene.views], len(scene.cloud), links)


def _oracle(plan: Plan, scene: Scene, prompts: Sequence[Prompt]) -> Any:
    """The one teacher that is given labels, those of its scene."""
    from data.artifacts.scene import read_ground_truth
    from stages.teacher.oracle import make_oracle

    truth = read_ground_truth(plan.prepare(scene.scene_id).folder)
    truths = scene_data.truths_of(plan, scene.scene_id)
    known = [truths[prompt.prompt_id] for prompt in prompts if prompt.prompt_id in truths]
    return make_oracle(scene, truth, prompts, known, plan.experiment.teacher)


def run_teacher(plan: Plan, scene_id: str | None, folder: Place, device: str) -> None:
    """Fill the scene's teacher cache, going on where an earlier attempt stopped."""
    from data.artifacts.scene import read_scene
    from data.artifacts.teacher import TeacherWriter
    from stages.teacher import run_teacher as stage
    from stages.teacher.make_teacher import make_teacher

    cfg = plan.experiment.teacher
    name, source = process.one_scene(scene_id), plan.prepare(process.one_scene(scene_id)).folder
    scene, prompts = read_scene(source, plan.root), scene_data.asked_of(plan, name)

    writer = TeacherWriter(
        folder,
        [view.view_id for view in scene.views],
        [prompt.prompt_id for prompt in prompts],
    )

    def teacher() -> Any:
        if cfg.name == "oracle":
            return _oracle(plan, scene, prompts)
        return make_teacher(cfg, process.resolved(device))

    report = stage.run(
        scene,
        prompts,
        teacher,
        writer,
        progress.reporter(f"RunTeacher {name}"),
    )
    if report.failed:
        first = "; ".join(f"view {view}: {reason}" for view, reason in report.failures[:3])
        _LOG.warning("RunTeacher %s: %d answers failed; %s", name, report.failed, first)


# Each stage's job, and whether it goes on from what an earlier attempt left in its folder.
_JOBS: dict[str, tuple[Job, bool]] = {
    "generate_rooms": (generate_rooms, True),
    "prepare_scene": (prepare_scene, False),
    "prepare_prompts": (prompt_jobs.prepare_prompts, False),
    "link_points": (link_points, False),
    "run_teacher": (run_teacher, True),
    "fuse_masks": (learning.fuse_masks, False),
    "lift_features": (learning.lift_features, False),
    "oracle_labels": (learning.oracle_labels, False),
    "train_student": (learning.train_student, True),
    "finetune_student": (learning.finetune_student, True),
    "distil_text": (learning.distil_text, False),
    "predict_masks": (learning.predict_masks, False),
    "answer_questions": (results.answer_questions, False),
    "find_rooms": (search_jobs.find_rooms, False),
    "judge_teacher": (results.judge_teacher, False),
    "evaluate": (results.evaluate, False),
    "report": (results.report, False),
}
