"""Arms of the ablation: what their layers change, and so which artifacts each needs of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from data.errors import ConfigError
from pipeline.config import overrides_with, parse_overrides
from pipeline.plan import Plan, load_plan
from pipeline.tasks.ablation import ERRORS, Ablation, ErrorCurves, MeasureArms, MeasureErrorCurves
from pipeline.tasks.arm_rows import leaf_key, own_keys
from pipeline.tasks.arms import ARMS, SYSTEM, chosen, runs
from tests.support.tiny_set import ROOMS, STUDENT, write_set

LINKS = {"edge_trust": 1.0, "trusted_distance": 0.0, "support": 0.0}
PLAIN = {
    **LINKS,
    "token_gate": False,
    "agreement": False,
    "prior": 0,
    "no_seg_weight": 0,
    "relations": False,
}
RAW = {"superpoints": False, "neighbours": 0, "threshold": "half", "presence": 0}
FILTERED = {
    **LINKS,
    **RAW,
    "views": "filtered",
    "agreement": True,
    "rivals": 0,
    "relations": False,
}


@pytest.fixture
def scene_set(tmp_path: Path) -> str:
    config = {"generate": ROOMS, "teacher": {"name": "lisa_nano"}, "student": STUDENT}
    return write_set(tmp_path / "tiny.yaml", config=config)


def plans(scene_set: str, overrides: str = "", seeds: int = 2) -> dict[str, Plan]:
    """Plans by arm and seed, such as "F1"; by the arm's name alone where it has one run."""
    found = {}
    for run in runs(ARMS, seeds, overrides):
        name = f"{run.arm.name}{run.seed}" if run.arm.is_trained else run.arm.name
        found[name] = load_plan(scene_set, "", run.overrides)
    return found


def test_arms_are_those_of_the_issue_and_any_may_be_chosen() -> None:
    names = [arm.name for arm in ARMS]
    assert names == ["A", "B", "B+", "C", "D", "E", "F", "FE", "G", "H", "I"]
    assert SYSTEM in names
    assert chosen("") == ARMS
    assert [arm.name for arm in chosen("F, B,B")] == ["B", "F"]
    with pytest.raises(ConfigError, match="expected some of A, B.*, found Z, b"):
        chosen("Z,A,b")


def test_a_layer_is_laid_over_overrides_and_the_text_means_the_same() -> None:
    given = 'fuse.views=best,prompts.bank=[wall, "wall clock"],teacher.options={},student.lr=1e-3'
    text = overrides_with(given, {"fuse": {"views": "all", "prior": 0}})
    assert parse_overrides(text) == {
        "fuse": {"views": "all", "prior": 0},
        "prompts": {"bank": ["wall", "wall clock"]},
        "teacher": {"options": {}},
        "student": {"lr": 0.001},
    }
    assert overrides_with(text, {}) == text
    assert overrides_with("", {}) == ""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("A", {**PLAIN, **RAW, "views": "best", "rivals": 0}),
        ("B", {**PLAIN, **RAW, "views": "all", "rivals": 0}),
        ("B+", {**PLAIN, "views": "all", "rivals": 0}),
        ("C", {**FILTERED, "token_gate": False}),
        ("D", {**FILTERED, "token_gate": True}),
        ("E", {}),
        ("F0", {}),
        ("I", {}),
    ],
)
def test_each_arm_fuses_as_told_and_else_as_the_experiment(
    scene_set: str, name: str, told: Mapping[str, Any]
) -> None:
    overrides = "fuse.neighbours=0.3,fuse.gate_floor=0.1"
    own = load_plan(scene_set, "", overrides).experiment
    experiment = plans(scene_set, overrides)[name].experiment
    assert experiment.fuse.model_dump() == {**own.fuse.model_dump(), **told}
    rest = {"fuse", "student"}
    assert experiment.model_dump(exclude=rest) == own.model_dump(exclude=rest)


def test_arms_share_all_that_their_layers_do_not_reach(scene_set: str) -> None:
    of_arm = plans(scene_set)
    for scene in of_arm["A"].scenes():
        for step in ("prepare_scene", "link_points", "run_teacher"):
            assert len({plan.key(step, scene).fingerprint for plan in of_arm.values()}) == 1
        fuse = {name: plan.key("fuse_masks", scene).fingerprint for name, plan in of_arm.items()}
        assert len({fuse[name] for name in ("A", "B", "B+", "C", "D", "E")}) == 6
        own = {"A", "B", "B+", "C", "D"}
        assert {fuse[name] for name in fuse if name not in own} == {fuse["E"]}
    student = {name: plan.student().fingerprint for name, plan in of_arm.items()}
    assert student["F0"] == student["FE0"] == student["G0"] == student["E"]
    assert student["F1"] == student["FE1"] == student["G1"]
    assert len({student[name] for name in ("F0", "F1", "H0", "H1")}) == 4
    (val,) = of_arm["A"].scenes("val")
    predict = {name: plan.key("predict_masks", val).fingerprint for name, plan in of_arm.items()}
    assert predict["F0"] == predict["FE0"] != predict["G0"]
    assert len({plan.key("prepare_prompts").fingerprint for plan in of_arm.values()}) == 1


def test_what_is_scored_and_what_it_cost(scene_set: str) -> None:
    plan = load_plan(scene_set)
    (val,) = plan.scenes("val")
    by_name = {arm.name: arm for arm in ARMS}
    scored = {name: leaf_key(arm, plan, val).stage for name, arm in by_name.items()}
    assert {scored[name] for name in ("A", "B", "B+", "C", "D", "E")} == {"fuse_masks"}
    assert {scored[name] for name in ("F", "FE", "G", "H")} == {"predict_masks"}
    assert scored["I"] == "evaluate_teacher_2d"
    assert own_keys(by_name["E"], plan, "val") == [plan.key("fuse_masks", val)]
    assert own_keys(by_name["I"], plan, "val") == [plan.key("run_teacher", val)]
    of_arm = {run.arm.name: load_plan(scene_set, "", run.overrides) for run in runs(ARMS, 1, "")}
    stages = {
        name: [key.stage for key in own_keys(by_name[name], of_arm[name], "val")]
        for name in ("F", "FE", "G", "H")
    }
    assert stages["F"] == ["fuse_masks"] * 3 + ["train_student", "predict_masks"] == stages["FE"]
    assert stages["G"] == ["distil_text", *stages["F"][1:]]
    assert sorted(stages["H"]) == sorted([*stages["F"], "oracle_labels", "oracle_labels"])


def test_tasks_that_make_the_same_artifact_are_one(scene_set: str) -> None:
    measure = MeasureArms(scene_set=scene_set, seeds=2)
    ids = [task.task_id for task in measure.requires()]
    # queries; six kinds of labels; F and FE as one, G and H, two seeds each; the teacher's marks
    assert len(ids) == len(set(ids)) == 1 + 6 + 3 * 2 + 1
    assert measure.key() != MeasureArms(scene_set=scene_set, seeds=3).key()
    assert MeasureArms(scene_set=scene_set, arms="B,E", seeds=2).key() == (
        MeasureArms(scene_set=scene_set, arms="E,B", seeds=3).key()
    )
    given = MeasureArms(scene_set=scene_set, seeds=2, overrides="student.lr=0.5")
    assert given.key().fingerprint != measure.key().fingerprint
    report = Ablation(scene_set=scene_set, seeds=2).requires().key()
    assert report is not None and report.stage == "report"


def test_a_teacher_without_words_leaves_out_who_asks_by_them(tmp_path: Path) -> None:
    oracle = write_set(tmp_path / "tiny.yaml")
    every = MeasureArms(scene_set=oracle, seeds=1)
    assert [run.arm.name for run in every.runs() if run.arm.name not in "ABCDEF"] == [
        "B+",
        "FE",
        "H",
        "I",
    ]
    with pytest.raises(ConfigError, match="no language model"):
        MeasureArms(scene_set=oracle, arms="G")


def test_wrong_parameters_are_refused_before_any_work(scene_set: str) -> None:
    with pytest.raises(ConfigError, match="--seeds: expected 1 or more, found 0"):
        Ablation(scene_set=scene_set, seeds=0)
    with pytest.raises(ConfigError, match="--arms: expected some of A, .*, found Z"):
        Ablation(scene_set=scene_set, arms="Z")
    with pytest.raises(ConfigError, match="no scenes in split tune"):
        Ablation(scene_set=scene_set, split="tune")
    for rates in ("", "a", "0,2", "-0.1", "nan"):
        with pytest.raises(ConfigError, match="--rates: expected numbers from 0 to 1"):
            ErrorCurves(scene_set=scene_set, rates=rates)
    for errors in ("", "noise", "miss,", "miss ragged"):
        with pytest.raises(ConfigError, match="--errors: expected some of hallucinate,miss,ragged"):
            ErrorCurves(scene_set=scene_set, errors=errors)


def test_error_curves_give_an_oracle_one_kind_of_error_at_a_time(scene_set: str) -> None:
    task = MeasureErrorCurves(scene_set=scene_set, rates="0.5,0", overrides="teacher.seed=4")
    settings = task.settings()
    assert list(settings) == list(ERRORS)
    for error, by_rate in settings.items():
        assert list(by_rate) == [0.0, 0.5]
        for rate, of_runs in by_rate.items():
            assert [run.arm.name for run in of_runs] == ["B", "E", "F"]
            teacher = load_plan(scene_set, "", of_runs[0].overrides).experiment.teacher
            assert teacher.name == "oracle" and teacher.seed == 4
            rates = {name: getattr(teacher.oracle, name) for name in (*ERRORS, "confuse")}
            assert rates == {**dict.fromkeys(rates, 0.0), error: rate}
    some = MeasureErrorCurves(scene_set=scene_set, rates="0.5,0", errors="ragged,miss")
    assert list(some.settings()) == ["miss", "ragged"]
    clean = {tuple(run.overrides for run in by_rate[0.0]) for by_rate in settings.values()}
    assert len(clean) == 1
    ids = [leaf.task_id for leaf in task.requires()]
    assert len(ids) == len(set(ids)) == 1 + 4 * 3
