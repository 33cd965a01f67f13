"""A step is declared once: a toy step from outside is planned, run, cached, explained, rerun."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import ConfigError
from pipeline.__main__ import main
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS, Input, Part, Source, Step, declare
from pipeline.steps.declaration import load, problems, section_model
from pipeline.steps.step_inputs import StepInputs
from pipeline.tasks.steps import task_of
from tests.support.cli import REPOSITORY, luigi, tasks_done
from tests.support.tiny_set import ROOMS, write_set

TOY = '''
"""A step of one's own: how many points a scene has, in a unit of its config."""

import json

from pydantic import BaseModel

from pipeline.steps import Input, Part, Step, declare


class ToyConfig(BaseModel, frozen=True, extra="forbid"):
    unit: int = 1


def read_count(folder):
    return json.loads((folder / "count.json").read_text())["count"]


def count_points(inputs, folder):
    points = len(inputs.read("scene").cloud)
    content = {"count": points / inputs.config.unit}
    (folder / "count.json").write_text(json.dumps(content))


def total(inputs, folder):
    counts = [inputs.read("count", scene=name) for name in inputs.scenes("count")]
    (folder / "total.json").write_text(json.dumps(sum(counts)))


COUNT_POINTS = declare(
    Step(
        name="count_points",
        version=1,
        summary="The number of points of a scene.",
        make="toy_steps:count_points",
        section="toy",
        settings=ToyConfig,
        scenes="all",
        inputs=(Input("scene", "prepare_scene", ("scene",)),),
        parts={"count": Part("toy_steps:read_count")},
    )
)
TOTAL_POINTS = declare(
    Step(
        name="total_points",
        version=1,
        summary="The number of points of all scenes.",
        make="toy_steps:total",
        inputs=(Input("count", "count_points", ("count",), scenes="all"),),
    )
)
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy module in the current folder, forgotten afterwards."""
    (tmp_path / "toy_steps.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "toy_steps.py"
    for name in ("count_points", "total_points"):
        STEPS.pop(name, None)
    sys.modules.pop("toy_steps", None)
    load_plan.__globals__["_load"].cache_clear()
    importlib.import_module("pipeline.plan").experiment_model.cache_clear()


def test_a_toy_step_is_planned_run_cached_explained_and_rerun(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml", config={"generate": ROOMS})
    asked = ("--scene-set", scene_set, "--overrides", "steps=[toy_steps],toy.unit={}")
    places = f"{tmp_path}{os.pathsep}{REPOSITORY}"
    words = ("TotalPoints", *asked[:3], asked[3].format(10))
    run = luigi(tmp_path, *words, module="toy_steps", PYTHONPATH=places)
    assert run.returncode == 0, run.stdout
    done = tasks_done(run.stdout)
    num_scenes = ROOMS["train_rooms"] + ROOMS["val_rooms"]
    assert done["CountPoints"] == num_scenes and done["TotalPoints"] == 1
    (total,) = (tmp_path / "output/tiny/total_points").glob("*/total.json")
    counts = sorted((tmp_path / "output/tiny/count_points").glob("*/*/count.json"))
    assert json.loads(total.read_text()) == pytest.approx(
        sum(json.loads(path.read_text())["count"] for path in counts)
    )

    def page(*words: str) -> str:
        assert main(words) == 0
        return capsys.readouterr().out

    def row(text: str, name: str) -> list[str]:
        return next(line.split() for line in text.splitlines() if line.startswith(name))

    same = page("plan", *asked[:3], asked[3].format(10))
    assert row(same, "CountPoints")[1:3] == [str(num_scenes), "-"]
    assert row(same, "TotalPoints")[1:3] == ["1", "-"]
    explained = page("explain", str(counts[0].parent))
    assert "count_points" in explained and "toy.unit=10" in explained
    assert f"scene: prepare_scene {counts[0].parent.parent.name}" in explained
    changed = page("plan", *asked[:3], asked[3].format(100))
    assert row(changed, "CountPoints")[1:3] == ["-", str(num_scenes)]
    assert row(changed, "PrepareScene")[2] == "-", "what it is made from is left alone"
    assert "toy.unit from 10 to 100" in changed
    assert "CountPoints" in page("status", *asked[:3], asked[3].format(10))


def test_the_source_of_a_step_from_outside_counts(toy: Path, tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml", config={"generate": ROOMS})
    plan = load_plan(scene_set, "", "steps=[toy_steps]")
    before = plan.key("count_points", plan.scenes()[0])
    toy.write_text(TOY + "\n# changed\n")
    again = replace(plan)
    after = again.key("count_points", again.scenes()[0])
    assert before.inputs["scene"] == after.inputs["scene"]
    assert before.inputs["code"] != after.inputs["code"]


def test_modules_that_declare_nothing_are_refused(toy: Path, tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml", config={"generate": ROOMS})
    with pytest.raises(ConfigError, match="'no_such_module' cannot be imported"):
        load_plan(scene_set, "", "steps=[no_such_module]")
    (tmp_path / "empty_steps.py").write_text("")
    with pytest.raises(ConfigError, match="'empty_steps' declares no step"):
        load_plan(scene_set, "", "steps=[empty_steps]")
    with pytest.raises(ConfigError, match="unknown key toy"):
        load_plan(scene_set, "", "toy.unit=2")


def label_free_with(*inputs: Input) -> Step:
    return Step("probe", 1, "A step for tests.", make="x:y", scenes="all", inputs=inputs)


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("prepare_scene", "truth"),
        ("oracle_labels", "labels"),
        ("evaluate_teacher_2d", "teacher_2d"),
    ],
)
def test_a_label_free_step_that_declares_labels_is_refused(step: str, part: str) -> None:
    probe = label_free_with(Input("truth", step, (part,)))
    with pytest.raises(ConfigError, match="label-free, and its input truth reads"):
        declare(probe)
    assert "probe" not in STEPS
    # Only a step whose config makes it an oracle may read labels, and only then.
    sometimes = replace(probe, inputs=(replace(probe.inputs[0], when=lambda plan: True),))
    assert list(problems(sometimes, STEPS))
    assert not list(problems(replace(sometimes, oracle=lambda plan: True), STEPS))
    assert not list(problems(replace(probe, labels="evaluation"), STEPS))


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (Input("x", "no_such_step"), "which is not declared before it"),
        (Input("x", "prepare_scene", ("walls",)), "reads part 'walls'; prepare_scene has scene"),
        (Input("x", "prepare_scene", known_by="y"), "known by 'y', which it does not declare"),
        (Input("x", "prepare_prompts"), "prepare_prompts does not work on 'same'"),
        (Input("x", "prepare_scene", scenes="set"), "prepare_scene does not work on 'set'"),
    ],
)
def test_a_wrong_declaration_is_refused(one: Input, told: str) -> None:
    assert any(told in problem for problem in problems(label_free_with(one), STEPS))


ORACLES = ("", "teacher.name=oracle", "student.supervision=oracle", "predict.tokens=text")


@pytest.mark.parametrize("overrides", ORACLES)
def test_no_label_free_step_reads_labels_under_any_config(overrides: str) -> None:
    plan = load_plan("demo", "", overrides)
    for step in STEPS.values():
        if step.exists(plan) and step.labels == "never" and not step.oracle(plan):
            assert not step.reads_labels(plan), step.name
    reading = {step.name for step in STEPS.values() if step.reads_labels(plan)}
    oracles = {"teacher.name=oracle": "run_teacher", "student.supervision=oracle": "train_student"}
    always = {"oracle_labels", "finetune_student", "evaluate_teacher_2d", "evaluate", "report"}
    assert reading == always | ({oracles[overrides]} if overrides in oracles else set())


def plan_of_demo() -> Plan:
    return load_plan("demo")


def test_a_step_gets_what_it_declared_and_nothing_else() -> None:
    plan = plan_of_demo()
    scene, *_ = plan.scenes("val")
    inputs = StepInputs(plan, STEPS["fuse_masks"], scene, "cpu")
    assert inputs.folder("scene") == plan.key("prepare_scene", scene).folder
    assert inputs.config == plan.experiment.fuse
    with pytest.raises(LookupError, match="reads an input 'masks' that its declaration"):
        inputs.folder("masks")
    with pytest.raises(LookupError, match="reads part 'truth' of its input scene"):
        inputs.read("scene", "truth")
    with pytest.raises(LookupError, match="does not declare that it reads 'student'"):
        inputs.section("student")
    with pytest.raises(LookupError, match="does not declare that it reads all sections"):
        _ = inputs.experiment
    whole = StepInputs(plan, STEPS["evaluate"], None, "cpu")
    assert whole.scenes("masks") == plan.scenes("val")
    with pytest.raises(LookupError, match="works on the whole set"):
        _ = whole.scene
    with pytest.raises(LookupError, match="name the scene"):
        whole.folder("masks")


def test_an_inactive_truth_cannot_be_read_by_force() -> None:
    """``run_teacher`` declares truth for the oracle; under a LISA it is out of its reach."""
    plan = plan_of_demo()
    inputs = StepInputs(plan, STEPS["run_teacher"], plan.scenes()[0], "cpu")
    assert not inputs.has("truth")
    with pytest.raises(LookupError, match="'truth'"):
        inputs.read("truth")


def test_all_that_declarations_name_exists() -> None:
    for step in STEPS.values():
        preload = step.preload
        readers = [part.reader for part in step.parts.values()]
        named = [step.make, step.progress, *readers, *preload.calls, *preload.cuda_free_calls]
        assert all(callable(load(name)) for name in named if name), step.name
        for module in (*preload.modules, *preload.loops):
            importlib.import_module(module)
        assert all(callable(importlib.import_module(name).warm) for name in preload.loops)
        model = section_model(step)
        assert (model is None) == (not step.section), step.name


def test_inputs_are_required_and_enter_the_fingerprint_once() -> None:
    plan = plan_of_demo()
    scene, *_ = plan.scenes("val")
    key = plan.key("fuse_masks", scene)
    assert list(key.inputs) == ["scene", "links", "teacher"]
    task = task_of(STEPS["fuse_masks"])(scene_set="demo", scene=scene)
    required = {(one.task_family, one.unit()) for one in task.requires()}
    assert required == {
        ("PrepareScene", scene),
        ("LinkPoints", scene),
        ("RunTeacher", scene),
        ("PreparePrompts", None),
        ("ParseQueries", None),
    }
    train = plan.key("train_student")
    assert set(train.inputs) == {f"labels {name}" for name in plan.scenes("train")}


def test_every_identity_of_a_source_is_explained_in_words() -> None:
    plan = plan_of_demo()
    for step in STEPS.values():
        for source in step.sources:
            scene = plan.scenes()[0] if step.is_per_scene else None
            names = {name.split(" ")[0] for name in source.identities(plan, scene)}
            told = set(source.explanations) | {"weights", "vision_tower"}
            assert names <= told, step.name
        assert isinstance(step, Step) and all(isinstance(one, Source) for one in step.sources)
        assert all(isinstance(part, Part) for part in step.parts.values())
