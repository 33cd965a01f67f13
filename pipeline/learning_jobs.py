"""Jobs from the teacher's answers to the student's: see ``pipeline.jobs``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.artifacts.store import ArtifactKey
from pipeline import gpus, process, progress, scene_data
from pipeline.plan import Plan


def fuse_masks(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Masks of many views to soft labels of points."""
    import numpy as np

    from data.artifacts.links import read_links
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import write_pseudo
    from data.artifacts.teacher import read_teacher
    from data.queries.prompts import BANK_TASK
    from stages.fusion import fuse_masks as stage

    name = process.one_scene(scene_id)
    labels = stage.run(
        read_scene(plan.prepare(name).folder),
        read_links(plan.link(name).place),
        read_teacher(plan.teacher(name).place),
        plan.experiment.fuse,
        np.array([prompt.task == BANK_TASK for prompt in scene_data.asked_of(plan, name)], bool),
        progress.reporter(f"FuseMasks {name}"),
        # Where no GPU can be asked for, PyTorch need not be imported to learn it.
        process.resolved(device) if gpus.wanted(device) else "cpu",
    )
    write_pseudo(folder, labels)


def lift_features(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The teacher's image features on superpoints."""
    from data.artifacts.embeddings import write_features
    from data.artifacts.links import read_links
    from data.artifacts.scene import read_scene
    from stages.teacher import lift_features as stage
    from stages.teacher.make_teacher import make_teacher

    name = process.one_scene(scene_id)
    scene = read_scene(plan.prepare(name).folder, plan.root)
    teacher = make_teacher(plan.experiment.teacher, process.resolved(device))
    show = progress.reporter(f"LiftFeatures {name}")
    write_features(folder, stage.run(scene, read_links(plan.link(name).place), teacher, show))


class _TrainingScenes(Sequence[Any]):
    """The training split, each scene read from its artifacts whenever it is asked for."""

    def __init__(self, plan: Plan, labels: Callable[[str], ArtifactKey]) -> None:
        self._plan, self._names, self._labels = plan, plan.scenes("train"), labels

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        from data.artifacts.embeddings import read_features
        from data.artifacts.scene import read_scene
        from data.artifacts.soft_masks import read_pseudo
        from stages.student.training_samples import TrainingScene

        plan, name = self._plan, self._names[index]
        return TrainingScene(
            read_scene(plan.prepare(name).folder),
            scene_data.asked_of(plan, name),
            read_pseudo(self._labels(name).folder),
            read_features(plan.features(name).folder) if plan.learns_features else None,
        )


def train_student(
    plan: Plan, scene_id: str | None, folder: Path, device: str, processes: int = 1
) -> None:
    """Train, going on from the last checkpoint in the folder."""
    from stages.student import train_student as stage

    scenes, show = _TrainingScenes(plan, plan.labels), progress.reporter("TrainStudent", alone=True)
    cfg = plan.experiment.student
    stage.run(scenes, cfg, folder, process.resolved(device), show, processes=processes)


def finetune_student(
    plan: Plan, scene_id: str | None, folder: Path, device: str, processes: int = 1
) -> None:
    """Train another student further on truth, going on from the last checkpoint in the folder."""
    from stages.student import train_student as stage

    if plan.source is None:
        raise ValueError("the config names no student to start from")
    scenes = _TrainingScenes(plan, plan.oracle_labels)
    show = progress.reporter("FinetuneStudent", alone=True)
    cfg, start = plan.experiment.finetuning(), plan.source.key.folder
    stage.run(scenes, cfg, folder, process.resolved(device), show, start, processes)


def oracle_labels(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The truth of one scene, for the upper bound."""
    from data.artifacts.scene import read_ground_truth
    from data.artifacts.soft_masks import read_pseudo, write_pseudo
    from stages.fusion import oracle_labels as stage

    name = process.one_scene(scene_id)
    labels = stage.run(
        read_pseudo(plan.fuse(name).folder),
        read_ground_truth(plan.prepare(name).folder),
        scene_data.asked_of(plan, name),
        scene_data.truths_of(plan, name),
    )
    write_pseudo(folder, labels)


def distil_text(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """Words to tokens, from all training scenes."""
    from data.artifacts.student import write_text_student
    from stages.student import distil_text as stage

    cfg = plan.experiment
    scenes = [_text_scene(plan, name) for name in plan.scenes("train")]
    show = progress.reporter("DistilText", alone=True)
    student = stage.run(scenes, cfg.text, cfg.teacher, process.resolved(device), show)
    write_text_student(folder, student)


def _text_scene(plan: Plan, name: str) -> Any:
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import read_pseudo
    from stages.student.distil_text import TextScene

    labels = read_pseudo(plan.fuse(name).folder)
    texts = {prompt.prompt_id: prompt.text for prompt in scene_data.asked_of(plan, name)}
    views = read_scene(plan.prepare(name).folder, plan.root).views
    asked = tuple(texts[prompt_id] for prompt_id in labels.prompt_ids)
    return TextScene(name, asked, labels.query_tokens, tuple(views))


def predict_masks(plan: Plan, scene_id: str | None, folder: Path, device: str) -> None:
    """The student's masks of one scene's queries and of the bank's categories."""
    from data.artifacts.scene import read_scene
    from data.artifacts.soft_masks import read_pseudo, write_predictions
    from stages.student import predict_masks as stage

    name, cfg, place = (
        process.one_scene(scene_id),
        plan.experiment.predict,
        process.resolved(device),
    )
    scene, student = read_scene(plan.prepare(name).folder), plan.student().folder
    if cfg.tokens == "text":
        asked = tuple(prompt.prompt_id for prompt in scene_data.asked_of(plan, name))
        tokens = _word_tokens(plan, name, place)
        predictions = stage.run_by_words(scene, asked, tokens, student, cfg, place)
    else:
        labels = read_pseudo(plan.fuse(name).folder)
        predictions = stage.run(scene, labels, student, cfg, place)
    write_predictions(folder, predictions)


def _word_tokens(plan: Plan, name: str, device: str) -> Any:
    from data.artifacts.student import read_text_student
    from stages.student.text_encoding import encode_queries

    text, cfg = read_text_student(plan.text().folder), plan.experiment
    words = [prompt.text for prompt in scene_data.asked_of(plan, name)]
    return encode_queries(text, words, cfg.text, cfg.teacher, device)
