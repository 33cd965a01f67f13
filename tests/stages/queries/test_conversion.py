"""Reason3D's published files converted, and ScanNet++'s scans prepared, as their steps promise."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import luigi
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError, UserError
from data.queries.formats import FORMATS
from data.queries.reason3d_points import read_labelled_points
from pipeline.tasks.conversion import ConvertReason3D, PreprocessScannetpp
from tests.support import cli
from tests.support.query_files import write
from tests.support.scans.scannetpp_tree import SCENE, write_tree

# Ten points: two chairs (class 2; objects 7 and 200), a bed (class 5; object 0), and one chair
# point that belongs to no object. A point of object 0 is of class 2 by mistake.
CLASSES = [2, 2, 2, 2, 5, 5, 2, 2, -100, -100]
INSTANCES = [7, 7, 200, 200, 0, 0, 0, -1, -1, 3]


def save(path: Path, classes: Any = CLASSES, instances: Any = INSTANCES, parts: int = 5) -> Path:
    rng = np.random.default_rng(0)
    count = len(classes)
    arrays = (
        rng.normal(size=(count, 3)),
        rng.uniform(-1, 1, (count, 3)),
        np.arange(count),
        np.asarray(classes, np.float64),
        np.asarray(instances),
    )
    torch.save(arrays[:parts], path)
    return path


def question(scene_id: str, number: int, name: str, kind: str = "scannet") -> dict[str, Any]:
    text = f"Where is {name} of {scene_id}?"
    row = {"scene_id": scene_id, "object_id": number, "object_name": name, "question": text}
    return {**row, "type": kind}


def referring(scene_id: str, number: int, name: str) -> dict[str, Any]:
    text = f"the {name} {number}"
    row = {"scene_id": scene_id, "object_id": str(number), "object_name": name, "ann_id": "0"}
    return {**row, "description": text, "token": []}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "reason3d"
    folder.mkdir()
    for scene_id in ("scene0001_00", "scene0000_00"):
        save(folder / f"{scene_id}_reason.pth")
        save(folder / f"{scene_id}_refer.pth")
    rows = [
        question("scene0001_00", 2, "chair"),
        question("scene0000_00", 5, "bed"),
        question("8194nk5LbLH_region1", 28, "lamp", "mp3d"),
        question("scene0001_00", 9, "sofa"),
        question("scene0002_00", 2, "chair"),
    ]
    write(folder / "reason3d_val.json", rows)
    write(folder / "ScanRefer.json", [referring("scene0000_00", 200, "chair")])
    write(folder / "other.json", {"version": 1})
    return folder


def convert(source: Path, output: Path) -> ConvertReason3D:
    task = ConvertReason3D(input=str(source), output=str(output))
    assert not task.complete()
    task.run()
    assert task.complete()
    return task


def test_categories_become_the_objects_of_the_scene(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    made = FORMATS["instruct3d"].read(tmp_path / "out" / "reason3d_val.json")
    assert [(r.scene_id, r.raw_ids, r.object_name, r.task) for r in made] == [
        ("scene0001_00", (7, 200), "chair", "reasoning"),
        ("scene0000_00", (0,), "bed", "reasoning"),
    ]
    assert made[0].text == "Where is chair of scene0001_00?"
    (made_too,) = FORMATS["instruct3d"].read(tmp_path / "out" / "ScanRefer.json")
    assert (made_too.raw_ids, made_too.text, made_too.task) == (
        (200,),
        "the chair 200",
        "referring",
    )


def test_what_was_not_converted_is_reported(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "report.json").read_text())["files"]
    val = told["reason3d_val.json"]
    assert (val["queries"], val["of"]) == (2, 5)
    assert [(entry["record"], entry["reason"]) for entry in val["refused"]] == [
        (2, "Matterport3D's prepared rooms name no objects"),
        (3, "no point of class 9"),
        (4, "no point file"),
    ]
    assert val["notes"] == [
        {
            "record": 0,
            "scene_id": "scene0001_00",
            "note": "2 of 6 points of the class are in no object of it",
        }
    ]
    assert "no query file" in told["other.json"]["left"]


def test_it_is_done_again_only_for_other_files(source: Path, tmp_path: Path) -> None:
    task = convert(source, tmp_path / "out")
    save(source / "scene0002_00_reason.pth")
    assert not task.complete()
    task.run()
    assert task.complete()
    told = json.loads((tmp_path / "out" / "report.json").read_text())["files"]
    assert told["reason3d_val.json"]["queries"] == 3
    (tmp_path / "out" / "ScanRefer.json").unlink()
    assert not task.complete()


def test_folders_that_cannot_be_converted_are_refused(source: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    cases = [(tmp_path / "none", "no such folder"), (empty, "query files"), (source, "--output")]
    for folder, hint in cases:
        with pytest.raises(UserError, match=hint):
            ConvertReason3D(input=str(folder), output=str(source)).run()
    write(empty / "x.json", [1])
    with pytest.raises(DataError, match="x.json of other formats"):
        ConvertReason3D(input=str(empty), output=str(tmp_path / "out")).run()
    os.truncate(source / "scene0000_00_refer.pth", 100)
    with pytest.raises(DataError, match="scene0000_00_refer.pth"):
        ConvertReason3D(input=str(source), output=str(tmp_path / "out")).run()
    save(source / "scene0000_00_refer.pth")
    (source / "bad.json").write_text("[{")
    with pytest.raises(DataError, match="bad.json"):
        ConvertReason3D(input=str(source), output=str(tmp_path / "out")).run()


def test_points_are_read_from_arrays_and_tensors(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth")
    read = read_labelled_points(path)
    assert read.classes.tolist() == CLASSES and read.instances.tolist() == INSTANCES
    torch.save([torch.zeros(2, 3), torch.zeros(2, 3), torch.arange(2), *[torch.ones(2)] * 2], path)
    assert read_labelled_points(path).instances.tolist() == [1, 1]


class _Attack:
    """A pickle that would make a folder when it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_file_cannot_make_the_loader_do_anything(tmp_path: Path) -> None:
    path, made = tmp_path / "a.pth", tmp_path / "made"
    torch.save((np.zeros(2), _Attack(made)), path)
    with pytest.raises(DataError, match="a.pth"):
        read_labelled_points(path)
    path.write_bytes(pickle.dumps(_Attack(made)))
    with pytest.raises(DataError, match="a.pth"):
        read_labelled_points(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"parts": 3}, "tuple of 3"),
        ({"parts": 4}, "tuple of 4"),
        ({"classes": [np.nan] * 10}, "10 that are not"),
        ({"classes": [np.inf] * 10}, "10 that are not"),
        ({"classes": [0.5] * 10}, "10 that are not"),
        ({"classes": [-1] * 10}, "classes from 0 on"),
        (
            {"instances": np.array([200] * 10).astype(np.int8)},
            "-56 .a cast to int8 makes this of 200",
        ),
        ({"instances": [1] * 9}, r"\[9, 10\]"),
        ({"instances": [[1]] * 10}, "one number a point"),
    ],
)
def test_damaged_points_are_refused(tmp_path: Path, change: dict[str, Any], hint: str) -> None:
    path = save(tmp_path / "a.pth", **change)
    with pytest.raises(DataError, match=hint) as caught:
        read_labelled_points(path)
    assert str(path) in str(caught.value)
    for content in (b"", b"PK", b"404"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="a.pth"):
            read_labelled_points(path)
    with pytest.raises(DataError, match="no such file"):
        read_labelled_points(tmp_path / "none.pth")


@settings(max_examples=100, suppress_health_check=list(HealthCheck), deadline=None)
@given(place=st.floats(0, 1), size=st.integers(0, 40), new=st.binary(max_size=8))
def test_any_damage_to_the_pickle_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: float, size: int, new: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = save(folder / "a.pth")
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    (name,) = [name for name in parts if name.endswith("data.pkl")]
    at = int(place * len(parts[name]))
    parts[name] = parts[name][:at] + new + parts[name][at + size :]
    with zipfile.ZipFile(path, "w") as archive:
        for key, content in parts.items():
            archive.writestr(key, content)
    try:
        read = read_labelled_points(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert read.classes.shape == read.instances.shape


def test_the_published_commands_run(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("ConvertReason3D", "--input", str(source), "--output", str(out))
    run = cli.luigi(tmp_path, *asked)
    assert run.returncode == 0, run.stdout
    assert "2 of 5 queries converted" in run.stdout and (out / "report.json").is_file()
    refused = cli.luigi(tmp_path, "ConvertReason3D", "--input", "/none", "--output", str(out))
    assert refused.returncode != 0 and "no such folder" in refused.stdout
    assert "Traceback" not in refused.stdout


@pytest.fixture
def scannetpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ScanNet++ root with one scene in each split, without any query."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    root = tmp_path / "scannetpp"
    write_tree(root, "00000000bb")
    write_tree(root, SCENE)
    (root / "splits" / "nvs_sem_train.txt").write_text(f"{SCENE}\n")
    (root / "splits" / "nvs_sem_val.txt").write_text("00000000bb\n")
    return root


def test_all_scans_of_a_root_are_prepared(scannetpp: Path, tmp_path: Path) -> None:
    task = PreprocessScannetpp(data_root=str(scannetpp))
    scenes = [needed.unit() for needed in task.requires()]
    assert scenes == [SCENE, "00000000bb"] and not task.complete()
    run = cli.luigi(tmp_path, "PreprocessScannetpp", "--data-root", str(scannetpp))
    assert run.returncode == 0, run.stdout
    assert cli.tasks_done(run.stdout)["PrepareScene"] == 2
    assert task.complete()
    assert "--scene-set" in run.stdout
    assert len(list((tmp_path / "output" / "scannetpp" / "prepare_scene").iterdir())) == 2


def test_a_broken_scan_is_told_and_others_are_prepared(scannetpp: Path, tmp_path: Path) -> None:
    (scannetpp / "data" / SCENE / "scans" / "segments.json").write_text("{")
    run = cli.luigi(tmp_path, "PreprocessScannetpp", "--data-root", str(scannetpp))
    assert run.returncode != 0 and "segments.json" in run.stdout
    assert "Traceback" not in run.stdout
    assert cli.tasks_done(run.stdout)["PrepareScene"] == 1


def test_a_root_without_splits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    with pytest.raises(UserError, match="no such folder"):
        PreprocessScannetpp(data_root=str(tmp_path / "none"))
    with pytest.raises(UserError, match="nvs_sem_train"):
        PreprocessScannetpp(data_root=str(tmp_path))
    assert issubclass(PreprocessScannetpp, luigi.Task)
