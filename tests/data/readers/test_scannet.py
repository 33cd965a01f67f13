"""ScanNet v2 reader: what a whole tree gives, in all its layouts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.readers import scannetpp
from data.readers.scannet import read_group_names, read_scan, read_split, scene_identity
from stages.configs import PrepareConfig
from stages.scene import prepare_scene
from tests.support.damage import edit
from tests.support.same_room import check_same_room
from tests.support.scans.scannet_tree import (
    AGGREGATION,
    EVERY_FILE,
    INFO,
    INTRINSICS,
    MESH,
    SCENE,
    SEGMENTS,
    refused,
    root_of,
    segment_ids,
    write_frames,
    write_tree,
)
from tests.support.scans.scannetpp_tree import GROUPS, HEIGHT, PINHOLE
from tests.support.scans.scannetpp_tree import SCENE as OTHER_SCENE
from tests.support.scans.scannetpp_tree import WIDTH, room
from tests.support.scans.scannetpp_tree import write_tree as write_scannetpp


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Folder of a whole scene."""
    return write_tree(tmp_path / "scannet")


def test_the_room_is_that_of_the_scannetpp_reader(scene: Path, tmp_path: Path) -> None:
    write_scannetpp(tmp_path / "scannetpp")
    expected = scannetpp.read_scan(tmp_path / "scannetpp", OTHER_SCENE, "undistorted")
    for camera in ("undistorted", "fisheye"):  # ignored
        check_same_room(read_scan(root_of(scene), SCENE, camera), expected)


def test_half_a_pixel_is_added(scene: Path) -> None:
    """The file says 63.5, 47.5: the middle of 128 x 96 pixels whose first centre is (0, 0)."""
    numbers = [float(word) for word in (scene / INTRINSICS).read_text().split()]
    assert (numbers[2], numbers[6]) == (63.5, 47.5)
    K = read_scan(root_of(scene), SCENE, "undistorted").views[0].camera.K
    np.testing.assert_array_equal(K, PINHOLE.K)
    assert (K[0, 2], K[1, 2]) == (WIDTH / 2, HEIGHT / 2)


def test_poses_are_camera_to_world(scene: Path) -> None:
    for view, original in zip(read_scan(root_of(scene), SCENE, "").views, room()[0].views):
        np.testing.assert_allclose(view.camera_center, original.camera_center, atol=1e-9)
        np.testing.assert_allclose(view.world_to_camera, original.world_to_camera, atol=1e-9)


def test_segments_are_the_superpoints(scene: Path) -> None:
    scan = read_scan(root_of(scene), SCENE, "undistorted")
    np.testing.assert_array_equal(scan.segment_ids, segment_ids())
    superpoints = prepare_scene.run(scan, PrepareConfig()).superpoint_ids
    assert len(np.unique(superpoints)) == len(np.unique(segment_ids())) == 5


def test_axis_alignment_is_not_applied(scene: Path) -> None:
    assert "axisAlignment = 0 -1" in (scene / INFO).read_text()
    before = read_scan(root_of(scene), SCENE, "undistorted")
    (scene / INFO).unlink()
    after = read_scan(root_of(scene), SCENE, "undistorted")
    np.testing.assert_array_equal(before.cloud.points, room()[0].cloud.points)
    np.testing.assert_array_equal(after.cloud.points, room()[0].cloud.points)


def test_scannet_frames_25k(scene: Path) -> None:
    expected = read_scan(root_of(scene), SCENE, "undistorted")
    for name in ("color", "pose", "intrinsic"):
        shutil.rmtree(scene / name)
    write_frames(root_of(scene) / "scannet_frames_25k" / SCENE, digits=6, flat=True)
    scan = read_scan(root_of(scene), SCENE, "undistorted")
    check_same_room(scan, expected)
    assert [view.view_id for view in scan.views] == [f"00000{i}" for i in range(6)]


def test_either_root_may_be_given(scene: Path) -> None:
    root = root_of(scene)
    assert read_scan(root / "scans", SCENE, "undistorted").scene_id == SCENE
    assert read_split(root / "scans", "train") == read_split(root, "train") == [SCENE]
    assert read_split(root, "scannetv2_train") == [SCENE]
    assert scene_identity(root / "scans", SCENE, "") == scene_identity(root, SCENE, "")


def test_own_split_lists_come_first(scene: Path) -> None:
    splits = root_of(scene) / "splits"
    splits.mkdir()
    (splits / "train.txt").write_text("scene0002_00\nscene0001_00\n")
    assert read_split(root_of(scene), "train") == ["scene0002_00", "scene0001_00"]
    with pytest.raises(DataError, match="val.txt"):
        read_split(root_of(scene), "val")
    (splits / "val.txt").write_text("scene0002_00\nscene0002_00\n")
    with pytest.raises(DataError, match="twice"):
        read_split(root_of(scene), "val")


def test_group_names_need_the_aggregation_only(scene: Path) -> None:
    for name in (MESH, SEGMENTS, INTRINSICS):
        (scene / name).unlink()
    names = read_group_names(root_of(scene), SCENE)
    assert [tuple(name) for name in names] == [(i, *group) for i, group in enumerate(GROUPS)]


def test_object_ids_count_from_0(scene: Path) -> None:
    edit(scene / AGGREGATION, lambda c: c["segGroups"][0].update(objectId=0))
    assert read_scan(root_of(scene), SCENE, "").truth.object_ids[0] == 0
    edit(scene / AGGREGATION, lambda c: c["segGroups"][0].update(objectId=-1))
    assert "from 0" in refused(scene)


def test_ids_that_differ_are_told(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_group_names(root_of(scene), SCENE)
    assert "id and objectId differ in 4 of 4 groups" in caplog.text


def test_groups_listed_twice_count_once(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    edit(scene / AGGREGATION, lambda c: c.update(segGroups=c["segGroups"] * 2))
    assert len(read_group_names(root_of(scene), SCENE)) == 4
    assert "4 of 8 groups left out" in caplog.text
    edit(scene / AGGREGATION, lambda c: c["segGroups"][5].update(label="sofa"))
    assert "twice" in refused(scene)


def test_only_a_stream_says_what_to_run(scene: Path) -> None:
    shutil.rmtree(scene / "color")
    (scene / f"{SCENE}.sens").write_bytes(b"x")
    message = refused(scene)
    assert f"--input {scene / SCENE}.sens --output {scene}" in message


def test_scenes_that_are_not_there(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="scene0009_00"):
        read_scan(root_of(scene), "scene0009_00", "")
    with pytest.raises(DataError, match="no such folder"):
        read_scan(tmp_path / "nowhere", SCENE, "")
    with pytest.raises(DataError, match="letters"):
        read_scan(root_of(scene), "../x", "")


@pytest.mark.parametrize("name", [*EVERY_FILE, INFO])
def test_identity_changes_with_every_file(scene: Path, name: str) -> None:
    root = root_of(scene)
    before = scene_identity(root, SCENE, "undistorted")
    assert scene_identity(root, SCENE, "fisheye") == before
    path = scene / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = scene_identity(root, SCENE, "undistorted")
    path.unlink()
    missing = scene_identity(root, SCENE, "undistorted")
    assert len({before, changed, missing}) == 3 and len(before) == 64


def test_identity_of_the_annotation_is_its_content(scene: Path, tmp_path: Path) -> None:
    before = scene_identity(root_of(scene), SCENE, "")
    os.utime(scene / AGGREGATION, (1, 1))
    assert scene_identity(root_of(scene), SCENE, "") == before
    assert len(scene_identity(tmp_path / "nowhere", SCENE, "")) == 64
