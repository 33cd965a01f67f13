"""A small run to report on: the tiny room, a teacher's answers on its views, and results.

All external texts can be hostile: sentences, answers, names of scans and views.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import (
    MASK,
    NO_SEG,
    TeacherCache,
    TeacherWriter,
    ViewAnswers,
    read_teacher,
)
from data.types import Prompt, Scene
from stages.configs import Experiment
from stages.evaluation.evaluate import EvaluationScene
from stages.evaluation.evaluate import run as evaluate
from stages.report.inputs import AnsweredScene, ReportInputs, ReportScene, RunRecord, StageRecord
from tests.support.scans.tiny_scene import make_tiny_prompts, make_tiny_scene
from tests.support.worlds.teacher_world import finish, with_images

ATTACK = "<img src=x onerror=alert(1)>"
GRID = (24, 32)
LEFT_HALF = np.zeros(GRID, bool)
LEFT_HALF[:, :16] = True
KEPT = {0: 0.6, 2: 0.3, 3: 0.1}
"""Weights of the views that count, for every query; view 4 is dropped with a mask."""


def teacher_of(scene: Scene, prompts: list[Prompt], folder: Path, answer: str) -> TeacherCache:
    """Make a teacher: views 0 to 4 mask the left half, the last view has no mask."""
    folder.mkdir()
    ids = [view.view_id for view in scene.views]
    writer = TeacherWriter(folder, ids, [prompt.prompt_id for prompt in prompts])
    writer.begin(GRID, (GRID[1], GRID[0]), 4)
    count = len(prompts)
    for index in range(len(ids)):
        says = index < 5
        status = np.full(count, MASK if says else NO_SEG, np.uint8)
        logits = np.where(LEFT_HALF, np.float32(4), np.float32(-4))
        answers = ViewAnswers(
            status,
            np.repeat(logits[None], count, axis=0).astype(np.float32),
            np.full(count, 0.5, np.float32),
            np.ones((count, 4), np.float32),
            (f"{answer} {index}",) * count,
        )
        writer.write_view(index, answers)
    return read_teacher(finish(folder))


def labels_of(scene: Scene, prompts: list[Prompt]) -> PseudoLabels:
    """Make labels with the weights of ``KEPT``, others dropped; view 4 has high confidence."""
    queries, views, points = len(prompts), len(scene.views), len(scene.cloud)
    weights = np.zeros((queries, views), np.float32)
    weights[:, list(KEPT)] = list(KEPT.values())
    beliefs = np.zeros((queries, views), np.float32)
    beliefs[:, :5] = 0.5
    reasons = tuple("" if view in KEPT else f"reason {view}" for view in range(views))
    return PseudoLabels(
        scene.scene_id,
        tuple(prompt.prompt_id for prompt in prompts),
        tuple(view.view_id for view in scene.views),
        np.zeros((queries, points), np.float32),
        np.zeros((queries, points), np.float32),
        weights,
        (reasons,) * queries,
        np.ones((queries, 4), np.float32),
        np.full(queries, 0.5, np.float32),
        np.ones((queries, views, 4), np.float32),
        beliefs,
        np.tile(np.array([0.5, 4, 3], np.float32), (queries, 1)),
    )


def hostile_scene(folder: Path) -> tuple[Scene, list[Prompt]]:
    """Return the tiny room and its queries, with an attack as every name and sentence."""
    scene, _ = make_tiny_scene()
    scene = with_images(scene, folder)
    views = tuple(replace(v, view_id=f"{ATTACK}{k}") for k, v in enumerate(scene.views))
    scene = replace(scene, scene_id=ATTACK, views=views)
    prompts, _ = make_tiny_prompts(ATTACK)
    texts = (ATTACK, "the table", "the red chair", "<script>alert(2)</script>", "a toilet")
    return scene, [replace(p, text=t) for p, t in zip(prompts, texts, strict=True)]


def report_of(folder: Path) -> ReportInputs:
    """Make a student that finds the bed, confuses table and chair, and draws an absent object."""
    scene, prompts = hostile_scene(folder)
    _, truth = make_tiny_scene()
    _, truths = make_tiny_prompts(ATTACK)
    by_id = {one.prompt_id: one for one in truths}
    shown = {name: truth.mask(one.object_ids) for name, one in by_id.items()}
    names = [prompt.prompt_id for prompt in prompts]
    student = {**shown, names[2]: truth.mask([12]), names[4]: truth.mask([11])}
    masks = {"student": student, "fusion_only": shown, "together": shown}
    result = evaluate([EvaluationScene(scene.scene_id, prompts, by_id, truth, masks)])
    rows = tuple(replace(row, answer=ATTACK, answer_views=("a",)) for row in result.rows)
    teacher = teacher_of(scene, prompts, folder / "cache", ATTACK)
    item = ReportScene(scene, masks, shown, teacher, labels_of(scene, prompts))
    stages = (StageRecord("train_student", "0123456789abcdef" * 4, 95.0, 512.0),)
    record = RunRecord(ATTACK, ATTACK, Experiment(), stages)
    return ReportInputs(replace(result, rows=rows), lambda: [item], record)


def answers_of(folder: Path) -> tuple[AnsweredScene, RunRecord]:
    """Make answers without ground truth on the same room: the chair answers every query."""
    scene, prompts = hostile_scene(folder)
    _, truth = make_tiny_scene()
    chair = {prompt.prompt_id: truth.mask([13]) for prompt in prompts}
    masks = {"together": chair, "student": {}, "fusion_only": chair}
    sure = {prompt.prompt_id: (0.25 * k, 0.5) for k, prompt in enumerate(prompts)}
    said = {prompt.prompt_id: ATTACK for prompt in prompts}
    teacher = teacher_of(scene, prompts, folder / "cache", ATTACK)
    item = AnsweredScene(scene, prompts, masks, sure, said, teacher, labels_of(scene, prompts))
    return item, RunRecord(ATTACK, ATTACK, Experiment(), ())
