"""plan and status tell what Luigi would run, why, and how far it is."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from pathlib import Path

import pytest

from data.artifacts.store import ArtifactKey, writing
from pipeline.plan import load_plan
from tests.support import two_runs
from tests.support.cli import luigi, tasks_done
from tests.support.two_runs import (
    AFTER_STUDENT,
    CACHED,
    SECOND,
    Ask,
    Runs,
    artifact,
    counts,
    edit,
    rows,
)

# Pytest finds a module's fixtures by name.
made, runs, copied, ask = two_runs.made, two_runs.runs, two_runs.copied, two_runs.ask


def test_a_finished_run_is_all_cached(runs: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", runs.scene_set, "--overrides", SECOND)
    assert counts(page, 0) == CACHED and not counts(page, 1)
    assert page.splitlines()[0] == f"tiny: {runs.output}"
    assert page.endswith("RunAll has nothing to do\n")


def test_going_back_only_puts_results_in_place(runs: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", runs.scene_set)
    assert counts(page, 0) == CACHED and "would only put the results in place" in page


def test_nothing_made_yet(made: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", made.scene_set)
    assert counts(page, 1) == CACHED and not counts(page, 0)
    assert "to run: 23 of 23, duration unknown: nothing was run before" in page
    assert "FuseMasks x 3: never run" in page and "TrainStudent: never run" in page
    assert rows(page[: page.index("to run: ")])["FuseMasks"][-2:] == ["unknown", "unknown"]


def test_the_reason_is_what_changed_since_the_latest_run(runs: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", runs.scene_set, "--overrides", "student.lr=0.03")
    assert counts(page, 1) == dict.fromkeys(AFTER_STUDENT, 1)
    told = page[page.index("to run: 5 of 23, about") :].splitlines()[1:]
    assert set(told) == {
        "TrainStudent: student.lr from 0.02 to 0.03",
        "PredictMasks: input student: TrainStudent runs anew",
        "AnswerQuestions: input masks: PredictMasks runs anew",
        "Evaluate: input masks: PredictMasks runs anew; input answers: AnswerQuestions runs anew",
        "Report: input evaluation: Evaluate runs anew",
    }


def test_an_input_made_before_tells_its_own_reason(runs: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", runs.scene_set, "--overrides", "predict.threshold=half")
    (line,) = [line for line in page.splitlines() if line.startswith("PredictMasks: ")]
    assert re.search(r'predict\.threshold from "\w+" to "half"', line)
    other = "input student: another artifact of TrainStudent, already finished "
    other += "(student.lr from 0.02 to 0.01)"
    assert line.endswith(other)


def test_links_and_masks_are_traced_to_the_scene_through_its_views(runs: Runs, ask: Ask) -> None:
    page = ask(
        "plan", "--scene-set", runs.scene_set, "--overrides", f"prepare.max_views=3,{SECOND}"
    )
    assert re.search(r"PrepareScene x 3: prepare.max_views from \d+ to 3\n", page)
    assert "LinkPoints x 3: input views: PrepareScene runs anew\n" in page
    assert "RunTeacher x 3: input views: PrepareScene runs anew\n" in page
    assert "TrainStudent: input labels: FuseMasks runs anew (2 of them)" in page


def test_luigi_runs_what_was_planned(copied: Runs, ask: Ask) -> None:
    small = "report.picture_width=64,report.view_width=32"
    overrides = ("--overrides", f"fuse.views=all,{small}")
    planned = counts(ask("plan", "--scene-set", copied.scene_set, *overrides), 1)
    run = luigi(copied.folder, "RunAll", "--scene-set", copied.scene_set, *overrides)
    assert run.returncode == 0, run.stdout
    assert {**planned, "RunAll": 1} == tasks_done(run.stdout)


def test_estimates_are_medians_of_what_is_recorded(copied: Runs, ask: Ask) -> None:
    labels = sorted((copied.output / "fuse_masks").glob("*/*/metadata.json"))
    for path, seconds, size in zip(labels, (1, 2, 30), (100, 200, 3000), strict=True):
        edit(path.parent, wall_seconds=seconds, files={"pseudo.zarr/x": {"bytes": size}})
    page = ask("plan", "--scene-set", copied.scene_set, "--overrides", "fuse.views=all")
    assert rows(page[: page.index("to run: ")])["FuseMasks"] == [
        "-",
        "3",
        "-",
        *"6.0 s 600 B".split(),
    ]


def test_what_nothing_asks_for_does_not_run(copied: Runs, ask: Ask) -> None:
    shutil.rmtree(copied.output / "link_points")
    page = ask("plan", "--scene-set", copied.scene_set, "--overrides", SECOND)
    assert rows(page)["LinkPoints"][:3] == ["-", "-", "3"] and "nothing to do" in page


@pytest.mark.parametrize("content", ["{", "[]", "", '{"stage": "fuse_masks"}'])
def test_damaged_metadata_is_named(copied: Runs, ask: Ask, content: str) -> None:
    folder = artifact(copied, "fuse_masks")
    (folder / "metadata.json").write_text(content)
    line = ("--scene-set", copied.scene_set, "--overrides", "student.lr=0.03")
    page = ask("plan", *line)
    assert "FuseMasks: metadata.json is damaged" in page
    assert f"damaged: {folder / 'metadata.json'}: expected the metadata" in page
    page = ask("status", *line)
    assert rows(page)["FuseMasks"][:6] == ["2", *"---", "1", "-"] and str(folder) in page
    assert str(folder / "metadata.json") in ask("explain", folder, code=2)
    assert str(folder / "metadata.json") in ask("diff", folder, folder, code=2)
    page = ask("explain", artifact(copied, "report"))
    assert f"damaged: {folder / 'metadata.json'}" in page


def test_a_file_cut_short_is_named(copied: Runs, ask: Ask) -> None:
    weights = artifact(copied, "train_student") / "model.safetensors"
    size = weights.stat().st_size
    weights.write_bytes(weights.read_bytes()[:7])
    for stage in ("report", "evaluate", "answer_questions", "predict_masks"):
        shutil.rmtree(copied.output / stage)
    page = ask("plan", "--scene-set", copied.scene_set)
    cut = f"damaged: model.safetensors has 7 bytes, expected {size}"
    assert f"TrainStudent: {cut}" in page


def test_the_state_of_every_stage(runs: Runs, ask: Ask) -> None:
    page = ask("status", "--scene-set", runs.scene_set, "--overrides", "student.lr=0.03")
    assert rows(page)["LinkPoints"] == ["3", *"------"]
    # Both runs' are stale: done, running, failed, partial, damaged, missing, stale.
    assert rows(page)["TrainStudent"] == [*"-----", "1", "2"]
    assert "results of this config: not in place" in page
    scene = load_plan(runs.scene_set).scenes()[0]
    assert scene not in page
    page = ask("status", "--scene-set", runs.scene_set, "--overrides", SECOND, "--scenes")
    assert "results of this config: in place" in page
    (row,) = [line.split() for line in page.splitlines() if line.startswith(scene)]
    assert row == [scene, *["done"] * 5]  # room, scene, links, teacher, labels
    (whole,) = [line for line in page.splitlines() if line.startswith("(whole set)")]
    assert whole.split("(whole set)")[1].split() == ["done", "done", *["done", "+1"] * 3]


def test_the_size_is_that_of_all_files(made: Runs, ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "output/tiny/somewhere"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 1_200_000)
    (folder.parent / "b").write_bytes(b"x" * 34_000)
    page = ask("status", "--scene-set", made.scene_set)
    assert page.splitlines()[0] == f"tiny: {folder.parent}, 1.23 MB"


def teacher_key(runs: Runs) -> ArtifactKey:
    plan = load_plan(runs.scene_set)
    return plan.key("run_teacher", plan.scenes()[0])


def half_a_cache(folder: Path) -> None:
    """Answers on two of four views, and a third that was just being written."""
    views = folder / "teacher.zarr/views"
    (views / "c").mkdir(parents=True)
    for name in ("c/0", "c/1", "c/2.abc.partial"):
        (views / name).write_bytes(b"x")
    (views / "zarr.json").write_text(json.dumps({"shape": [4]}))


def test_partial_and_running(made: Runs, ask: Ask) -> None:
    key = teacher_key(made)
    line = ("status", "--scene-set", made.scene_set, "--scenes")
    scene = load_plan(made.scene_set).scenes()[0]
    with writing(key) as folder:
        assert folder is not None
        half_a_cache(folder)
        page = ask(*line)
    told = rf"running: RunTeacher {scene} \(2 of 4 views, on {re.escape(platform.node())}, "
    assert re.search(rf"{told}process {os.getpid()}, for \d\.\d s\)", page)
    assert rows(page)["RunTeacher"][:6] == ["-", "1", *"---", "2"]
    assert not (key.folder / ".holder.json").exists()
    (key.folder / "metadata.json").unlink()
    page = ask(*line)
    assert f"partial: RunTeacher {scene} (2 of 4 views)" in page
    assert "partial 2/4" in page.split("(whole set)")[0]
    assert "RunTeacher: begun, not finished" in ask("plan", "--scene-set", made.scene_set)


def test_a_run_that_failed_holds_nothing_and_tells_why(made: Runs, ask: Ask) -> None:
    key = teacher_key(made)
    with pytest.raises(RuntimeError), writing(key) as folder:
        assert folder is not None and (folder / ".holder.json").exists()
        raise RuntimeError("out of words\nand much more")
    page = ask("status", "--scene-set", made.scene_set)
    assert rows(page)["RunTeacher"][:6] == [*"--", "1", *"--", "2"]
    told = f"RunTeacher {load_plan(made.scene_set).scenes()[0]}: RuntimeError: out of words (on "
    assert f"failed: {told}{platform.node()}, " in page and "much more" not in page
    assert not (key.folder / ".holder.json").exists()
    with writing(key) as folder:
        assert folder is not None
        assert rows(ask("status", "--scene-set", made.scene_set))["RunTeacher"][1:3] == ["1", "-"]
        (folder / "file").write_text("now it works")
    page = ask("status", "--scene-set", made.scene_set)
    assert "failed:" not in page and rows(page)["RunTeacher"][:3] == ["1", *"--"]


def test_a_damaged_layout_is_named(made: Runs, ask: Ask) -> None:
    folder = teacher_key(made).folder
    half_a_cache(folder)
    (folder / "teacher.zarr/views/zarr.json").write_text("{")
    assert "views/zarr.json" in ask("status", "--scene-set", made.scene_set, code=2)
