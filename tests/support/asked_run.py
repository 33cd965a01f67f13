"""A real run of very small rooms with answers to text queries; a fixture to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.plan import Plan, load_plan
from tests.support.cli import luigi
from tests.support.finished_run import LABELS_MADE, FinishedRun, made_once
from tests.support.tiny_set import ROOMS, STUDENT, TEACHER, write_set
from tests.support.worlds.text_folders import sentence_folder

SET = "asked"
INJECTED = "<img src=x onerror=alert(1)>"


@dataclass(frozen=True)
class AskedRun:
    """The output of ``PredictMasks`` with ``predict.tokens=text``."""

    scene_set: str
    output: Path

    @property
    def plan(self) -> Plan:
        return load_plan(self.scene_set)

    @property
    def scene(self) -> str:
        """The validation scene."""
        return self.plan.scenes("val")[0]


@pytest.fixture(scope="session")
def made_asked(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> AskedRun:
    """Run Luigi once for all test processes."""

    def make(folder: Path) -> None:
        tiny_run.copy_stages(folder, LABELS_MADE, SET)
        config = {
            "generate": ROOMS,
            "teacher": TEACHER,
            "student": {**STUDENT, "preset": "tiny", "epochs": 20},
            "text": {"encoder": "sentence", "weights": str(sentence_folder(folder / "weights"))},
            "predict": {"tokens": "text", "presence": 0.0},
        }
        scene_set = write_set(folder / f"{SET}.yaml", config=config)
        run = luigi(folder, "PredictMasks", "--scene-set", scene_set)
        assert run.returncode == 0, run.stdout

    folder = made_once(tmp_path_factory, "asked", make)
    return AskedRun(str(folder / f"{SET}.yaml"), folder / "output")


@pytest.fixture
def asked_run(made_asked: AskedRun, monkeypatch: pytest.MonkeyPatch) -> AskedRun:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(made_asked.output))
    return made_asked
