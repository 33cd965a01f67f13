"""plan, status, explain and diff on a real run of very small rooms."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.artifacts.store import ArtifactKey, writing
from pipeline.__main__ import main
from pipeline.plan import load_plan
from tests.cli import luigi, tasks_done
from tests.tiny_set import write_set

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
    "JudgeTeacher": 1,
    "AnswerQuestions": 1,
    "Evaluate": 1,
    "Report": 1,
}
AFTER_STUDENT = {"TrainStudent", "PredictMasks", "AnswerQuestions", "Evaluate", "Report"}
SECOND = "student.lr=0.02"


@dataclass(frozen=True)
class Runs:
    """Two finished runs, the second at another learning rate."""

    folder: Path
    scene_set: str

    @property
    def output(self) -> Path:
        return self.folder / "output" / "tiny"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Made by Luigi, to read."""
    folder = tmp_path_factory.mktemp("run")
    scene_set = write_set(folder / "tiny.yaml")
    for overrides in ("", SECOND):
        run = luigi(folder, "RunAll", "--scene-set", scene_set, "--overrides", overrides)
        assert run.returncode == 0, run.stdout
    return Runs(folder, scene_set)


@pytest.fixture
def runs(made: Runs, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(made.output.parent))
    return made


@pytest.fixture
def copied(made: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    """A copy, to break."""
    shutil.copytree(made.output, tmp_path / "output" / "tiny")
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    return Runs(tmp_path, made.scene_set)


Ask = Callable[..., str]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    """What a command prints; its exit code must be ``code``, and one line tells a mistake."""

    def asked(*arguments: str | Path, code: int = 0) -> str:
        assert main([str(one) for one in arguments]) == code
        printed = capsys.readouterr()
        if code:
            assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
            return printed.err
        return printed.out

    return asked


def rows(page: str) -> dict[str, list[str]]:
    """The cells of a table's lines, by the task they begin with."""
    lines = [line.split() for line in page.splitlines()]
    return {cells[0]: cells[1:] for cells in lines if cells and cells[0] in CACHED}


def counts(page: str, column: int) -> dict[str, int]:
    table = page[: page.index("to run: ")] if "to run: " in page else page
    found = {name: cells[column] for name, cells in rows(table).items()}
    return {name: int(cell) for name, cell in found.items() if cell != "-"}


def artifact(runs: Runs, stage: str, overrides: str = "") -> Path:
    """A stage's folder: of the set, or of its first scene."""
    plan = load_plan(runs.scene_set, "", overrides)
    keys = {
        "train_student": plan.student,
        "evaluate": plan.evaluate,
        "report": plan.report,
        "fuse_masks": lambda: plan.fuse(plan.scenes()[0]),
    }
    return keys[stage]().folder


def edit(folder: Path, **values: object) -> None:
    path = folder / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


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
    assert "to run: 23 of 23, nothing recorded tells how long" in page
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
        "Evaluate: input masks: PredictMasks runs anew; input said: AnswerQuestions runs anew",
        "Report: input evaluation: Evaluate runs anew",
    }


def test_an_input_made_before_tells_its_own_reason(runs: Runs, ask: Ask) -> None:
    page = ask("plan", "--scene-set", runs.scene_set, "--overrides", "predict.threshold=half")
    (line,) = [line for line in page.splitlines() if line.startswith("PredictMasks: ")]
    assert re.search(r'predict\.threshold from "\w+" to "half"', line)
    other = "input student: another of TrainStudent, made before (student.lr from 0.02 to 0.01)"
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
    overrides = ("--overrides", "fuse.views=all")
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
    assert rows(page)["FuseMasks"][:5] == ["2", "-", "-", "1", "-"] and str(folder) in page
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
    cut = f"damaged: model.safetensors has 7 bytes, recorded were {size}"
    assert f"TrainStudent: {cut}" in page


def test_the_state_of_every_stage(runs: Runs, ask: Ask) -> None:
    page = ask("status", "--scene-set", runs.scene_set, "--overrides", "student.lr=0.03")
    assert rows(page)["LinkPoints"] == ["3", "-", "-", "-", "-", "-"]
    # Both runs' are stale: done, running, partial, damaged, missing, stale.
    assert rows(page)["TrainStudent"] == ["-", "-", "-", "-", "1", "2"]
    assert "results of this config: not in place" in page
    scene = load_plan(runs.scene_set).scenes()[0]
    assert scene not in page
    page = ask("status", "--scene-set", runs.scene_set, "--overrides", SECOND, "--scenes")
    assert "results of this config: in place" in page
    (row,) = [line.split() for line in page.splitlines() if line.startswith(scene)]
    assert row == [scene, *["done"] * 5]  # room, scene, links, teacher, labels
    (row,) = [line for line in page.splitlines() if line.startswith("(whole set)")]
    assert row.split("(whole set)")[1].split() == ["done", "done", *["done", "+1"] * 3]


def test_the_size_is_that_of_all_files(made: Runs, ask: Ask, tmp_path: Path) -> None:
    folder = tmp_path / "output/tiny/somewhere"
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 1_200_000)
    (folder.parent / "b").write_bytes(b"x" * 34_000)
    page = ask("status", "--scene-set", made.scene_set)
    assert page.splitlines()[0] == f"tiny: {folder.parent}, 1.23 MB"


def teacher_key(runs: Runs) -> ArtifactKey:
    plan = load_plan(runs.scene_set)
    return plan.teacher(plan.scenes()[0])


def half_a_cache(folder: Path) -> None:
    """Masks of two of four views, and a third that was just being written."""
    masks = folder / "teacher.zarr/mask_logits"
    for name in ("c/0/0/0/0", "c/1/0/0/0", "c/2/0/0/0.abc.partial"):
        (masks / name).parent.mkdir(parents=True)
        (masks / name).write_bytes(b"x")
    (masks / "zarr.json").write_text(json.dumps({"shape": [4, 3, 16, 24]}))


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
    assert rows(page)["RunTeacher"][:5] == ["-", "1", "-", "-", "2"]
    assert not (key.folder / ".holder.json").exists()
    (key.folder / "metadata.json").unlink()
    page = ask(*line)
    assert f"partial: RunTeacher {scene} (2 of 4 views)" in page
    assert "partial 2/4" in page.split("(whole set)")[0]
    assert "RunTeacher: begun and not finished" in ask("plan", "--scene-set", made.scene_set)


def test_a_run_that_failed_holds_nothing(made: Runs, ask: Ask) -> None:
    key = teacher_key(made)
    with pytest.raises(RuntimeError), writing(key) as folder:
        assert folder is not None and (folder / ".holder.json").exists()
        raise RuntimeError
    page = ask("status", "--scene-set", made.scene_set)
    assert rows(page)["RunTeacher"][:5] == ["-", "-", "1", "-", "2"]
    assert not (key.folder / ".holder.json").exists()


def test_a_damaged_layout_is_named(made: Runs, ask: Ask) -> None:
    folder = teacher_key(made).folder
    half_a_cache(folder)
    (folder / "teacher.zarr/mask_logits/zarr.json").write_text("{")
    assert "mask_logits/zarr.json" in ask("status", "--scene-set", made.scene_set, code=2)


def inputs_of(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "metadata.json").read_text())
    return dict(content["inputs"])


def test_provenance_reaches_the_source(runs: Runs, ask: Ask) -> None:
    folder = artifact(runs, "report")
    lines = ask("explain", folder / "report.html").splitlines()
    assert lines[0] == str(folder) and lines[1].startswith(f"report {folder.name}, on ")
    assert lines[2].startswith(f"  evaluation: evaluate {artifact(runs, 'evaluate').name}, on ")
    page = "\n".join(lines)
    plan = load_plan(runs.scene_set)
    (val,) = plan.scenes("val")
    links, scene = plan.link(val).folder.name, plan.prepare(val).folder.name
    shown = page.index(f"links: link_points {val} {links}, on {platform.node()}")
    after = page[shown:].splitlines()
    assert after[1].strip() == f"views: prepare_scene {val} {scene}, as above"
    assert page.count(f"prepare_scene {val} {scene}, on ") == 1
    assert f"room: {val}" in page  # A generated room is made from its number alone.
    for name in plan.scenes():
        assert page.count(f"generate_rooms {name} {plan.room(name).fingerprint[:12]}, on") == 1


def test_config_is_told_where_it_is_unusual(runs: Runs, ask: Ask) -> None:
    page = ask("explain", artifact(runs, "train_student", SECOND))
    (line,) = [line for line in page.splitlines() if "student." in line and "with" in line]
    unusual = {"voxel_size=0.2", "feature_dim=16", "epochs=2", "lr=0.02"}
    assert set(line.strip().removeprefix("with ").split(", ")) == {f"student.{k}" for k in unusual}


def test_weights_and_scans_are_leaves(copied: Runs, ask: Ask) -> None:
    folder = artifact(copied, "fuse_masks")
    edit(folder, inputs={"weights": "f" * 64, **inputs_of(folder)})
    assert "\n  weights: ffffffffffff\n" in ask("explain", folder)


def test_published_results_stand_for_the_report(runs: Runs, ask: Ask) -> None:
    expected = ask("explain", artifact(runs, "report", SECOND))
    assert ask("explain", runs.output) == expected
    assert ask("explain", runs.output / "metrics.json") == expected


def test_two_runs_differ_by_what_was_changed(runs: Runs, ask: Ask) -> None:
    folders = [artifact(runs, "report", overrides) for overrides in ("", SECOND)]
    page = ask("diff", *folders)
    assert page == ask("diff", folders[0], runs.output)
    assert "config: 1 difference\n" in page and "inputs from outside: no differences" in page
    (row,) = [line.split() for line in page.splitlines() if "student.lr" in line]
    assert row == ["train_student:", "student.lr", "0.01", "0.02"]
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    (row,) = [line.split() for line in page.splitlines() if line.startswith("together.ciou ")]
    figures = [one["together"]["ciou"], two["together"]["ciou"]]
    assert row[1:3] == [f"{figure:.4f}" for figure in figures]
    assert float(row[3]) == pytest.approx(figures[1] - figures[0], abs=5e-5)
    assert "num_queries" not in [line.split(" ")[0] for line in page.splitlines()]


def test_a_difference_by_hand(copied: Runs, ask: Ask) -> None:
    one, two = (artifact(copied, "evaluate", overrides) for overrides in ("", SECOND))
    (one / "metrics.json").write_text('{"miou": 0.5, "n": 3, "same": 1, "by": {"a": 0.25}}')
    (two / "metrics.json").write_text('{"miou": 0.25, "n": 5, "same": 1, "new": 2}')
    page = ask("diff", one, two)
    assert "metrics: 4 of 5 differ" in page
    assert [line.split() for line in page.splitlines()[-4:]] == [
        ["miou", "0.5000", "0.2500", "-0.2500"],
        ["n", "3", "5", "+2"],
        ["by.a", "0.2500", "-", "-"],
        ["new", "-", "2", "-"],
    ]
    (two / "metrics.json").write_text("{")
    assert str(two / "metrics.json") in ask("diff", one, two, code=2)


def test_the_same_run_twice(runs: Runs, ask: Ask) -> None:
    folder = artifact(runs, "report")
    assert "the same artifact" in ask("diff", folder, folder / "report.html")


def test_mistakes_are_one_line(runs: Runs, ask: Ask, tmp_path: Path) -> None:
    report, student = artifact(runs, "report"), artifact(runs, "train_student")
    assert "report" in ask("diff", report, student, code=2)
    assert "no such file" in ask("explain", tmp_path / "nowhere", code=2)
    assert "expected a finished artifact" in ask("explain", tmp_path, code=2)
    for command in ("plan", "status"):
        assert "no scene set 'nothing'" in ask(command, "--scene-set", "nothing", code=2)
        line = (command, "--scene-set", runs.scene_set, "--overrides")
        assert "student.speed" in ask(*line, "student.speed=1", code=2)


def test_a_pointer_to_nothing(copied: Runs, ask: Ask) -> None:
    (copied.output / "latest.json").write_text("[]")
    assert "latest.json" in ask("explain", copied.output, code=2)


def test_they_import_neither_torch_nor_numpy(runs: Runs) -> None:
    folder = str(artifact(runs, "report"))
    for line in (
        ["plan", "--scene-set", runs.scene_set],
        ["status", "--scene-set", runs.scene_set],
        ["explain", folder],
        ["diff", folder, str(runs.output)],
    ):
        code = (
            "import sys; from pipeline.__main__ import main; assert main(sys.argv[1:]) == 0;"
            "print(sorted({'torch', 'numpy', 'zarr', 'scipy'} & set(sys.modules)))"
        )
        command = [sys.executable, "-c", code, *line]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"
