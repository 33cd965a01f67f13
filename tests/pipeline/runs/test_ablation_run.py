"""Whole ablations of very small rooms through Luigi: every arm, from one cache.

The oracle has no words, so the arm that asks by them is run with LISA-nano, by itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import luigi, tasks_done
from tests.support.finished_run import LINKS_MADE, ROOMS_MADE, FinishedRun
from tests.support.tiny_set import ROOMS, STUDENT, write_set

ONE_EPOCH = {**STUDENT, "epochs": 1}
TEACHER = {"name": "oracle", "oracle": {"miss": 0.0, "confuse": 0.0}}


@dataclass(frozen=True)
class Made:
    """A folder in which an ablation of two seeds was run, and what that printed."""

    folder: Path
    scene_set: str
    printed: str

    @property
    def results(self) -> Path:
        return self.folder / "output" / "tiny"

    def content(self, name: str) -> Any:
        return json.loads((self.results / name).read_text())


@pytest.fixture(scope="module")
def made(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("ablation")
    tiny_run.copy_stages(folder, ROOMS_MADE)
    config = {
        "generate": ROOMS,
        "teacher": TEACHER,
        "student": ONE_EPOCH,
        "prompts": {"bank": ["wall", "chair"]},
    }
    scene_set = write_set(folder / "tiny.yaml", config=config)
    run = luigi(folder, "Ablation", "--scene-set", scene_set, "--seeds", "2")
    assert run.returncode == 0, run.stdout
    return Made(folder, scene_set, run.stdout)


def test_arms_share_one_cache(made: Made) -> None:
    done = tasks_done(made.printed)
    assert done["RunTeacher"] == done["LinkPoints"] == done["PrepareScene"] == 3
    assert done["FuseMasks"] == 3 + 5  # E's for training too, the others' for the one val room
    assert done["TrainStudent"] == 2 + 2
    assert done["PredictMasks"] == 2 + 2
    assert done["MeasureArms"] == done["AblationReport"] == done["Ablation"] == 1


def test_figures_of_every_arm_are_put_in_place(made: Made) -> None:
    found = made.content("ablation.json")
    assert list(found["arms"]) == ["A", "B", "B+", "C", "D", "E", "F", "FE", "H", "I"]
    assert found["seeds"] == [0, 1] and found["convention"] == "strict"
    for name, arm in found["arms"].items():
        for figure in ("miou", "acc25", "acc50"):
            low, high = arm[figure]["ci95"]
            assert 0 <= low <= arm[figure]["mean"] + 1e-9 and arm[figure]["mean"] <= high + 1e-9
        assert arm["seconds"] > 0, name
    numbers = {arm["num_queries"] for name, arm in found["arms"].items() if name != "I"}
    assert len(numbers) == 1
    assert found["arms"]["F"]["seconds"] > found["arms"]["E"]["seconds"]
    assert set(found["wordings"]["E"]) == {"seen", "held_out"}
    assert "absent" in found["by_type"] and found["absent_curve"]
    assert (made.results / "ablation.svg").read_text().startswith("<svg")
    report = (made.results / "report.html").read_text()
    assert 'id="ablation"' in report and "student trained with labels" in report


def test_labels_of_the_experiment_score_as_in_its_evaluation(made: Made) -> None:
    metrics, found = made.content("metrics.json"), made.content("ablation.json")
    for task in ("implicit", "spatial", "multiple"):
        if task in metrics["by_task"]:
            for source, arm in (("fusion_only", "E"), ("student", "F")):
                expected = metrics[source]["by_task"][task]["miou"]
                if arm == "E":
                    assert found["by_type"][task][arm]["miou"] == pytest.approx(expected, abs=1e-6)
                assert found["by_type"][task][arm]["num_queries"] >= 1


def test_a_second_run_does_nothing_and_fewer_arms_compute_only_figures(made: Made) -> None:
    again = luigi(made.folder, "Ablation", "--scene-set", made.scene_set, "--seeds", "2")
    assert again.returncode == 0 and not tasks_done(again.stdout)
    before = (made.results / "ablation.json").read_bytes()
    options = ("--scene-set", made.scene_set, "--arms", "B,E")
    fewer = luigi(made.folder, "Ablation", *options)
    assert fewer.returncode == 0, fewer.stdout
    assert tasks_done(fewer.stdout) == {"MeasureArms": 1, "AblationReport": 1, "Ablation": 1}
    assert list(made.content("ablation.json")["arms"]) == ["B", "E"]
    back = luigi(made.folder, "Ablation", "--scene-set", made.scene_set, "--seeds", "2")
    assert tasks_done(back.stdout) == {"Ablation": 1}
    assert (made.results / "ablation.json").read_bytes() == before


def test_error_curves_are_put_in_place(made: Made) -> None:
    options = ("--scene-set", made.scene_set, "--rates", "0,0.5")
    run = luigi(made.folder, "ErrorCurves", *options)
    assert run.returncode == 0, run.stdout
    found = made.content("error_curves.json")
    assert list(found["errors"]) == ["hallucinate", "miss", "ragged"]
    for rows in found["errors"].values():
        assert [row["rate"] for row in rows] == [0.0, 0.5]
        assert list(rows[0]["arms"]) == ["B", "E", "F"]
    clean = [rows[0]["arms"] for rows in found["errors"].values()]
    assert clean[0] == clean[1] == clean[2]
    assert (made.results / "error_curves.svg").read_text().startswith("<svg")
    again = luigi(made.folder, "ErrorCurves", *options)
    assert again.returncode == 0 and not tasks_done(again.stdout)


def test_a_student_is_asked_by_text_alone(tiny_run: FinishedRun, tmp_path: Path) -> None:
    tiny_run.copy_stages(tmp_path, LINKS_MADE)
    config = {"generate": ROOMS, "teacher": {"name": "lisa_nano"}, "student": ONE_EPOCH}
    scene_set = write_set(tmp_path / "tiny.yaml", config=config)
    options = ("--scene-set", scene_set, "--arms", "F,G", "--seeds", "1")
    run = luigi(tmp_path, "Ablation", *options)
    assert run.returncode == 0, run.stdout
    done = tasks_done(run.stdout)
    assert done["TrainStudent"] == done["DistilText"] == 1 and done["PredictMasks"] == 2
    found = json.loads((tmp_path / "output" / "tiny" / "ablation.json").read_text())
    assert list(found["arms"]) == ["F", "G"] and found["by_type"]["referring"]["G"]["num_queries"]


def test_tuning_rooms_are_scored_apart_and_without_a_report(tmp_path: Path) -> None:
    splits = {"train": "nvs_sem_train", "val": "nvs_sem_val", "tune": "nvs_sem_tune"}
    queries = {name: f"queries/{name}.json" for name in splits}
    config = {"generate": {**ROOMS, "train_rooms": 1, "tune_rooms": 1}, "teacher": TEACHER}
    scene_set = write_set(tmp_path / "tiny.yaml", splits=splits, queries=queries, config=config)
    options = ("--scene-set", scene_set, "--split", "tune", "--arms", "B,E")
    run = luigi(tmp_path, "Ablation", *options)
    assert run.returncode == 0, run.stdout
    done = tasks_done(run.stdout)
    assert done["RunTeacher"] == 1 and done["FuseMasks"] == 2 and "Evaluate" not in done
    results = tmp_path / "output" / "tiny"
    found = json.loads((results / "ablation_tune.json").read_text())
    assert found["split"] == "tune" and list(found["arms"]) == ["B", "E"]
    assert set(found["wordings"]["E"]) == {"seen", "held_out"}
    assert found["wordings"]["E"]["held_out"]["num_queries"] == 0
    assert not (results / "ablation.json").exists() and not (results / "report.html").exists()
