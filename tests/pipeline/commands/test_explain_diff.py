"""explain and diff tell what artifacts were made from and where runs differ."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import valid_keys
from pipeline.plan import load_plan
from pipeline.provenance import config_keys, shown_both
from pipeline.steps import STEPS
from stages.configs import Experiment
from tests.support import two_runs
from tests.support.two_runs import SECOND, Ask, Runs, artifact, edit

# Pytest finds a module's fixtures by name.
made, runs, copied, ask = two_runs.made, two_runs.runs, two_runs.copied, two_runs.ask


def inputs_of(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "metadata.json").read_text())
    return dict(content["inputs"])


def test_provenance_reaches_the_source(runs: Runs, ask: Ask) -> None:
    folder = artifact(runs, "report")
    lines = ask("explain", folder / "report.html").splitlines()
    assert lines[0] == str(folder) and lines[1].startswith(f"report {folder.name}, on ")
    assert lines[2] == "    with report.picture_width=64, report.view_width=32"
    assert lines[3].startswith(f"  evaluation: evaluate {artifact(runs, 'evaluate').name}, on ")
    page = "\n".join(lines)
    plan = load_plan(runs.scene_set)
    (val,) = plan.scenes("val")
    links, scene = (
        plan.key("link_points", val).folder.name,
        plan.key("prepare_scene", val).folder.name,
    )
    shown = page.index(f"links: link_points {val} {links}, on {platform.node()}")
    after = page[shown:].splitlines()
    assert after[1].strip() == f"views: prepare_scene {val} {scene}, as above"
    assert page.count(f"prepare_scene {val} {scene}, on ") == 1
    assert f"room: {val}" in page  # A generated room is made from its number alone.
    for name in plan.scenes():
        assert (
            page.count(
                f"generate_rooms {name} {plan.key('generate_room', name).fingerprint[:12]}, on"
            )
            == 1
        )


def test_config_is_told_where_it_is_unusual(runs: Runs, ask: Ask) -> None:
    page = ask("explain", artifact(runs, "train_student", SECOND))
    (line,) = [line for line in page.splitlines() if "student." in line and "with" in line]
    unusual = {'preset="nano"', "voxel_size=0.2", "feature_dim=16", "epochs=2", "lr=0.02"}
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
    (row,) = [line.split() for line in page.splitlines() if line.startswith("student.ciou ")]
    figures = [one["student"]["ciou"], two["student"]["ciou"]]
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


def test_of_long_lists_the_entries_that_differ_are_counted() -> None:
    before, after = [f"scene {k}" for k in range(20)], [f"scene {k}" for k in range(2, 25)]
    told = ("20 entries (2 only here)", "23 entries (5 only here)")
    assert shown_both(before, after) == told
    assert shown_both([1], [2]) == ("[1]", "[2]") and shown_both("a", None) == ('"a"', "null")


def test_config_is_named_by_keys_that_overrides_take(made: Runs) -> None:
    plan = load_plan(made.scene_set)
    scene, *_ = plan.scenes()
    taken = {*valid_keys(Experiment), "splits.train", "splits.val"}
    steps = [step for step in STEPS.values() if step.section and step.exists(plan)]
    assert {"prepare_scene", "run_teacher", "train_student", "report"} <= {s.name for s in steps}
    for step in steps:
        # These need a student to start from, a teacher with image features, a language model.
        if step.name not in ("finetune_student", "lift_features", "distil_text"):
            key = plan.key(step.name, scene if step.is_per_scene else None)
            # Weights of features stand one by one below their key.
            weights = re.compile(r"(predict\.certainty\.\w+)\.\w+")
            found = {weights.sub(r"\1", name) for name in config_keys(key)}
            assert found <= taken, step.name
    assert config_keys(plan.key("evaluate"))["dataset"] == "generated"


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
