"""Matterport3D reader: a region as a scene, in all layouts, and the traps of its files."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers import scannetpp
from data.readers.matterport import (
    read_group_names,
    read_room_type,
    read_scan,
    read_split,
    scene_identity,
    truth_of_faces,
    vertex_segments,
)
from data.readers.segment_groups import parse_groups
from data.types import Array
from tests.support.damage import edit
from tests.support.same_room import check_same_room
from tests.support.scans.matterport_tree import (
    ANNOTATION,
    CAMERAS,
    ELSEWHERE,
    EVERY_FILE,
    HOUSE,
    HOUSE_FILE,
    IMAGE,
    KINDS,
    MESH,
    PANORAMAS,
    SCENE,
    SEGMENTS,
    conf_text,
    image_name,
    write_tree,
)
from tests.support.scans.scannetpp_tree import GROUPS
from tests.support.scans.scannetpp_tree import SCENE as OTHER_SCENE
from tests.support.scans.scannetpp_tree import room
from tests.support.scans.scannetpp_tree import write_tree as write_scannetpp


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_tree(tmp_path / "matterport")
    return tmp_path / "matterport"


@pytest.fixture
def house(root: Path) -> Path:
    return root / "v1" / "scans" / HOUSE


def refused(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_scan(root, SCENE, "undistorted")
    return str(caught.value)


def test_the_room_is_that_of_the_scannetpp_reader(root: Path, tmp_path: Path) -> None:
    """All but the pillow, which is no union of faces."""
    write_scannetpp(tmp_path / "scannetpp")
    expected = scannetpp.read_scan(tmp_path / "scannetpp", OTHER_SCENE, "undistorted")
    truth = replace(
        expected.truth,
        object_ids=expected.truth.object_ids[:3],
        labels=expected.truth.labels[:3],
        offsets=expected.truth.offsets[:4],
    )
    for camera in ("undistorted", "fisheye"):  # ignored
        check_same_room(read_scan(root, SCENE, camera), replace(expected, truth=truth))


def test_cy_counts_from_the_bottom(root: Path, house: Path) -> None:
    """Pixel row 40 from the bottom of 96 is row 55 from the top, its centre at 55.5."""
    (house / CAMERAS).write_text(conf_text(cy=40.0))
    K = read_scan(root, SCENE, "undistorted").views[0].camera.K
    np.testing.assert_allclose(K, np.array([[55.0, 0, 64], [0, 55.5, 55.5], [0, 0, 1]]))


@pytest.mark.parametrize(
    ("numbers", "is_right"),
    [
        ("128 96 55 55.5 63.5 55 0 0 0 0 0", True),  # row 40 from the bottom is 55 from the top
        ("128 96 55 55.5 63.5 40 0 0 0 0 0", False),  # the .conf counted from the top after all
        ("128 96 55 55.5 70 55 0 0 0 0 0", False),
        ("128 96 55", False),
        ("128 96 55 55.5 63.5 nan", False),
    ],
)
def test_the_calibration_must_agree(root: Path, house: Path, numbers: str, is_right: bool) -> None:
    (house / CAMERAS).write_text(conf_text(cy=40.0))
    folder = house / "matterport_camera_intrinsics"
    folder.mkdir()
    (folder / f"{PANORAMAS[0]}_intrinsics_0.txt").write_text(numbers + "\n")
    if is_right:
        assert read_scan(root, SCENE, "undistorted").views
    else:
        assert f"{PANORAMAS[0]}_intrinsics_0.txt" in refused(root)


def test_cameras_look_along_minus_z(root: Path, house: Path) -> None:
    """The file's matrix is a camera at (1, 2, 3) in world axes: it looks down, +y is up in it."""
    lines = (house / CAMERAS).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if image_name(0) in line)
    words = lines[at].split()[:3] + "1 0 0 1  0 1 0 2  0 0 1 3  0 0 0 1".split()
    lines[at] = " ".join(words)
    (house / CAMERAS).write_text("\n".join(lines))
    view = read_scan(root, SCENE, "undistorted").views[0]
    below = view.world_to_camera @ [1, 2, 1, 1]
    np.testing.assert_allclose(below, [0, 0, 2, 1])  # 2 m ahead
    north = view.world_to_camera @ [1, 3, 1, 1]
    np.testing.assert_allclose(north, [0, -1, 2, 1])  # higher up in the image


def test_only_images_of_the_region_are_views(root: Path) -> None:
    """Those from elsewhere would look through walls that the region's mesh has not."""
    assert ELSEWHERE in (root / "v1" / "scans" / HOUSE / CAMERAS).read_text()
    views = read_scan(root, SCENE, "undistorted").views
    assert [view.view_id for view in views] == [f"{p}_i0_{i}" for p in PANORAMAS for i in range(3)]


def test_a_region_without_a_panorama_is_refused(root: Path, house: Path) -> None:
    for name in (MESH, SEGMENTS, ANNOTATION):
        (house / name).rename(house / name.replace("region3", "region0"))
    text = (house / HOUSE_FILE).read_text().replace(f"{ELSEWHERE} 1 0", f"{ELSEWHERE} 1 3")
    (house / HOUSE_FILE).write_text(text)
    with pytest.raises(DataError, match="take it out of the split"):
        read_scan(root, f"{HOUSE}_region0", "undistorted")


def test_room_types(root: Path) -> None:
    assert read_room_type(root, SCENE) == "bedroom"
    assert read_room_type(root, f"{HOUSE}_region0") == "bathroom"
    with pytest.raises(DataError, match="region 9"):
        read_room_type(root, f"{HOUSE}_region9")


@pytest.mark.parametrize("nesting", ["house/house/kind", "house/kind/house/kind"])
def test_archives_unpacked_where_they_lie(root: Path, house: Path, nesting: str) -> None:
    expected = read_scan(root, SCENE, "undistorted")
    for kind in KINDS:
        aside = house / f"{kind}.aside"
        (house / kind).rename(aside)
        inside = house / kind / HOUSE if nesting.startswith("house/kind") else house / HOUSE
        inside.mkdir(parents=True, exist_ok=True)
        aside.rename(inside / kind)
    check_same_room(read_scan(root, SCENE, "undistorted"), expected)


def test_any_root_may_be_given(root: Path) -> None:
    identity = scene_identity(root, SCENE, "undistorted")
    for given in (root / "v1", root / "v1" / "scans"):
        assert read_scan(given, SCENE, "undistorted").scene_id == SCENE
        assert read_split(given, "train") == [SCENE]
        assert scene_identity(given, SCENE, "fisheye") == identity


def test_a_split_may_name_houses(root: Path, house: Path) -> None:
    for number in (10, 2):
        shutil.copy(house / MESH, house / f"region_segmentations/region{number}.ply")
    path = root / "splits" / "train.txt"
    path.write_text(f"other_region1\n{HOUSE}\n")
    regions = [f"{HOUSE}_region{number}" for number in (2, 3, 10)]
    assert read_split(root, "train") == ["other_region1", *regions]
    path.write_text(f"{HOUSE}\n{SCENE}\n")
    with pytest.raises(DataError, match="twice"):
        read_split(root, "train")
    path.write_text("nohouse\n")
    with pytest.raises(DataError, match="nohouse"):
        read_split(root, "train")


def test_groups_without_ids_are_counted_from_0(root: Path, house: Path) -> None:
    names = [tuple(name) for name in read_group_names(root, SCENE)]
    assert names == [(i, *group) for i, group in enumerate(GROUPS[:3])]

    def strip(content: Any) -> None:
        for group in content["segGroups"]:
            del group["id"], group["objectId"]

    edit(house / ANNOTATION, strip)
    plain = [tuple(name) for name in read_group_names(root, SCENE)]
    assert plain == [(i, i, i, group[2]) for i, group in enumerate(GROUPS[:3])]


def test_segments_of_vertices_are_refused(root: Path, house: Path) -> None:
    """vsegs.json in place of fsegs.json: one segment a vertex."""
    count = len(room()[0].cloud)
    (house / SEGMENTS).write_text(json.dumps({"segIndices": [3] * count}))
    message = refused(root)
    assert str(house / SEGMENTS) in message and "vsegs" in message


def test_a_segment_no_face_has_is_named(root: Path, house: Path) -> None:
    edit(house / ANNOTATION, lambda c: c["segGroups"][1]["segments"].append(77))
    message = refused(root)
    assert str(house / ANNOTATION) in message and "segment 77" in message


def test_resized_images_are_refused(root: Path, house: Path) -> None:
    for path in (house / "undistorted_color_images").iterdir():
        Image.new("RGB", (64, 48)).save(path)
    message = refused(root)
    assert str(house / CAMERAS) in message and "64x48" in message


def test_one_image_of_another_size_is_refused(root: Path, house: Path) -> None:
    Image.new("RGB", (64, 48)).save(house / IMAGE)
    assert str(house / IMAGE) in refused(root)


@pytest.mark.parametrize("scene_id", ["", HOUSE, f"{HOUSE}_region", "../x_region1", "a_region1 "])
def test_strange_scene_ids_are_refused(root: Path, scene_id: str) -> None:
    with pytest.raises(DataError, match="<house>_region<k>"):
        read_scan(root, scene_id, "undistorted")
    assert len(scene_identity(root, scene_id, "undistorted")) == 64


@pytest.mark.parametrize("name", EVERY_FILE)
def test_identity_changes_with_every_file(root: Path, house: Path, name: str) -> None:
    before = scene_identity(root, SCENE, "undistorted")
    path = house / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = scene_identity(root, SCENE, "undistorted")
    path.unlink()
    missing = scene_identity(root, SCENE, "undistorted")
    assert len({before, changed, missing}) == 3


# A fan of four faces about vertex 0: vertices 1 to 5 around it, vertex 6 of no face.
FAN = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 4], [0, 4, 5]], np.int32)


def groups_of(*segments: list[int]) -> Any:
    content = {"segGroups": [{"label": "x", "segments": ids} for ids in segments]}
    return parse_groups(content, Path("x.json"), "", has_ids=False)


def masks_of(segments: list[list[int]], faces: list[int]) -> list[list[int]]:
    ids = np.array(faces, np.int64)
    truth = truth_of_faces(groups_of(*segments), FAN, ids, 7, Path("x.json"), "")
    return [truth.points_of(k).tolist() for k in range(len(segments))]


def test_a_vertex_has_the_segment_of_most_faces() -> None:
    def of(*faces: int) -> Array:
        return vertex_segments(FAN, np.array(faces, np.int64), 7)

    assert of(8, 8, 8, 5).tolist() == [8, 8, 8, 8, 5, 5, 9]  # vertex 4 ties: the smaller
    assert of(5, 8, 8, 8).tolist() == [8, 5, 5, 8, 8, 8, 9]


def test_a_vertex_has_the_object_of_most_faces() -> None:
    # Vertex 0: three faces of object 0; vertex 4 ties and belongs to both.
    assert masks_of([[8], [5]], [8, 8, 8, 5]) == [[0, 1, 2, 3, 4], [4, 5]]
    # Two segments are one object: with 2 faces at vertex 0 it beats two others of one.
    assert masks_of([[1, 2], [3]], [1, 2, 3, 9]) == [[0, 1, 2, 3], [3, 4]]
    # Three faces of nothing at vertex 0 outvote the object; a tie does not.
    assert masks_of([[8]], [8, 1, 1, 1]) == [[1, 2]]


def test_an_object_may_share_segments_with_another() -> None:
    assert masks_of([[8], [8]], [8, 1, 1, 1]) == [[1, 2], [1, 2]]
