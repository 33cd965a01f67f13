"""ScanNet scenes with a file damaged in hundreds of ways: one error that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.geometry.meshes import read_mesh
from data.readers.scannet import (
    read_camera,
    read_groups,
    read_scan,
    read_segment_ids,
    read_split,
    read_views,
)
from data.readers.scannet_layout import ScenePaths
from data.readers.segment_groups import truth_of_groups
from tests.support.damage import check_damaged, damaged_bytes, damaged_json, damaged_words
from tests.support.scans.scannet_tree import (
    AGGREGATION,
    EVERY_FILE,
    IMAGE,
    INFO,
    INTRINSICS,
    MESH,
    POSE,
    SCENE,
    SEGMENTS,
    segment_ids,
    write_tree,
)

NUM_POINTS = len(segment_ids())


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScenePaths]:
    """A small scene: two frames, as each costs a read in every case."""
    root = tmp_path_factory.mktemp("scannet")
    folder = write_tree(root)
    for index in range(2, 6):
        (folder / "color" / f"{index}.jpg").unlink()
        (folder / "pose" / f"{index}.txt").unlink()
    yield ScenePaths.find(root, SCENE)
    read_scan(root, SCENE, "undistorted")  # every damage was put right again


def check_truth(paths: ScenePaths) -> None:
    """Annotation as ``read_scan`` reads it; whatever is taken is a truth of this mesh."""
    ids = read_segment_ids(paths.segments, NUM_POINTS)
    groups = read_groups(paths)
    truth = truth_of_groups(groups, ids, paths.aggregation, paths.segments, "")
    assert len(truth.object_ids) == len(truth.labels) == len(truth.offsets) - 1
    assert truth.offsets[-1] == len(truth.point_ids)
    assert all(0 <= object_id for object_id in truth.object_ids)


@settings(max_examples=100)
@given(st.data())
def test_damaged_aggregations(paths: ScenePaths, data: st.DataObject) -> None:
    good = paths.aggregation.read_bytes()
    bad = data.draw(st.one_of(damaged_json(good), damaged_bytes(good)))
    check_damaged(paths.aggregation, bad, lambda: check_truth(paths))


@settings(max_examples=100)
@given(st.data())
def test_damaged_segments(paths: ScenePaths, data: st.DataObject) -> None:
    """Segment ids of another value may leave a group without its segment: its file is named."""
    good = paths.segments.read_bytes()
    bad = data.draw(st.one_of(damaged_json(good), damaged_bytes(good)))
    read = lambda: read_segment_ids(paths.segments, NUM_POINTS)  # noqa: E731
    check_damaged(paths.segments, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_poses(paths: ScenePaths, data: st.DataObject) -> None:
    path = paths.folder / POSE
    good = path.read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))

    def read() -> None:
        for view in read_views(paths):
            assert np.isfinite(view.world_to_camera).all()

    check_damaged(path, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_intrinsics(paths: ScenePaths, data: st.DataObject) -> None:
    good = paths.intrinsics.read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))
    info = paths.info.read_bytes()
    paths.info.unlink()
    try:
        read = lambda: read_camera(paths, paths.folder / IMAGE)  # noqa: E731
        check_damaged(paths.intrinsics, bad, read)
    finally:
        paths.info.write_bytes(info)


@settings(max_examples=100)
@given(st.data())
def test_damaged_info(paths: ScenePaths, data: st.DataObject) -> None:
    """What it says of the images is blamed on the image: one of both is at fault."""
    good = paths.info.read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))
    paths.info.write_bytes(bad)
    try:
        read_camera(paths, paths.folder / IMAGE)
    except DataError as error:
        assert paths.info.name in str(error)
    finally:
        paths.info.write_bytes(good)


@settings(max_examples=100)
@given(st.data())
def test_damaged_images(paths: ScenePaths, data: st.DataObject) -> None:
    path = paths.folder / IMAGE
    bad = data.draw(damaged_bytes(path.read_bytes()))
    check_damaged(path, bad, lambda: read_views(paths))


@settings(max_examples=100)
@given(st.data())
def test_damaged_meshes(paths: ScenePaths, data: st.DataObject) -> None:
    good = paths.mesh.read_bytes()
    header = good.index(b"end_header") + 11
    bad = data.draw(
        st.one_of(
            damaged_bytes(good), damaged_bytes(good[:header]).map(lambda h: h + good[header:])
        )
    )
    check_damaged(paths.mesh, bad, lambda: read_mesh(paths.mesh))


@settings(max_examples=100)
@given(st.binary(max_size=60))
def test_damaged_split_lists(paths: ScenePaths, content: bytes) -> None:
    path = paths.root / "scannetv2_train.txt"
    read: Callable[[], object] = lambda: read_split(paths.root, "train")  # noqa: E731
    if not check_damaged(path, content, read):
        assert len(set(content.split())) >= 1


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "half"])
def test_a_whole_scene_names_the_file(tmp_path: Path, name: str, kind: str) -> None:
    path = write_tree(tmp_path) / name
    good = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        text = {"empty": b"", "text": b"404: not found\n", "half": good[: len(good) // 2]}[kind]
        path.write_bytes(text)
    if (name, kind) == (IMAGE, "missing"):  # a pose without an image: logged, not refused
        assert len(read_scan(tmp_path, SCENE, "").views) == 5
        return
    with pytest.raises(DataError) as caught:
        read_scan(tmp_path, SCENE, "undistorted")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["color", "pose"])
def test_missing_and_empty_folders_are_named(tmp_path: Path, name: str) -> None:
    folder = write_tree(tmp_path) / name
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=name):
        read_scan(tmp_path, SCENE, "undistorted")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=f"{name}.*no such folder"):
        read_scan(tmp_path, SCENE, "undistorted")


def test_a_segment_no_vertex_has_names_both_files(tmp_path: Path) -> None:
    folder = write_tree(tmp_path)
    content = json.loads((folder / AGGREGATION).read_text())
    content["segGroups"][2]["segments"].append(77)
    (folder / AGGREGATION).write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_scan(tmp_path, SCENE, "undistorted")
    told = str(caught.value)
    assert str(folder / AGGREGATION) in told and SEGMENTS in told and "segment 77" in told


def test_names_of_the_files(paths: ScenePaths) -> None:
    found = [str(path.relative_to(paths.folder)) for path in paths.files()]
    assert found == [MESH, SEGMENTS, AGGREGATION, INFO, INTRINSICS]
