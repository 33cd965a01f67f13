"""Small training runs, and how to kill one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from data.artifacts import student as artifact
from models.sparse.unet import PRESETS, Layout
from stages.configs import StudentConfig
from stages.student import train_student
from stages.student.training_samples import TrainingScene
from tests.support.worlds.tiny_training import tiny_training_scene

CFG = StudentConfig(
    preset="nano", voxel_size=0.2, feature_dim=8, epochs=4, batch_scenes=2, queries_per_scene=3
)

_SHALLOW = Layout(8, 3, ((16, 1),), ((8, 1),))


@contextmanager
def shallow() -> Iterator[None]:
    """Let the preset of ``CFG`` have one level, with layers of every kind, inside the block."""
    with patch.dict(PRESETS, {CFG.preset: _SHALLOW}):
        yield


class Lazy(Sequence[TrainingScene]):
    """Scenes that are made on demand, with a count of reads."""

    def __init__(self, num: int) -> None:
        self.num, self.reads = num, 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.num:
            raise IndexError(index)
        self.reads += 1
        return tiny_training_scene(f"{index:08d}aa")


class Killed(Exception):
    pass


def killer(at: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        assert 0 < done <= total
        if done == at:
            raise Killed

    return progress


def train(folder: Path, cfg: StudentConfig = CFG, **arguments: Any) -> Path:
    """Train with a checkpoint after every epoch, even after short epochs."""
    folder.mkdir(exist_ok=True)
    with patch.object(train_student, "_SHARE", math.inf):
        train_student.run(Lazy(3), cfg, folder, **arguments)
    return folder


def outcome(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    log = [json.loads(line) for line in (folder / artifact.METRICS).read_text().splitlines()]
    for line in log:
        del line["seconds"]
    return (folder / artifact.MODEL).read_bytes(), log
