"""From artifacts to a stage and back: loads what a stage needs, calls it, saves what it gives.

Each job imports its stage when it runs, so that planning stays light. Of the jobs here only
the oracle teacher's reads labels; those of ``pipeline.results`` do too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.artifacts.store import ArtifactKey, writing
from pipeline import progress, results
from pipeline.plan import Plan
from pipeline.scene_sets import SPLITS

if TYPE_CHECKING:
    from data.types import Prompt, Scene

_LOG = logging.getLogger("luigi-interface.stages")

Job = Callable[["Plan", "str | None", Path, str], None]


def run(key: ArtifactKey, plan: Plan, scene_id: str | None, device: str) -> None:
    """Make one artifact, or wait for another process that is making it."""
    job, resumable = _JOBS[key.stage]
    with writing(key, resumable) as folder:
        if folder is not None:
            job(plan, scene_id, folder, device)


def resolved(device: str) -> str:
    """``auto`` as the device it means on this machine."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _scene(scene_id: str | None) -> str:
    if scene_id is None:
        raise ValueError("this stage works on one scene")
    return scene_id


def generate_rooms(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """One room, or, once all are there, the files that span them."""
    from stages import generate_rooms as stage

    cfg = plan.experiment.generate
    if scene_id is None:
        stage.run_index(plan.root, cfg)
        return
    split = plan.split_of(scene_id)
    stage.run_room(plan.root, split, plan.scenes(split).index(scene_id), cfg)


def prepare_scene(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Scan to ``scene.h5``."""
    from data.artifacts.scene import write_scene
    from stages import prepare_scene as stage

    name, cfg = _scene(scene_id), plan.experiment.prepare
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
    )


def prepare_prompts(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Query files to prompts and, apart, their truths."""
    from data.artifacts.prompts import write_prompts
    from data.prompts import read_prompts
    from stages import prepare_prompts as stage

    paths = [plan.scene_set.query_path(plan.root, split) for split in SPLITS]
    records = [record for path in dict.fromkeys(paths) for record in read_prompts(path)]
    prepared = stage.run(
        records,
        {split: plan.scenes(split) for split in SPLITS},
        lambda scene: plan.reader.read_group_names(plan.root, scene),
        plan.experiment.prompts,
    )
    for scene in prepared.unreadable:
        _LOG.warning("PreparePrompts: queries of %s left out, its annotation is unreadable", scene)
    write_prompts(folder, prepared.prompts, prepared.truths, prepared.id_space)


def link_points(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Visible points per view."""
    from data.artifacts.links import write_links
    from data.artifacts.scene import read_scene
    from stages import link_points as stage

    name = _scene(scene_id)
    scene = read_scene(plan.prepare(name).folder)
    links = stage.run(scene, plan.experiment.link, progress.reporter(f"LinkPoints {name}"))
    write_links(folder, [view.view_id for view in scene.views], len(scene.cloud), links)


def _oracle(plan: Plan, scene: Scene, prompts: Sequence[Prompt]) -> Any:
    """The one teacher that is given labels, those of its scene."""
    from data.artifacts.prompts import read_truths
    from data.artifacts.scene import read_ground_truth
    from stages.oracle import make_oracle

    truth = read_ground_truth(plan.prepare(scene.scene_id).folder)
    truths = read_truths(plan.prompts().folder)
    of_prompts = [truths[prompt.prompt_id] for prompt in prompts]
    return make_oracle(scene, truth, prompts, of_prompts, plan.experiment.teacher)


def run_teacher(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Fill the scene's teacher cache, going on where an earlier attempt stopped."""
    from data.artifacts.scene import read_scene
    from data.artifacts.teacher import TeacherWriter
    from stages import run_teacher as stage
    from stages.teachers import make_teacher

    cfg = plan.experiment.teacher
    name, source = _scene(scene_id), plan.prepare(_scene(scene_id)).folder
    scene, prompts = read_scene(source, plan.root), results.prompts_of(plan, name)

    writer = TeacherWriter(
        folder,
        [view.view_id for view in scene.views],
        [prompt.prompt_id for prompt in prompts],
    )

    def teacher() -> Any:
        if cfg.name == "oracle":
            return _oracle(plan, scene, prompts)
        return make_teacher(cfg, resolved(device))

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


def fuse_masks(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Masks of many views to soft labels of points."""
    from data.artifacts.links import read_links
    from data.artifacts.pseudo import write_pseudo
    from data.artifacts.scene import read_scene
    from data.artifacts.teacher import read_teacher
    from stages import fuse_masks as stage

    name = _scene(scene_id)
    labels = stage.run(
        read_scene(plan.prepare(name).folder),
        read_links(plan.link(name).folder),
        read_teacher(plan.teacher(name).folder),
        plan.experiment.fuse,
        progress.reporter(f"FuseMasks {name}"),
    )
    write_pseudo(folder, labels)


class _TrainingScenes(Sequence[Any]):
    """The training split, each scene read from its artifacts whenever it is asked for."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._names = plan, plan.scenes("train")

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        from data.artifacts.pseudo import read_pseudo
        from data.artifacts.scene import read_scene
        from data.batches import TrainingScene

        name = self._names[index]
        return TrainingScene(
            read_scene(self._plan.prepare(name).folder),
            results.prompts_of(self._plan, name),
            read_pseudo(self._plan.fuse(name).folder),
        )


def train_student(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Train, going on from the last checkpoint in the folder."""
    from stages import train_student as stage

    show = progress.reporter("TrainStudent", alone=True)
    stage.run(_TrainingScenes(plan), plan.experiment.student, folder, resolved(device), show)


def predict_masks(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The student's masks of one scene."""
    from data.artifacts.predictions import write_predictions
    from data.artifacts.pseudo import read_pseudo
    from data.artifacts.scene import read_scene
    from stages import predict_masks as stage

    name = _scene(scene_id)
    predictions = stage.run(
        read_scene(plan.prepare(name).folder),
        read_pseudo(plan.fuse(name).folder),
        plan.student().folder,
        plan.experiment.predict,
        resolved(device),
    )
    write_predictions(folder, predictions)


# Each stage's job, and whether it goes on from what an earlier attempt left in its folder.
_JOBS: dict[str, tuple[Job, bool]] = {
    "generate_rooms": (generate_rooms, True),
    "prepare_scene": (prepare_scene, False),
    "prepare_prompts": (prepare_prompts, False),
    "link_points": (link_points, False),
    "run_teacher": (run_teacher, True),
    "fuse_masks": (fuse_masks, False),
    "train_student": (train_student, True),
    "predict_masks": (predict_masks, False),
    "judge_teacher": (results.judge_teacher, False),
    "evaluate": (results.evaluate, False),
    "report": (results.report, False),
}
