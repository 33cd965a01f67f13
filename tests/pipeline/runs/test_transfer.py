"""Finetune and EvaluateZeroShot through Luigi: whose student answers, and what is compared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError
from pipeline.plan import load_plan
from pipeline.tasks.transfer import EvaluateZeroShot, Finetune
from tests.support.cli import luigi, tasks_done
from tests.support.finished_run import LABELS_MADE, FinishedRun
from tests.support.tiny_set import ROOMS, STUDENT, TEACHER, write_set

FINETUNE = {"epochs": 1, "lr": 0.001}


@dataclass(frozen=True)
class Made:
    """Results below ``folder`` of two sets, home and abroad, and what each run printed."""

    folder: Path
    home: str
    abroad: str
    finetuned: str
    zero_shot: str

    def content(self, name: str) -> Any:
        return json.loads((self.folder / "output" / name).read_text())

    def student(self) -> Path:
        (folder,) = (self.folder / "output" / "home" / "train_student").glob("[!.]*")
        return folder


def write_sets(folder: Path) -> tuple[str, str]:
    shared = {"teacher": TEACHER, "student": {**STUDENT, "epochs": 1}, "finetune": FINETUNE}
    home = write_set(folder / "home.yaml", config={"generate": ROOMS, **shared})
    elsewhere = {**ROOMS, "train_rooms": 0, "seed": 5, "room_scale": 1.3}
    return home, write_set(folder / "abroad.yaml", config={"generate": elsewhere, **shared})


@pytest.fixture(scope="module")
def made(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("transfer")
    tiny_run.copy_stages(folder, LABELS_MADE, "home")
    home, abroad = write_sets(folder)
    finetuned = luigi(folder, "Finetune", "--scene-set", home, "--from", home)
    assert finetuned.returncode == 0, finetuned.stdout
    told = ("--scene-set", abroad, "--student-from", home)
    zero_shot = luigi(folder, "EvaluateZeroShot", *told)
    assert zero_shot.returncode == 0, zero_shot.stdout
    return Made(folder, home, abroad, finetuned.stdout, zero_shot.stdout)


def test_a_label_free_student_is_trained_once_and_further_on_truth(made: Made) -> None:
    done = tasks_done(made.finetuned)
    assert done["TrainStudent"] == done["FinetuneStudent"] == 1
    assert done["OracleLabels"] == 2 and done["PredictMasks"] == done["Evaluate"] == 2
    (folder,) = (made.folder / "output" / "home" / "finetune_student").glob("[!.]*")
    metadata = json.loads((folder / "metadata.json").read_text())
    student = json.loads((made.student() / "metadata.json").read_text())
    assert metadata["inputs"]["start"] == student["fingerprint"]
    assert metadata["config"]["supervision"] == "oracle"
    assert (metadata["config"]["epochs"], metadata["config"]["lr"]) == (1, 0.001)
    assert student["config"]["supervision"] == "label_free"


def test_figures_before_and_after_stand_beside_the_report(made: Made) -> None:
    found = made.content("home/finetuned/comparison.json")
    assert list(found) == ["before", "after"]
    after = made.content("home/finetuned/metrics.json")
    assert found["after"]["student"] == {
        key: after["student"][key] for key in found["after"]["student"]
    }
    assert found["before"]["fusion_only"] == found["after"]["fusion_only"]
    assert found["before"]["student"]["num_queries"] == after["num_queries"]
    page = (made.folder / "output" / "home" / "finetuned" / "report.html").read_text()
    assert "Trained on ground truth" in page
    assert not (made.folder / "output" / "home" / "metrics.json").exists()


def test_another_sets_student_answers_and_none_is_trained_there(made: Made) -> None:
    done = tasks_done(made.zero_shot)
    assert "TrainStudent" not in done and done["PredictMasks"] == 1
    (folder,) = (made.folder / "output" / "abroad" / "predict_masks").glob("*/*/metadata.json")
    student = json.loads((made.student() / "metadata.json").read_text())
    assert json.loads(folder.read_text())["inputs"]["student"] == student["fingerprint"]
    page = (made.folder / "output" / "abroad" / "zero_shot" / "report.html").read_text()
    assert "Trained on ground truth" not in page


def test_a_students_folder_means_the_same_and_nothing_is_done_twice(made: Made) -> None:
    told = ("--scene-set", made.abroad, "--student-from", str(made.student()))
    again = luigi(made.folder, "EvaluateZeroShot", *told)
    assert again.returncode == 0 and not tasks_done(again.stdout), again.stdout
    for arguments in (("--from", made.home), ("--from", str(made.student()))):
        same = luigi(made.folder, "Finetune", "--scene-set", made.home, *arguments)
        assert same.returncode == 0 and not tasks_done(same.stdout), same.stdout


def test_a_set_without_training_rooms_has_no_student_of_its_own(made: Made) -> None:
    run = luigi(made.folder, "TrainStudent", "--scene-set", made.abroad)
    assert run.returncode == 30 and "no scene" in run.stdout and "Traceback" not in run.stdout


def test_the_same_student_has_the_same_answers_under_every_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    home, abroad = write_sets(tmp_path)
    own, named = load_plan(home), load_plan(home, "", f"predict.student={home}")
    (val,) = own.scenes("val")
    assert named.key("predict_masks", val) == own.key("predict_masks", val)
    assert named.key("evaluate").fingerprint == own.key("evaluate").fingerprint
    further = load_plan(home, "", f"finetune.start={home}")
    assert further.key("train_student") == own.student() != further.student()
    slower = load_plan(home, "", f"finetune.start={home},finetune.lr=0.5")
    assert slower.student().fingerprint != further.student().fingerprint
    assert load_plan(home, "", "finetune.lr=0.5").student() == own.student()
    other = load_plan(abroad, "", f"predict.student={home}")
    assert other.student() == own.student()


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("", "expected a student, found none. Name a scene set"),
        ("nowhere", "found neither"),
        ("empty", "a folder without a finished artifact"),
        ("other", "an artifact of link_points"),
        ("old", "an artifact of train_student, schema 1"),
        ("missing.yaml", "no scene set"),
    ],
)
def test_what_is_no_student_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    home, _ = write_sets(tmp_path)
    for name, content in (("empty", None), ("other", "link_points"), ("old", "train_student")):
        (tmp_path / name).mkdir()
        if content:
            text = json.dumps({"stage": content, "schema_version": 1})
            (tmp_path / name / "metadata.json").write_text(text)
    with pytest.raises(ConfigError, match=told):
        EvaluateZeroShot(scene_set=home, student_from=place)
    with pytest.raises(ConfigError, match=told):
        Finetune(scene_set=home, **{"from": place})


def test_a_start_that_saw_labels_and_two_students_at_once_are_refused(tmp_path: Path) -> None:
    home, _ = write_sets(tmp_path)
    with pytest.raises(
        ConfigError, match="expected a label-free student, found .* trained on ground truth"
    ):
        Finetune(scene_set=home, overrides="student.supervision=oracle", **{"from": home})
    with pytest.raises(ConfigError, match="set only one of them"):
        load_plan(home, "", f"finetune.start={home},predict.student={home}")
    by_words = f"predict.student={tmp_path},predict.tokens=text"
    with pytest.raises(ConfigError, match="expected a scene set, or the folder"):
        load_plan(home, "", by_words).student()
