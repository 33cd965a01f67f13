"""Two real runs of very small rooms, and commands about them; fixtures to import."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.plan import load_plan
from pipeline.steps import STEPS
from tests.support.cli import luigi
from tests.support.finished_run import FinishedRun, made_once

CACHED = {
    "GenerateRoom": 3,
    "GenerateRooms": 1,
    "PreparePrompts": 1,
    "PrepareScene": 3,
    "LinkPoints": 3,
    "RunTeacher": 3,
    "FuseMasks": 3,
    "TrainStudent": 1,
    "PredictMasks": 1,
    "EvaluateTeacher2D": 1,
    "AnswerQuestions": 1,
    "Evaluate": 1,
    "Report": 1,
}
AFTER_STUDENT = {"TrainStudent", "PredictMasks", "AnswerQuestions", "Evaluate", "Report"}
SECOND = "student.lr=0.02"


@dataclass(frozen=True)
class Runs:
    """Two finished runs with different learning rates."""

    folder: Path
    scene_set: str

    @property
    def output(self) -> Path:
        return self.folder / "output" / "tiny"


@pytest.fixture(scope="session")
def made(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Run Luigi once for all test processes; read-only."""

    def make(folder: Path) -> None:
        scene_set = tiny_run.copy(folder)
        run = luigi(folder, "RunAll", "--scene-set", scene_set, "--overrides", SECOND)
        assert run.returncode == 0, run.stdout

    folder = made_once(tmp_path_factory, "two_runs", make)
    return Runs(folder, str(folder / "tiny.yaml"))


@pytest.fixture
def runs(made: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(made.output.parent))
    return made


@pytest.fixture
def copied(made: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A copy that tests may damage."""
    shutil.copytree(made.output, tmp_path / "output" / "tiny")
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    return Runs(tmp_path, made.scene_set)


Ask = Callable[..., str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """Return a command's output; its exit code must be ``code``, and an error must be one line."""

    def asked(*arguments: str | Path, code: int = 0) -> str:
        assert main([str(one) for one in arguments]) == code
        printed = capsys.readouterr()
        if code:
            assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
            return printed.err
        return printed.out

    return asked


def rows(page: str) -> dict[str, list[str]]:
    """Return the cells of a table's lines by the task in their first cell."""
    lines = [line.split() for line in page.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0] in CACHED}


def counts(page: str, column: int) -> dict[str, int]:
    table = page[: page.index("to run: ")] if "to run: " in page else page
    found = {name: cells[column] for name, cells in rows(table).items()}
    return {name: int(cell) for name, cell in found.items() if cell != "-"}


def artifact(runs: Runs, stage: str, overrides: str = "") -> Path:
    """Return a stage's folder: of the set, or of its first scene."""
    plan = load_plan(runs.scene_set, "", overrides)
    scene = plan.scenes()[0] if STEPS[stage].is_per_scene else None
    return plan.key(stage, scene).folder


def edit(folder: Path, **values: object) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
