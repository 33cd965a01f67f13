"""The whole pipeline on very small rooms, through the real command."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.artifacts.evaluation import SOURCES
from data.artifacts.prompts import read_prompts
from data.artifacts.soft_masks import read_predictions
from pipeline.plan import load_plan
from tests.support.cli import forking_luigi, luigi, tasks_done
from tests.support.finished_run import FinishedRun
from tests.support.tiny_set import write_set


@dataclass(frozen=True)
class Finished:
    """A finished run: its working folder, its scene set and what it printed."""

    folder: Path
    scene_set: str
    printed: str

    @property
    def results(self) -> Path:
        return self.folder / "output" / "tiny"


@pytest.fixture(scope="module")
def finished(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One RunAll from nothing."""
    folder = tmp_path_factory.mktemp("run")
    return Finished(folder, tiny_run.copy(folder), tiny_run.printed)


@pytest.fixture
def rooms_on_disk(finished: Finished, tmp_path: Path) -> Path:
    """The generated rooms copied to be a dataset of the user's own."""
    (made,) = [p for p in (finished.results / "generate_rooms").iterdir() if p.is_dir()]
    root = tmp_path / "rooms"
    shutil.copytree(made, root)
    return root


def test_every_stage_runs_once_per_scene(finished: Finished) -> None:
    assert tasks_done(finished.printed) == {
        "GenerateRoom": 3,
        "GenerateRooms": 1,
        "PrepareScene": 3,
        "PreparePrompts": 1,
        "LinkPoints": 3,
        "RunTeacher": 3,
        "FuseMasks": 3,
        "TrainStudent": 1,
        "PredictMasks": 1,
        "EvaluateTeacher2D": 1,
        "AnswerQuestions": 1,
        "Evaluate": 1,
        "Report": 1,
        "RunAll": 1,
    }


def test_metrics_hold_what_users_read(finished: Finished) -> None:
    metrics = json.loads((finished.results / "metrics.json").read_text())
    figures = {"miou", "giou", "ciou", "acc25", "acc50"}
    assert {"num_queries", "conventions", "by_task", "by_target_count"} <= set(metrics)
    for source in (metrics, *(metrics[name] for name in SOURCES)):
        assert all(0 <= source[name] <= 1 for name in figures)
    assert sum(part["num_queries"] for part in metrics["by_task"].values()) == (
        metrics["num_queries"]
    )
    assert metrics["fusion_only"]["miou"] > 0.05
    teacher = metrics["teacher_2d"]
    assert set(teacher["by_task"]) == set(metrics["by_task"])
    assert teacher["pairs"] == 4 * metrics["num_queries"] and teacher["failed"] == 0
    assert 0.1 < teacher["mask_iou"] < 1 and 0.5 < teacher["presence"] <= 1
    assert set(metrics["by_task"]) <= {"referring", "implicit", "spatial", "multiple", "absent"}


def test_the_report_shows_every_validation_query_and_needs_no_network(finished: Finished) -> None:
    page = (finished.results / "report.html").read_text()
    (prompts,) = (finished.results / "prepare_prompts").glob("*/prompts.json")
    val = read_prompts(prompts.parent)["val"]
    assert val and all(html.escape(prompt.text) in page for prompt in val)
    assert "oracle" in page.lower()
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page)


def test_a_second_run_does_nothing(finished: Finished) -> None:
    run = luigi(finished.folder, "RunAll", "--scene-set", finished.scene_set)
    assert run.returncode == 0 and not tasks_done(run.stdout)


def test_a_new_learning_rate_reruns_what_depends_on_it_and_going_back_nothing(
    finished: Finished,
) -> None:
    metrics = finished.results / "metrics.json"
    before = metrics.read_bytes()
    line = ("RunAll", "--scene-set", finished.scene_set)
    changed = luigi(finished.folder, *line, "--overrides", "student.lr=0.02")
    assert changed.returncode == 0, changed.stdout
    assert set(tasks_done(changed.stdout)) == {
        "TrainStudent",
        "PredictMasks",
        "AnswerQuestions",
        "Evaluate",
        "Report",
        "RunAll",
    }
    back = luigi(finished.folder, *line)
    assert back.returncode == 0 and set(tasks_done(back.stdout)) == {"RunAll"}
    assert metrics.read_bytes() == before


def test_the_same_config_gives_the_same_bits(finished: Finished, tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml")
    asked = ("PredictMasks", "--scene-set", scene_set, "--workers", "2")
    run = forking_luigi(tmp_path, *asked)
    assert run.returncode == 0, run.stdout
    for pattern in (
        "generate_rooms/*/data/*/scans/*.ply",
        "prepare_scene/*/*/scene.h5",
        "train_student/*/model.safetensors",
    ):
        ours = sorted((tmp_path / "output/tiny").glob(pattern))
        theirs = [finished.results / path.relative_to(tmp_path / "output/tiny") for path in ours]
        assert ours and [p.read_bytes() for p in ours] == [p.read_bytes() for p in theirs]
    again, once = (read_only(root / "output/tiny") for root in (tmp_path, finished.folder))
    assert again == once


def read_only(results: Path) -> list[bytes]:
    """The one validation scene's predicted probabilities, of the default learning rate."""
    (folder,) = [
        path.parent
        for path in sorted(results.glob("predict_masks/*/*/metadata.json"))
        if json.loads(path.read_text())["inputs"]["student"] in _default_students(results)
    ]
    predictions = read_predictions(folder)
    return [predictions.probs.tobytes(), predictions.masks.tobytes()]


def _default_students(results: Path) -> set[str]:
    paths = sorted(results.glob("train_student/*/metadata.json"))
    contents = [json.loads(path.read_text()) for path in paths]
    return {c["fingerprint"] for c in contents if c["config"]["lr"] != 0.02}


def test_the_same_rooms_as_a_dataset_on_disk(rooms_on_disk: Path, tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "disk.yaml", data_root=str(rooms_on_disk))
    run = luigi(tmp_path, "FuseMasks", "--scene-set", scene_set)
    assert run.returncode == 0, run.stdout
    done = tasks_done(run.stdout)
    assert done["FuseMasks"] == 3 or done["FuseMasks"] == 4
    assert "GenerateRoom" not in done


def test_one_broken_scene_costs_only_itself(rooms_on_disk: Path, tmp_path: Path) -> None:
    plan_ids = (rooms_on_disk / "splits/nvs_sem_train.txt").read_text().split()
    broken = rooms_on_disk / "data" / plan_ids[0] / "scans/segments_anno.json"
    broken.write_text(broken.read_text()[:-40])
    scene_set = write_set(tmp_path / "disk.yaml", data_root=str(rooms_on_disk))
    run = luigi(tmp_path, "LinkPoints", "--scene-set", scene_set)
    assert run.returncode == 30, run.stdout
    assert "segments_anno.json: expected" in run.stdout
    assert "Traceback" not in run.stdout and run.stdout.count("ERROR") == 1
    assert tasks_done(run.stdout)["LinkPoints"] == 2


def test_a_query_of_an_unknown_scene_is_one_error_and_keeps_other_work(
    rooms_on_disk: Path, tmp_path: Path
) -> None:
    path = rooms_on_disk / "queries/val.json"
    records = json.loads(path.read_text())
    path.write_text(json.dumps([*records, {**records[0], "scene_id": "ffffffffff"}]))
    scene_set = write_set(tmp_path / "disk.yaml", data_root=str(rooms_on_disk))
    run = luigi(tmp_path, "FuseMasks", "--scene-set", scene_set)
    assert run.returncode == 30, run.stdout
    assert "ffffffffff" in run.stdout and "val.json" in run.stdout
    assert "Traceback" not in run.stdout and run.stdout.count("ERROR") == 1
    assert tasks_done(run.stdout)["LinkPoints"] == 3


@pytest.mark.parametrize("content", ["", "\n\n", None])
def test_an_empty_or_missing_split_is_one_error(
    rooms_on_disk: Path, tmp_path: Path, content: str | None
) -> None:
    path = rooms_on_disk / "splits/nvs_sem_val.txt"
    path.unlink() if content is None else path.write_text(content)
    scene_set = write_set(tmp_path / "disk.yaml", data_root=str(rooms_on_disk))
    run = luigi(tmp_path, "RunAll", "--scene-set", scene_set)
    assert run.returncode != 0
    assert "nvs_sem_val.txt" in run.stdout
    assert "Traceback" not in run.stdout and run.stdout.count("ERROR") == 1


def test_splits_that_share_a_scene_are_refused(rooms_on_disk: Path, tmp_path: Path) -> None:
    val, train = (rooms_on_disk / f"splits/nvs_sem_{name}.txt" for name in ("val", "train"))
    val.write_text(val.read_text().strip() + "\n" + train.read_text().split()[0] + "\n")
    scene_set = write_set(tmp_path / "disk.yaml", data_root=str(rooms_on_disk))
    run = luigi(tmp_path, "RunAll", "--scene-set", scene_set)
    assert run.returncode != 0 and "both splits" in run.stdout and "Traceback" not in run.stdout


STUDENT = "train_student"
STAGES = (
    "prepare_scene",
    "link_points",
    "run_teacher",
    "evaluate_teacher_2d",
    "fuse_masks",
    "train_student",
    "predict_masks",
    "answer_questions",
    "evaluate",
    "report",
)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        (
            "student.lr=0.02",
            {"train_student", "predict_masks", "answer_questions", "evaluate", "report"},
        ),
        (
            "fuse.views=all",
            {
                "fuse_masks",
                "train_student",
                "predict_masks",
                "answer_questions",
                "evaluate",
                "report",
            },
        ),
        ("teacher.lisa.max_new_tokens=9", set(STAGES) - {"prepare_scene", "link_points"}),
        (
            "link.depth_tolerance=0.1",
            set(STAGES) - {"prepare_scene", "run_teacher", "evaluate_teacher_2d"},
        ),
        ("predict.threshold=half", {"predict_masks", "answer_questions", "evaluate", "report"}),
        ("predict.student=demo", set()),
        ("finetune.lr=0.02", set()),
        (
            "finetune.start=demo",
            {"train_student", "predict_masks", "answer_questions", "evaluate", "report"},
        ),
        ("prompts.rooms={loft: [the beam]}", set()),
        ("judge.stride=3", {"evaluate_teacher_2d", "evaluate", "report"}),
        ("report.max_pictures=3", {"report"}),
        ("prepare.superpoint_threshold=0.1", set(STAGES) - {"link_points", "run_teacher"}),
        ("prepare.max_views=3", set(STAGES)),
        ("generate.seed=8", set(STAGES)),
    ],
)
def test_a_change_reaches_what_depends_on_it_and_no_more(override: str, changed: set[str]) -> None:
    def fingerprints(overrides: str) -> dict[str, str]:
        plan = load_plan("demo", "", overrides)
        scene = load_plan("demo").scenes("val")[0] if "generate" not in overrides else None
        name = scene or plan.scenes("val")[0]
        per_set = {"evaluate", "report"}
        keys = {s: plan.key(s, None if s in per_set else name) for s in STAGES if s != STUDENT}
        keys[STUDENT] = plan.student()  # It may be another set's.
        return {stage: key.fingerprint for stage, key in keys.items()}

    before, after = fingerprints(""), fingerprints(override)
    assert {stage for stage in STAGES if before[stage] != after[stage]} == changed
