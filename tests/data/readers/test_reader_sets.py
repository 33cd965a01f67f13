"""Packaged scene sets of real datasets: their readers, lists and scenes, from set to scene.h5."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data.artifacts.scene import read_scene
from data.errors import ConfigError
from pipeline.config import read_yaml_mapping
from pipeline.plan import load_plan
from pipeline.scene_sets import load_scene_set, packaged_sets, reader_module
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


OWN = "from data.readers.scannet import read_group_names, read_scan, read_split, scene_identity\n"


@pytest.fixture
def own_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scene set of ScanNet's files that names a reader in the working folder."""
    scannet_tree.write_tree(tmp_path / "scannet")
    for path in SETS[0][3]:
        (tmp_path / "scannet" / path).write_text(f"{scannet_tree.SCENE}\n")
    content = read_yaml_mapping(packaged_sets()["scannet"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**content, "reader": "reader_of_mine"}))
    monkeypatch.setenv("MLLM3D_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "reader_of_mine", raising=False)
    return tmp_path / "mine.yaml"


def test_a_set_reads_its_scans_by_a_module_of_ones_own(own_set: Path, tmp_path: Path) -> None:
    reader = tmp_path / "reader_of_mine.py"
    reader.write_text(OWN)
    plan = load_plan(str(own_set), "", "")
    key = plan.key("prepare_scene", scannet_tree.SCENE)
    run_step(STEPS["prepare_scene"], plan, scannet_tree.SCENE, "cpu")
    assert read_scene(key.folder).cloud.points.shape == room()[0].cloud.points.shape
    # A process keeps a set's plan; under another name the same set is planned anew.
    for name, content, is_same in (("again", OWN, True), ("changed", f"{OWN}# Another.\n", False)):
        reader.write_text(content)
        named = shutil.copy(own_set, tmp_path / f"{name}.yaml")
        found = load_plan(str(named), "", "").key("prepare_scene", scannet_tree.SCENE)
        assert (found.fingerprint == key.fingerprint) is is_same


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (None, r"mine.yaml: reader: expected one of .*, or a module .*found 'reader_of_mine'"),
        ("read_scan = print\n", r"lacks read_split, read_group_names, scene_identity; a reader"),
    ],
)
def test_a_module_that_is_no_reader_is_refused(
    own_set: Path, tmp_path: Path, module: str | None, told: str
) -> None:
    if module is not None:
        (tmp_path / "reader_of_mine.py").write_text(module)
    with pytest.raises(ConfigError, match=told):
        reader_module(load_scene_set(str(own_set)))
