"""ScanNet++ reader: what a whole tree gives, which splits it takes, what a scene's identity is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import DataError
from data.readers.scannetpp import read_group_names, read_scan, read_split, scene_identity
from data.readers.scannetpp_layout import CameraChoice
from data.types import Scan
from tests.support.scans.scannetpp_tree import (
    ANNOTATION,
    CAMERAS,
    EVERY_FILE,
    FISHEYE,
    GROUPS,
    IMAGE,
    MESH,
    PINHOLE,
    PINHOLES,
    SCENE,
    SEGMENTS,
    group_points,
    room,
    write_tree,
)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("camera", ["undistorted", "fisheye"])
def test_cameras_and_images_belong_together(whole: Path, camera: CameraChoice) -> None:
    scan = read_scan(whole, SCENE, camera)
    expected = PINHOLE if camera == "undistorted" else FISHEYE
    folder = "resized_undistorted_images" if camera == "undistorted" else "resized_images"
    assert [view.view_id for view in scan.views] == [f"view{i}" for i in range(6)]
    for view, original in zip(scan.views, room()[0].views):
        assert view.camera.model == expected.model
        assert view.camera.distortion == expected.distortion
        np.testing.assert_array_equal(view.camera.K, expected.K)
        np.testing.assert_allclose(view.world_to_camera, original.world_to_camera, atol=1e-9)
        assert view.image_path == whole / "data" / SCENE / "dslr" / folder / f"{view.view_id}.JPG"


def test_geometry_comes_as_it_was_written(whole: Path) -> None:
    scan = read_scan(whole, SCENE, "fisheye")
    scene = room()[0]
    np.testing.assert_array_equal(scan.cloud.points, scene.cloud.points)
    np.testing.assert_array_equal(scan.triangles, scene.triangles)
    np.testing.assert_allclose(scan.cloud.normals, scene.cloud.normals, atol=1e-6)
    assert (scan.cloud.colors == [10, 20, 30]).all()


def check_objects(scan: Scan) -> None:
    truth = scan.truth
    assert truth.object_ids == tuple(object_id for _, object_id, _ in GROUPS)
    assert truth.labels == ("bed", "table", "office chair", "pillow")
    for (_, object_id, _), points in zip(GROUPS, group_points()):
        found = truth.points_of(object_id)
        assert found.dtype == np.int32
        assert set(points.tolist()) <= set(found.tolist()) and (np.diff(found) > 0).all()


def test_overlapping_objects_are_kept_whole(whole: Path) -> None:
    scan = read_scan(whole, SCENE, "undistorted")
    check_objects(scan)
    for (_, object_id, _), points in zip(GROUPS, group_points()):
        np.testing.assert_array_equal(scan.truth.points_of(object_id), points)
    both = scan.truth.mask([31]) & scan.truth.mask([2])
    assert both.sum() == len(group_points()[3])


def test_segments_of_many_vertices_count_by_membership(tmp_path: Path) -> None:
    write_tree(tmp_path, vertex_segments=False)
    scan = read_scan(tmp_path, SCENE, "undistorted")
    check_objects(scan)
    # The pillow's vertices lie in the bed's segment, so by membership it is the whole bed.
    np.testing.assert_array_equal(scan.truth.points_of(2), scan.truth.points_of(31))


def test_the_data_folder_itself_may_be_given(whole: Path) -> None:
    assert read_scan(whole / "data", SCENE, "fisheye").scene_id == SCENE
    assert read_split(whole / "data", "train") == read_split(whole, "train") == [SCENE]


def test_group_names_need_the_annotation_only(root: Path) -> None:
    for name in (MESH, SEGMENTS, CAMERAS):
        (root / "data" / SCENE / name).unlink()
    names = read_group_names(root, SCENE)
    assert [tuple(name) for name in names] == [(i, *group) for i, group in enumerate(GROUPS)]


def test_blurred_frames_are_left_out(root: Path) -> None:
    path = root / "data" / SCENE / PINHOLES
    edit(path, lambda content: content["frames"][1].update(is_bad=True))
    (root / "data" / SCENE / IMAGE).unlink()
    views = read_scan(root, SCENE, "undistorted").views
    assert [view.view_id for view in views] == ["view0", "view2", "view3", "view4", "view5"]


def test_an_image_is_found_by_its_stem(root: Path) -> None:
    path = root / "data" / SCENE / IMAGE
    path.rename(path.with_suffix(".jpg"))
    assert read_scan(root, SCENE, "undistorted").views[1].image_path == path.with_suffix(".jpg")


def test_scenes_and_roots_that_are_not_there(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="0000ffff00"):
        read_scan(whole, "0000ffff00", "fisheye")
    with pytest.raises(DataError, match="no such folder"):
        read_scan(tmp_path / "nowhere", SCENE, "fisheye")


@pytest.mark.parametrize("scene_id", ["../x", "a/b", "", "a b", ".", "a\nb", "ä"])
def test_strange_scene_ids_are_refused(whole: Path, scene_id: str) -> None:
    with pytest.raises(DataError, match="letters, digits and underscores"):
        read_scan(whole, scene_id, "fisheye")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "empty"),
        ("\n \n", "empty"),
        ("aa\nbb\naa\n", "'aa'"),
        ("aa\n../../etc\n", "etc"),
        ("aa bb\n", "aa bb"),
        ("\x00\n", "letters"),
    ],
)
def test_wrong_splits_are_named(root: Path, content: str, hint: str) -> None:
    path = root / "splits" / "train.txt"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_split(root, "train")
    assert str(path) in str(caught.value) and hint in str(caught.value)


def test_a_missing_split_is_named_and_none_is_read_elsewhere(root: Path) -> None:
    with pytest.raises(DataError, match="val.txt"):
        read_split(root, "val")
    with pytest.raises(DataError, match="letters"):
        read_split(root, "../splits/train")


def test_a_split_keeps_its_order(root: Path) -> None:
    (root / "splits" / "train.txt").write_bytes(b"bb\r\n\naa\r\n")
    assert read_split(root, "train") == ["bb", "aa"]


@pytest.mark.parametrize(("camera", "name"), EVERY_FILE)
def test_identity_changes_with_every_file_and_only_then(
    root: Path, camera: CameraChoice, name: str
) -> None:
    before = scene_identity(root, SCENE, camera)
    assert scene_identity(root / "data", SCENE, camera) == before
    path = root / "data" / SCENE / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = scene_identity(root, SCENE, camera)
    path.unlink()
    missing = scene_identity(root, SCENE, camera)
    assert len({before, changed, missing}) == 3 and len(before) == 64


def test_identity_of_the_annotation_is_its_content(root: Path) -> None:
    before = scene_identity(root, SCENE, "fisheye")
    os.utime(root / "data" / SCENE / ANNOTATION, (1, 1))
    assert scene_identity(root, SCENE, "fisheye") == before


def test_identity_never_raises(tmp_path: Path) -> None:
    assert len(scene_identity(tmp_path / "nowhere", SCENE, "fisheye")) == 64
