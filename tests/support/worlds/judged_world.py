"""A wall seen head-on, so that the visible share of a target is known by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from data.artifacts.teacher_2d import Teacher2D
from data.types import Array, Camera, GroundTruth, PointCloud, Prompt, PromptTruth, Scene, View
from stages.configs import JudgeConfig
from stages.evaluation.evaluate import Pairs, summarise_teacher
from stages.teacher import evaluate_teacher_2d
from tests.support.worlds.teacher_world import write_cache

SIZE, CELLS = 64, 32
"""The pictures' edge in pixels, and in cells of two pixels."""
BIG = (slice(4, 12), slice(8, 24))
"""Cells of object 5: 8 x 16 = 128 of 1024."""
SMALL = (slice(20, 22), slice(20, 22))
"""Cells of object 7: 4 of 1024, 0.39 %: too little to say that it shows."""


def quad(cells: tuple[slice, slice], depth: float) -> Array:
    """Return the corners (4, 3) of a rectangle that covers exactly these cells at this depth."""
    rows, columns = cells
    corners = [(u, v) for v in (rows.start, rows.stop) for u in (columns.start, columns.stop)]
    uv = np.array(corners) * SIZE / CELLS
    return np.column_stack([(uv - SIZE / 2) / (SIZE / 2) * depth, np.full(4, depth)])


def make_wall(scene_id: str = "wall") -> tuple[Scene, GroundTruth]:
    """Make a wall with objects 5 and 7 before it, in three equal views and one turned away."""
    everything = (slice(0, CELLS), slice(0, CELLS))
    quads = [quad(everything, 1.0), quad(BIG, 0.5), quad(SMALL, 0.5)]
    points = np.concatenate(quads).astype(np.float32)
    triangles = np.concatenate([np.array([[0, 1, 2], [1, 3, 2]]) + 4 * k for k in range(3)])
    camera = Camera("PINHOLE", np.array([[32.0, 0, 32], [0, 32, 32], [0, 0, 1]]), SIZE, SIZE)
    poses = [np.eye(4), np.eye(4), np.eye(4), np.diag([-1.0, 1, -1, 1])]
    views = tuple(
        View(f"view{i}", camera, pose, Path(f"view{i}.png")) for i, pose in enumerate(poses)
    )
    cloud = PointCloud(points, np.zeros((12, 3), np.uint8), np.zeros((12, 3), np.float32))
    ids = np.zeros(12, np.int32)
    depths = [np.zeros((1, 1))] * len(views)
    scene = Scene(scene_id, cloud, triangles.astype(np.int32), ids, views, depths)
    members = np.arange(4, 12, dtype=np.int32)
    return scene, GroundTruth((5, 7), ("board", "switch"), members, np.array([0, 4, 8]), 12)


def make_queries(scene_id: str = "wall") -> tuple[list[Prompt], dict[str, PromptTruth]]:
    """Make queries for the big object, the small object and an absent object."""
    rows: list[tuple[str, str, tuple[int, ...]]] = [
        ("the board", "referring", (5,)),
        ("the switch", "referring", (7,)),
        ("the toilet", "absent", ()),
    ]
    prompts = [Prompt(f"q{i}", scene_id, text, task) for i, (text, task, _) in enumerate(rows)]
    return prompts, {f"q{i}": PromptTruth(f"q{i}", ids, "") for i, (_, _, ids) in enumerate(rows)}


def drawing(*cells: tuple[slice, slice]) -> Array:
    """Return logits (h, w) of a mask of these cells."""
    logits = np.full((CELLS, CELLS), -8, np.float32)
    for part in cells:
        logits[part] = 8
    return logits


def make_answers(folder: Path) -> TeacherCache:
    """Make answers (4 views, 3 queries) of every kind; the tests count their metrics by hand.

    The board: exact, four cells too far right, no mask though it is visible, correctly no mask.
    The switch: three times no mask, then a mask of nothing. The toilet: failed, a mask, none,
    failed.
    """
    shifted = (BIG[0], slice(BIG[1].start + 4, BIG[1].stop + 4))
    status = np.array(
        [
            [MASK, NO_SEG, FAILED],
            [MASK, NO_SEG, MASK],
            [NO_SEG, NO_SEG, NO_SEG],
            [NO_SEG, MASK, FAILED],
        ],
        np.uint8,
    )
    logits = np.full((4, 3, CELLS, CELLS), 8, np.float32)
    logits[0, 0], logits[1, 0] = drawing(BIG), drawing(shifted)
    predicted = np.array([[0.9, 0, 0], [0.5, 0, 0.2], [0, 0, 0], [0, 0.7, 0]], np.float32)
    return write_cache(folder, status, logits, predicted, np.zeros((4, 3, 2), np.float32))


def make_teacher_2d(folder: Path) -> Teacher2D:
    """Evaluate these answers in 2D."""
    cache = make_answers(folder)
    return evaluate_teacher_2d.run(*make_wall(), *make_queries(), cache, JudgeConfig())


def summary_of(teacher_2d: Teacher2D, *tasks: str) -> dict[str, Any]:
    """Return ``teacher_2d`` of one scene, from its queries' tasks."""
    return summarise_teacher(
        [(task, Pairs.of_query(teacher_2d, k)) for k, task in enumerate(tasks)]
    )
