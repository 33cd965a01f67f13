"""Packaged scene sets of real datasets: their readers, lists and scenes, from set to scene.h5."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.artifacts.scene import read_scene
from pipeline.plan import load_plan
from pipeline.scene_sets import load_scene_set
from pipeline.steps import STEPS
from pipeline.tasks.steps import run_step
from tests.support.scans import matterport_tree, scannet_tree
from tests.support.scans.scannetpp_tree import room

SETS: list[tuple[str, str, Callable[[Path], object], tuple[str, str]]] = [
    (
        "scannet",
        scannet_tree.SCENE,
        scannet_tree.write_tree,
        ("scannetv2_train.txt", "scannetv2_val.txt"),
    ),
    (
        "matterport",
        matterport_tree.SCENE,
        matterport_tree.write_tree,
        ("splits/train.txt", "splits/val.txt"),
    ),
]


@pytest.mark.parametrize(("name", "scene_id", "write", "lists"), SETS)
def test_a_set_reads_its_scans(
    name: str,
    scene_id: str,
    write: Callable[[Path], object],
    lists: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(tmp_path / name)
    for path, content in zip(lists, (scene_id, "another_region1")):
        (tmp_path / name / path).write_text(f"{content}\n")
    monkeypatch.setenv("MLLM3D_DATA", str(tmp_path))
    assert load_scene_set(name).reader == name
    plan = load_plan(name, "", "")
    assert plan.scenes("train") == (scene_id,) and plan.scenes("val") == ("another_region1",)
    before = plan.key("prepare_scene", scene_id).fingerprint
    run_step(STEPS["prepare_scene"], plan, scene_id, "cpu")
    scene = read_scene(plan.key("prepare_scene", scene_id).folder)
    assert scene.cloud.points.shape == room()[0].cloud.points.shape
    assert len(scene.views) == 6
    assert plan.key("prepare_scene", scene_id).fingerprint == before
