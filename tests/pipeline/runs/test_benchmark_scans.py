"""Official figures in whole runs: ScanNet's alignment, the rule by query format, fingerprints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.artifacts.evaluation import HTML, Evaluation, read_evaluation
from data.errors import DataError
from data.readers.scannet import read_axis_alignment
from data.types import Array
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS
from pipeline.steps.answers import evaluation_scenes, with_scans
from pipeline.steps.questions import read_questions
from pipeline.steps.step_inputs import StepInputs
from tests.support.scans.scannet_tree import INFO, SCENE, root_of, write_tree
from tests.support.scans.scannetpp_tree import group_points, room
from tests.support.tiny_set import STUDENT, run_whole, write_set

OTHER = "scene0001_00"
# scannet_tree writes: a quarter turn about z, then a shift.
ALIGNMENT = [[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]
# In whole runs: 30 degrees about z, which changes the boxes' IoU as a quarter turn does not.
COS, SIN = math.cos(math.pi / 6), math.sin(math.pi / 6)
ORACLE = {"name": "oracle", "oracle": {"miss": 0.0, "confuse": 0.0, "hallucinate": 0.0}}
# Objects of tests.support.scans.scannetpp_tree: bed 31, table 30, office chair 5, pillow 2.
SCANREFER = [
    {"object_id": "31", "object_name": "bed"},
    {"object_id": "5", "object_name": "office_chair"},
]
MULTI: list[dict[str, Any]] = [
    {"object_ids": [30, 5], "object_name": "furniture", "eval_type": "mt"},
    {"object_ids": [], "object_name": "piano", "eval_type": "zt_wo_d"},
]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Folder of a whole scene."""
    return write_tree(tmp_path / "scannet")


def test_the_alignment_is_read_as_it_is_written(scene: Path) -> None:
    found = read_axis_alignment(root_of(scene), SCENE)
    assert found is not None and found.dtype == np.float64
    np.testing.assert_array_equal(found, ALIGNMENT)


def test_without_file_or_line_there_is_none_and_it_is_logged(
    scene: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (scene / INFO).write_text("colorWidth = 64\n")
    assert read_axis_alignment(root_of(scene), SCENE) is None
    (scene / INFO).unlink()
    assert read_axis_alignment(root_of(scene), SCENE) is None
    assert [str(scene / INFO) in record.getMessage() for record in caplog.records] == [True] * 2


@pytest.mark.parametrize(
    "value",
    [
        "1 0 0",
        "1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 one",
        "1 0 0 nan 0 1 0 0 0 0 1 0 0 0 0 1",
        "2 0 0 0 0 2 0 0 0 0 2 0 0 0 0 1",  # it scales
        "-1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",  # it mirrors
        "1 0 0 0 0 1 0 0 0 0 1 0 5 0 0 1",
        "",
    ],
)
def test_an_alignment_that_is_none_is_refused(scene: Path, value: str) -> None:
    (scene / INFO).write_text(f"axisAlignment = {value}\n")
    with pytest.raises(DataError, match=rf"{INFO}: expected 16 numbers.*Download this file"):
        read_axis_alignment(root_of(scene), SCENE)


def world(folder: Path, query_format: str, fields: list[dict[str, Any]]) -> Plan:
    """Two ScanNet scenes with queries, the second to be measured on; the oracle is perfect."""
    for name in (SCENE, OTHER):
        info = write_tree(folder / "scannet", name) / f"{name}.txt"
        lines = info.read_text().splitlines()
        lines[0] = f"axisAlignment = {COS} {-SIN} 0 5 {SIN} {COS} 0 6 0 0 1 7 0 0 0 1"
        info.write_text("\n".join(lines))
    root = folder / "scannet"
    (root / "queries").mkdir()
    for split, name in (("train", SCENE), ("val", OTHER)):
        (root / f"{split}.txt").write_text(f"{name}\n")
        records = [
            {"scene_id": name, "ann_id": "0", "token": [], "description": f"query {k}", **field}
            for k, field in enumerate(fields)
        ]
        (root / "queries" / f"{split}.json").write_text(json.dumps(records))
    path = write_set(
        folder / "set.yaml",
        data_root=str(root),
        reader="scannet",
        query_format=query_format,
        splits={"train": "train", "val": "val"},
        config={"teacher": ORACLE, "student": STUDENT},
    )
    return load_plan(path)


def whole_run(plan: Plan) -> Evaluation:
    run_whole(plan)
    return read_evaluation(plan.key("evaluate").folder)


def turned_points() -> list[tuple[float, float, float]]:
    """The room's points after the turn and the shift, one after the other."""
    points = room()[0].cloud.points.astype(np.float64).tolist()
    return [(COS * x - SIN * y + 5, SIN * x + COS * y + 6, z + 7) for x, y, z in points]


def box_iou(first: Array, second: Array, points: list[tuple[float, float, float]]) -> float:
    """By plain loops: how much the boxes of two masks of the points have in common."""
    if not first.any():
        return 0.0
    inside = one = two = 1.0
    for axis in range(3):
        of_first, of_second = (
            [point[axis] for point, chosen in zip(points, mask.tolist()) if chosen]
            for mask in (first, second)
        )
        a0, a1, b0, b1 = min(of_first), max(of_first), min(of_second), max(of_second)
        inside *= max(0.0, min(a1, b1) - max(a0, b0))
        one, two = one * (a1 - a0), two * (b1 - b0)
    return inside / (one + two - inside)


def test_a_run_on_scannet_is_scored_by_scanrefers_rule_in_the_aligned_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    plan = world(tmp_path, "scanrefer", SCANREFER)
    evaluation = whole_run(plan)
    found = evaluation.summary["benchmark"]
    assert found["convention"] == "scanrefer" and found["dataset"] == "scannet"
    assert (found["num_scenes"], found["num_scenes_aligned"]) == (1, 1)
    inputs = StepInputs(plan, STEPS["evaluate"], None, "cpu")
    (item,) = with_scans(inputs, evaluation_scenes(inputs, read_questions(inputs)))
    assert item.scan is not None and item.scan.is_aligned
    np.testing.assert_allclose(item.scan.points, turned_points(), rtol=1e-12)
    place = {group: k for k, group in enumerate((31, 30, 5, 2))}
    for row, field in zip(evaluation.rows, SCANREFER, strict=True):
        truth = np.zeros(len(room()[0].cloud), bool)
        truth[group_points()[place[int(field["object_id"])]]] = True
        for source, masks in item.masks.items():
            mask = masks[row.prompt_id]
            expected = box_iou(mask, truth, turned_points())
            assert row.official[source]["box_iou"] == pytest.approx(expected)
        assert row.group == "unique"
    assert found["figures"]["fusion_only"]["overall"]["acc50"] == 1.0
    html = (plan.key("report").folder / HTML).read_text()
    assert "M3DRef-CLIP on ScanRefer, validation" in html and "51.9" in html


def test_a_run_on_scannet_is_scored_by_multi3drefers_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    evaluation = whole_run(world(tmp_path, "multi3drefer", MULTI))
    lifted = evaluation.summary["benchmark"]["figures"]["fusion_only"]
    assert lifted["rows"] == {
        "mt": {"num_queries": 1, "f1_25": 1.0, "f1_50": 1.0},
        "zt_wo_d": {"num_queries": 1, "f1_25": 1.0, "f1_50": 1.0},
    }


def test_the_evaluation_depends_on_format_data_set_and_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    plan = world(tmp_path, "scanrefer", SCANREFER)
    assert plan.key("evaluate").config == {
        "query_format": "scanrefer",
        "dataset": "scannet",
        "version": "",
    }
    content = yaml.safe_load((tmp_path / "set.yaml").read_text())
    same = load_plan(write_set(tmp_path / "same.yaml", **content))
    assert same.key("evaluate").fingerprint == plan.key("evaluate").fingerprint
    info = tmp_path / "scannet" / "scans" / OTHER / f"{OTHER}.txt"
    info.write_text(info.read_text().replace("0 0 1 7", "0 0 1 8"))
    moved = load_plan(write_set(tmp_path / "moved.yaml", **content))
    assert moved.key("evaluate").fingerprint != plan.key("evaluate").fingerprint
    assert load_plan("demo").key("evaluate").config["dataset"] == "generated"
