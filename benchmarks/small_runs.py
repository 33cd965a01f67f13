"""Small whole runs of the pipeline of any checkout, which use most of its stages.

One run is of an RGB-D scan: a room with three boxes, made here with NumPy alone, and a teacher
that recognises colours. So the runs of all checkouts start from the same bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from data.errors import UserError

Array = npt.NDArray[Any]

OUTPUT = "output"
SENTENCES = ("the red thing", "the blue thing", "the red or blue thing", "something green")
_ROOM = ((0.0, 0.0, 0.0), (4.0, 3.0, 2.4), (200, 195, 180))
_BOXES = (
    ((0.3, 0.3, 0.0), (1.9, 1.5, 0.5), (40, 60, 200)),
    ((2.6, 0.4, 0.0), (3.6, 1.2, 0.7), (150, 90, 40)),
    ((2.7, 2.0, 0.0), (3.2, 2.5, 0.9), (200, 40, 40)),
)
_HEIGHT, _WIDTH, _FOCAL = 72, 96, 60.0
_VIEWS = 8

COLOR_TEACHER = '''
"""A teacher that masks the pixels of the colours that a query names."""

import numpy as np

from models.teacher import MaskGrid, TeacherAnswer

COLORS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200)}


class ColorTeacher:
    name = "color"
    embedding_dim = 3

    def mask_grid(self, height, width):
        return MaskGrid(height // 4, width // 4, (width / 4, height / 4))

    def encode_view(self, image, view_id):
        return image[2::4, 2::4].astype(np.float32)

    def answer(self, pixels, texts):
        return [self._answer(pixels, text) for text in texts]

    def _answer(self, pixels, text):
        codes = [code for word, code in COLORS.items() if word in text.split()]
        codes = np.array(codes, np.float32).reshape(-1, 3)
        gaps = np.linalg.norm(pixels[None] - codes[:, None, None], axis=-1)
        seen = (gaps < 60).any(axis=(1, 2))
        codes, gaps = codes[seen], gaps[seen]
        vectors = codes / np.linalg.norm(codes, axis=1, keepdims=True)
        ious = np.full(len(codes), 0.5, np.float32)
        answer = "It is " + " and ".join(["[SEG]"] * len(codes)) + "."
        if not len(codes):
            grid = MaskGrid(*pixels.shape[:2], (pixels.shape[1], pixels.shape[0]))
            return TeacherAnswer.without_mask("It is not here.", grid, 3)
        return TeacherAnswer(answer, ((60 - gaps) / 10).astype(np.float32), ious, vectors)
'''

_SMOKE = ("--config", "{checkout}/configs/experiments/smoke.yaml")
_TINY = """
generated: true
splits: {train: nvs_sem_train, val: nvs_sem_val}
queries: {train: queries/train.json, val: queries/val.json}
config:
  generate: {train_rooms: 2, val_rooms: 1, views: 4, height: 64, width: 96, vertex_spacing: 0.2}
  student: {preset: tiny, voxel_size: 0.2, epochs: 1, feature_dim: 16}
  prompts: {bank: [wall, chair]}
"""
_ORACLE = "  teacher: {name: oracle, oracle: {miss: 0.0, confuse: 0.0}}\n"


@dataclass(frozen=True)
class Run:
    """Command lines after ``luigi --module pipeline``, run in turn, and the files they need.

    ``files`` are written by name into the folder of the run. ``{checkout}`` in an argument is
    the folder of the tree. With ``scan`` the run gets an RGB-D scan of three boxes.
    """

    commands: tuple[tuple[str, ...], ...]
    files: Mapping[str, str]
    scan: bool = False


RUNS = {
    "demo": Run((("RunAll", "--scene-set", "demo", *_SMOKE),), {}),
    "own_scan": Run(
        (
            (
                *("RunAll", "--scene-set", "own", "--overrides"),
                "teacher.name=custom,teacher.class=color_teacher:ColorTeacher,prompts.bank=[],"
                "student.preset=tiny,student.voxel_size=0.1,student.epochs=8",
            ),
        ),
        {"color_teacher.py": COLOR_TEACHER},
        scan=True,
    ),
    "demo_search": Run(
        (
            (
                *("RunAll", "--scene-set", "demo_search", *_SMOKE),
                *("--overrides", "generate.val_rooms=3,student.epochs=2"),
            ),
        ),
        {},
    ),
    "ablation": Run(
        (
            ("Ablation", "--scene-set", "tiny.yaml", "--seeds", "2"),
            ("Ablation", "--scene-set", "worded.yaml", "--arms", "F,G", "--seeds", "1"),
        ),
        {"tiny.yaml": _TINY + _ORACLE, "worded.yaml": _TINY},
    ),
}


def make_run(run: Run, checkout: Path, folder: Path) -> None:
    """Run all commands with the code of ``checkout``; outputs go to ``folder / OUTPUT``.

    Raises:
        UserError: ``folder`` is there already, or a command failed (with its last lines).
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UserError(f"{folder}: expected a new folder, found one. Name another.") from None
    for name, text in run.files.items():
        (folder / name).write_text(text)
    output = folder / OUTPUT
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUIGI", "MLLM3D"))}
    paths = os.pathsep.join([str(checkout), str(folder)])
    environment = {**kept, "PYTHONPATH": paths, "HOME": str(folder), "MLLM3D_OUTPUT": str(output)}
    if run.scan:
        environment["MLLM3D_SCAN"] = str(write_scan(folder / "box-room"))
    for words in run.commands:
        arguments = [word.format(checkout=checkout) for word in words]
        command = [sys.executable, "-m", "luigi", "--module", "pipeline", *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError(f"{' '.join(command)} failed in {checkout}:\n{done.stdout[-3000:]}")


def write_scan(folder: Path) -> Path:
    """Write images, depth, poses, intrinsics and sentences of the scan; returns ``folder``."""
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    for index in range(_VIEWS):
        pose = _camera_to_world(2 * np.pi * index / _VIEWS)
        depth, colors = _render(pose)
        Image.fromarray(colors).save(folder / "color" / f"frame{index}.png")
        Image.fromarray(depth).save(folder / "depth" / f"frame{index}.png")
        (folder / "pose" / f"frame{index}.txt").write_text(_matrix_text(pose))
    intrinsics = np.diag([_FOCAL, _FOCAL, 1.0])
    intrinsics[:2, 2] = (_WIDTH - 1) / 2, (_HEIGHT - 1) / 2
    (folder / "intrinsics.txt").write_text(_matrix_text(intrinsics))
    (folder / "queries.txt").write_text("\n".join(SENTENCES) + "\n")
    return folder


def _camera_to_world(angle: float) -> Array:
    """(4, 4) pose in metres of a camera near the walls that looks at the middle of the floor."""
    eye = np.array([2 + 1.6 * np.cos(angle), 1.5 + 1.2 * np.sin(angle), 1.9])
    forward = np.array([2.0, 1.5, 0.2]) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return pose.round(9)


def _render(pose: Array) -> tuple[Array, Array]:
    """(H, W) uint16 depth in millimetres and (H, W, 3) uint8 colours, a shade for each axis."""
    v, u = np.mgrid[:_HEIGHT, :_WIDTH].astype(np.float64)
    camera = np.stack(
        [(u - (_WIDTH - 1) / 2) / _FOCAL, (v - (_HEIGHT - 1) / 2) / _FOCAL, np.ones_like(u)], -1
    )
    rays = camera @ pose[:3, :3].T
    nearest = np.full(u.shape, np.inf)
    colors = np.zeros((*u.shape, 3))
    for low, high, color in (_ROOM, *_BOXES):
        is_room = (low, high, color) == _ROOM
        distances = (np.array([low, high])[:, None, None] - pose[:3, 3]) / rays
        enter, leave = distances.min(axis=0), distances.max(axis=0)
        axis = leave.argmin(-1) if is_room else enter.argmax(-1)
        depth = leave.min(-1) if is_room else enter.max(-1)
        hit = (depth < nearest) & (is_room | ((depth > 0) & (depth <= leave.min(-1))))
        nearest[hit] = depth[hit]
        colors[hit] = np.array(color) * np.array([0.94, 0.97, 1.0])[axis][hit][:, None]
    return np.rint(nearest * 1000).astype(np.uint16), np.rint(colors).astype(np.uint8)


def _matrix_text(matrix: Array) -> str:
    return "\n".join(" ".join(repr(float(value)) for value in row) for row in matrix) + "\n"
