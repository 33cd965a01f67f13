"""Both networks alone at growing sizes: the teacher on views, the student on voxels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import median_seconds, require
from benchmarks.rooms import scanned_room
from models.lisa.checkpoint import load_lisa
from models.lisa.teacher import LisaSettings, LisaTeacher
from models.student import Student
from stages.student.answering import features_by_turn

_GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "lisa" / "v1"
_SETTINGS = LisaSettings(max_new_tokens=8)
_QUESTION = "Where is the {} in this image? Please output segmentation mask."
_TOKEN_DIM, _FEATURE_DIM, _POINTS_A_SUPERPOINT = 256, 96, 50
_ROOM_AREA = 170.0
"""Square metres of the made-up room's surfaces, roughly."""


def teacher_seconds(sizes: list[tuple[int, int]], repeats: int) -> list[float]:
    """Time the tests' tiny LISA on (views, queries)."""
    teacher = LisaTeacher(load_lisa(_GOLDEN / "checkpoint"), _SETTINGS, "lisa")
    with Image.open(_GOLDEN / "images" / "img0.png") as file:
        image = np.asarray(file.convert("RGB"))

    def ask(num_views: int, num_queries: int) -> None:
        texts = [_QUESTION.format(f"thing number {number}") for number in range(num_queries)]
        for number in range(num_views):
            view = teacher.encode_view(np.roll(image, number, axis=1), f"view{number}")
            require(len(teacher.answer(view, texts)) == num_queries, "growth: too few answers")

    return [median_seconds(partial(ask, *size), repeats) for size in sizes]


def student_seconds(sizes: list[int], repeats: int) -> list[float]:
    """Time an untrained student on clouds of several sizes, a few points per voxel."""
    model = Student("tiny", _TOKEN_DIM, _FEATURE_DIM, seed=0).eval()

    def read(num_points: int) -> None:
        cloud, _ = scanned_room(num_points)
        parts = cloud.points, cloud.colors, cloud.normals
        ids = (np.arange(len(cloud)) // _POINTS_A_SUPERPOINT).astype(np.int32)
        voxel_size = 2 * float(np.sqrt(_ROOM_AREA / num_points))
        found = features_by_turn(model, parts, ids, voxel_size, turns=1)
        require(len(found[0]) == ids[-1] + 1, "growth: too few superpoints")

    return [median_seconds(partial(read, size), repeats) for size in sizes]
