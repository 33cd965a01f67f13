"""Matterport3D regions with a file damaged in hundreds of ways: one error that names it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.readers.matterport import (
    read_conf,
    read_face_segments,
    read_groups,
    read_scan,
    read_views,
    truth_of_faces,
)
from data.readers.matterport_layout import ROOM_TYPES, RegionPaths, read_house
from tests.support.damage import check_damaged, damaged_bytes, damaged_json, damaged_words
from tests.support.scans.matterport_tree import (
    CAMERAS,
    EVERY_FILE,
    PANORAMAS,
    SCENE,
    face_segments,
    image_name,
    write_tree,
)
from tests.support.scans.scannetpp_tree import room


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegionPaths]:
    root = tmp_path_factory.mktemp("matterport")
    write_tree(root)
    yield RegionPaths.find(root, SCENE)
    read_scan(root, SCENE, "undistorted")  # every damage was put right again


@settings(max_examples=100)
@given(st.data())
def test_damaged_annotations(paths: RegionPaths, data: st.DataObject) -> None:
    good = paths.annotation.read_bytes()
    scene = room()[0]

    def read() -> None:
        groups = read_groups(paths.annotation)
        sizes = len(scene.cloud), paths.annotation
        truth = truth_of_faces(groups, scene.triangles, face_segments(), *sizes, "")
        assert truth.offsets[-1] == len(truth.point_ids)
        assert all(object_id >= 0 for object_id in truth.object_ids)

    bad = data.draw(st.one_of(damaged_json(good), damaged_bytes(good)))
    check_damaged(paths.annotation, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_segments(paths: RegionPaths, data: st.DataObject) -> None:
    good = paths.segments.read_bytes()
    num_faces = len(room()[0].triangles)

    def read() -> None:
        assert read_face_segments(paths.segments, num_faces).dtype == np.int64

    bad = data.draw(st.one_of(damaged_json(good), damaged_bytes(good)))
    check_damaged(paths.segments, bad, read)


@settings(max_examples=100)
@given(st.data())
def test_damaged_cameras(paths: RegionPaths, data: st.DataObject) -> None:
    """The image is to blame where the file names another one: its folder is named."""
    good = paths.cameras.read_bytes()
    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))
    paths.cameras.write_bytes(bad)
    try:
        for view in read_views(paths):
            assert np.isfinite(view.world_to_camera).all()
    except DataError as error:
        assert str(paths.cameras) in str(error) or str(paths.images) in str(error)
    finally:
        paths.cameras.write_bytes(good)


@settings(max_examples=100)
@given(st.data())
def test_damaged_houses(paths: RegionPaths, data: st.DataObject) -> None:
    good = paths.house_file.read_bytes()

    def read() -> None:
        house = read_house(paths.house_file)
        assert set(house.room_types.values()) <= set(ROOM_TYPES.values())

    bad = data.draw(st.one_of(damaged_words(good), damaged_bytes(good)))
    check_damaged(paths.house_file, bad, read)


CONF = "intrinsics_matrix 5 0 2 0 5 2 0 0 1\n"
SCAN = "scan a.png a.jpg 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1\n"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (SCAN, "before the first scan in line 1"),
        (CONF, "scan lines"),
        (CONF + SCAN + SCAN, "each image once, without a folder in line 3"),
        (CONF + SCAN.replace(" 1\n", " nan\n"), "finite numbers in line 2"),
        (CONF + SCAN.replace(" 1\n", "\n"), "16 numbers in line 2"),
        (CONF + SCAN.replace("a.jpg", "b/a.jpg"), "without a folder"),
        (CONF + SCAN.replace("a.jpg", "a;b.jpg"), "an image name"),
        ("n_images 2\n" + CONF + SCAN, "n_images 2"),
        (CONF.replace("5", "-5") + SCAN, "fx and fy positive"),
        (CONF.replace(" 0 2", " 1 2") + SCAN, "intrinsics_matrix"),
    ],
)
def test_wrong_cameras_are_told(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "x.conf"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_conf(path)
    assert str(path) in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("R 0 0 0 0 a", "a new region"),
        ("R 5 0 0 0 Q", "known room type"),
        ("R 5", "fields"),
        ("R x 0 0 0 a", "region's number"),
        (f"P {'a' * 32} 0 7 0 1 1 1", "region 7"),
    ],
)
def test_wrong_houses_are_told(tmp_path: Path, line: str, hint: str) -> None:
    path = tmp_path / "x.house"
    path.write_text(f"R 0 0 0 0 b\n{line}\n")
    with pytest.raises(DataError) as caught:
        read_house(path)
    assert str(path) in str(caught.value) and hint in str(caught.value)


def test_an_image_named_as_its_panorama_only_is_refused(tmp_path: Path) -> None:
    path = write_tree(tmp_path) / CAMERAS
    path.write_text(path.read_text().replace(image_name(0), PANORAMAS[0]))
    with pytest.raises(DataError, match=PANORAMAS[0]):
        read_scan(tmp_path, SCENE, "undistorted")


@pytest.mark.parametrize("name", EVERY_FILE)
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "half"])
def test_a_whole_region_names_the_file(tmp_path: Path, name: str, kind: str) -> None:
    path = write_tree(tmp_path) / name
    good = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        text = {"empty": b"", "text": b"404: not found\n", "half": good[: len(good) // 2]}[kind]
        path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_scan(tmp_path, SCENE, "undistorted")
    assert str(path) in str(caught.value)
