"""The traps of ScanNet's files: lost poses, files of another mesh, images of another size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers.scannet import read_group_names, read_scan
from tests.support.damage import edit
from tests.support.scans.scannet_tree import (
    AGGREGATION,
    FULL_MESH,
    IMAGE,
    INFO,
    MESH,
    POSE,
    SCENE,
    SEGMENTS,
    camera_to_world,
    matrix_text,
    refused,
    root_of,
    write_tree,
)
from tests.support.scans.scannetpp_tree import HEIGHT, WIDTH, room, write_mesh


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Folder of a whole scene."""
    return write_tree(tmp_path / "scannet")


@pytest.mark.parametrize("value", ["-inf", "inf", "nan", "-NaN"])
def test_lost_poses_are_dropped_and_counted(
    scene: Path, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    for index in (2, 4):
        (scene / "pose" / f"{index}.txt").write_text(f"{value} " * 16)
    views = read_scan(root_of(scene), SCENE, "undistorted").views
    assert [view.view_id for view in views] == ["0", "1", "3", "5"]
    assert "2 of 6 frames left out" in caplog.text and str(scene / "pose") in caplog.text


def test_no_pose_at_all_is_refused(scene: Path) -> None:
    for path in (scene / "pose").iterdir():
        path.write_text("-inf " * 16)
    assert "at least one finite pose" in refused(scene)


def test_an_image_without_a_pose_is_named(scene: Path) -> None:
    (scene / POSE).unlink()
    assert str(scene / POSE) in refused(scene)


def test_poses_without_an_image_are_counted(scene: Path, caplog: pytest.LogCaptureFixture) -> None:
    (scene / IMAGE).unlink()
    assert len(read_scan(root_of(scene), SCENE, "undistorted").views) == 5
    assert "1 of 6 poses left out: no image" in caplog.text


def test_images_are_joined_by_stem(scene: Path) -> None:
    (scene / IMAGE).rename(scene / "color" / "1.JPG")
    views = read_scan(root_of(scene), SCENE, "undistorted").views
    assert views[1].image_path == scene / "color" / "1.JPG"


def test_the_full_mesh_segments_are_refused(scene: Path) -> None:
    edit(scene / SEGMENTS, lambda c: c["segIndices"].append(3))
    message = refused(scene)
    assert str(scene / SEGMENTS) in message and "_vh_clean.segs.json" in message


def test_the_full_mesh_aggregation_is_refused(scene: Path) -> None:
    """Its segments may well be numbers that the decimated mesh has too: the file's name tells."""
    edit(scene / AGGREGATION, lambda c: c.update(segmentsFile=FULL_MESH))
    message = refused(scene)
    assert str(scene / AGGREGATION) in message and "_vh_clean_2" in message
    with pytest.raises(DataError, match="segmentsFile"):
        read_group_names(root_of(scene), SCENE)


def test_the_full_mesh_itself_is_refused(scene: Path) -> None:
    tiny = room()[0]
    points = np.concatenate([tiny.cloud.points, np.ones((9, 3), np.float32)])
    write_mesh(scene / MESH, points, tiny.triangles)
    assert f"{len(points)} segIndices" in refused(scene)


@pytest.mark.parametrize("has_info", [True, False])
def test_images_resized_to_the_depth_size_are_refused(scene: Path, has_info: bool) -> None:
    """All of them: with the colour intrinsics, they would be quietly wrong."""
    if not has_info:
        (scene / INFO).unlink()
    for path in (scene / "color").iterdir():
        Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(path)
    message = refused(scene)
    assert "64x48" in message


def test_one_image_of_another_size_is_refused(scene: Path) -> None:
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(scene / "color" / "3.jpg")
    message = refused(scene)
    assert str(scene / "color" / "3.jpg") in message and "128x96" in message


def test_other_intrinsics_than_the_scanner_says_are_refused(scene: Path) -> None:
    """Those of the depth camera, say."""
    text = (scene / INFO).read_text()
    (scene / INFO).write_text(text.replace("fx_color = 55.0", "fx_color = 110.0"))
    assert "fx_color" in refused(scene)


def test_a_pose_that_is_not_rigid_is_refused(scene: Path) -> None:
    (scene / POSE).write_text(matrix_text(camera_to_world(1) * [[2], [1], [1], [1]]))
    assert str(scene / POSE) in refused(scene)
    mirrored = camera_to_world(1) @ np.diag([-1.0, 1, 1, 1])
    (scene / POSE).write_text(matrix_text(mirrored))
    assert "rigid" in refused(scene)
