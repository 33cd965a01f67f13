"""A finished run of very small rooms, made once for all test processes, to copy from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.support.cli import luigi
from tests.support.tiny_set import ROOMS, STUDENT, TEACHER, write_set

ROOMS_MADE = ("generate_rooms",)
"""Stages to copy for a run that begins with ``PrepareScene``; and so on."""
SCENES_MADE = (*ROOMS_MADE, "prepare_scene", "prepare_prompts")
LINKS_MADE = (*SCENES_MADE, "link_points")
LABELS_MADE = (*LINKS_MADE, "run_teacher", "fuse_masks")
_PRINTED = "printed.txt"


@dataclass(frozen=True)
class FinishedRun:
    """A working folder, its scene set ``tiny.yaml`` and the output of ``RunAll``; read-only."""

    folder: Path

    @property
    def scene_set(self) -> str:
        return str(self.folder / "tiny.yaml")

    @property
    def printed(self) -> str:
        return (self.folder / _PRINTED).read_text()

    def copy_stages(self, folder: Path, stages: tuple[str, ...], name: str = "tiny") -> None:
        """Copy artifacts of some stages to where a set ``name`` in ``folder`` reads them.

        A run of that set uses them if it has the same rooms and the same config.
        """
        ignored = shutil.ignore_patterns(".*.lock")
        for stage in stages:
            made = self.folder / "output" / "tiny" / stage
            shutil.copytree(made, folder / "output" / name / stage, ignore=ignored)

    def copy(self, folder: Path) -> str:
        """Copy the whole run to ``folder`` and return the path of its scene set."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        latest = folder / "output" / "tiny" / "latest.json"
        latest.write_text(latest.read_text().replace(str(self.folder), str(folder)))
        return str(folder / "tiny.yaml")


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """Return a folder that the first test process to need it makes for all processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, mark = shared / name, shared / f"{name}.made"
    with FileLock(shared / f"{name}.lock"):
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            mark.touch()
    return folder


SMALLEST = {
    "generate": {**ROOMS, "train_rooms": 1, "views": 3},
    "teacher": TEACHER,
    "student": {**STUDENT, "epochs": 1},
}
"""As little as there can be."""


def run_all(folder: Path, **content: Any) -> None:
    """Run RunAll of the tiny set, or of one with other ``content``, from nothing."""
    scene_set = write_set(folder / "tiny.yaml", **content)
    run = luigi(folder, "RunAll", "--scene-set", scene_set)
    assert run.returncode == 0, run.stdout
    (folder / _PRINTED).write_text(run.stdout)
