"""ScanNet++ reader: what a whole tree gives, and one clear error for every broken file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers.scannetpp import read_group_names, read_scan, read_split, scene_identity
from data.readers.scannetpp_layout import CameraChoice
from data.scan import Scan
from data.types import Array
from tests.scannetpp_tree import (
    FISHEYE,
    GROUPS,
    PINHOLE,
    SCENE,
    group_points,
    room,
    write_mesh,
    write_tree,
)

MESH = "scans/mesh_aligned_0.05.ply"
SEGMENTS = "scans/segments.json"
ANNOTATION = "scans/segments_anno.json"
CAMERAS = "dslr/colmap/cameras.txt"
IMAGES = "dslr/colmap/images.txt"
PINHOLES = "dslr/nerfstudio/transforms_undistorted.json"
FISHEYES = "dslr/nerfstudio/transforms.json"
IMAGE = "dslr/resized_undistorted_images/view1.JPG"
FISHEYE_IMAGE = "dslr/resized_images/view1.JPG"
EVERY_FILE = [
    ("undistorted", name) for name in (MESH, SEGMENTS, ANNOTATION, CAMERAS, IMAGES, PINHOLES, IMAGE)
] + [("fisheye", name) for name in (FISHEYES, FISHEYE_IMAGE)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    write_tree(root)
    return root


@pytest.fixture
def root(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole tree, to break."""
    shutil.copytree(whole, tmp_path / "root")
    return tmp_path / "root"


def broken(root: Path, camera: CameraChoice = "undistorted") -> DataError:
    with pytest.raises(DataError) as caught:
        read_scan(root, SCENE, camera)
    return caught.value


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


@pytest.mark.parametrize(("camera", "name"), EVERY_FILE)
def test_a_missing_file_is_named(root: Path, camera: CameraChoice, name: str) -> None:
    path = root / "data" / SCENE / name
    path.unlink()
    error = broken(root, camera)
    assert str(path) in str(error) and "no such file" in str(error)


@pytest.mark.parametrize(("camera", "name"), EVERY_FILE)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_named(
    root: Path, camera: CameraChoice, name: str, share: float
) -> None:
    path = root / "data" / SCENE / name
    os.truncate(path, int(path.stat().st_size * share))
    assert str(path) in str(broken(root, camera))


@pytest.mark.parametrize(("camera", "name"), EVERY_FILE)
@pytest.mark.parametrize("kind", ["bytes", "text", "folder"])
def test_garbage_is_named(root: Path, camera: CameraChoice, name: str, kind: str) -> None:
    path = root / "data" / SCENE / name
    size = path.stat().st_size
    path.unlink()
    if kind == "bytes":
        path.write_bytes(np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes())
    elif kind == "text":
        path.write_text("404: not found\n")
    else:
        path.mkdir()
    assert str(path) in str(broken(root, camera))


def duplicate_group(content: Any, key: str) -> None:
    content["segGroups"][1][key] = content["segGroups"][0][key]


WRONG_JSON: list[tuple[str, Callable[[Any], object], str]] = [
    (SEGMENTS, lambda c: c["segIndices"].pop(), "segIndices"),
    (SEGMENTS, lambda c: c["segIndices"].__setitem__(3, None), "integers"),
    (SEGMENTS, lambda c: c["segIndices"].__setitem__(3, 1.5), "integers"),
    (SEGMENTS, lambda c: c["segIndices"].__setitem__(3, float("nan")), "NaN"),
    (SEGMENTS, lambda c: c["segIndices"].__setitem__(3, [1, 2]), "integers"),
    (SEGMENTS, lambda c: c.pop("segIndices"), "segIndices"),
    (ANNOTATION, lambda c: c.pop("segGroups"), "segGroups"),
    (ANNOTATION, lambda c: c["segGroups"].append(7), "segGroups[4]"),
    (ANNOTATION, lambda c: c["segGroups"][2].pop("segments"), "segGroups[2]"),
    (ANNOTATION, lambda c: c["segGroups"][2]["segments"].append("x"), "segGroups[2]"),
    (ANNOTATION, lambda c: c["segGroups"][2]["segments"].append(10**6), "1000000"),
    (ANNOTATION, lambda c: c["segGroups"][2]["segments"].append(-1), "-1"),
    (ANNOTATION, lambda c: c["segGroups"][2].update(label=None), "label"),
    (ANNOTATION, lambda c: c["segGroups"][2].update(objectId="5"), "objectId"),
    (ANNOTATION, lambda c: c["segGroups"][2].update(id=True), "id"),
    (ANNOTATION, lambda c: duplicate_group(c, "id"), "twice"),
    (ANNOTATION, lambda c: duplicate_group(c, "objectId"), "twice"),
    (PINHOLES, lambda c: c.pop("fl_x"), "fl_x"),
    (PINHOLES, lambda c: c.update(w="128"), "w"),
    (PINHOLES, lambda c: c.update(k1=0.1), "PINHOLE"),
    (PINHOLES, lambda c: c.update(camera_model="OPENCV_FISHEYE"), "PINHOLE"),
    (PINHOLES, lambda c: c.update(camera_model="SIMPLE"), "SIMPLE"),
    (PINHOLES, lambda c: c.update(frames=[], test_frames=[]), "no frame"),
    (PINHOLES, lambda c: c["frames"].append(c["frames"][0]), "view0.JPG"),
    (PINHOLES, lambda c: c["frames"][0].update(transform_matrix=[[1, 0], [0, 1]]), "view0.JPG"),
    (PINHOLES, lambda c: c["frames"][0].update(transform_matrix="x"), "view0.JPG"),
    (PINHOLES, lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(3, None), "view0.JPG"),
    (PINHOLES, lambda c: c["frames"][0].pop("file_path"), "file_path"),
    (PINHOLES, lambda c: c["frames"][0].update(file_path="../we ird;.JPG"), "weird"),
    (PINHOLES, lambda c: [f.update(is_bad=True) for f in c["frames"] + c["test_frames"]], "bad"),
]


@pytest.mark.parametrize(("name", "change", "hint"), WRONG_JSON)
def test_wrong_json_is_named(
    root: Path, name: str, change: Callable[[Any], object], hint: str
) -> None:
    path = root / "data" / SCENE / name
    edit(path, change)
    if hint == "weird":  # a frame COLMAP does not know is COLMAP's lack
        path = root / "data" / SCENE / IMAGES
        hint = "we ird;"
    message = str(broken(root))
    assert str(path) in message and hint in message


def test_poses_that_disagree_name_file_view_and_difference(root: Path) -> None:
    path = root / "data" / SCENE / PINHOLES
    edit(path, lambda c: c["frames"][2]["transform_matrix"][0].__setitem__(3, 9.0))
    message = str(broken(root))
    assert str(path) in message and "view2.JPG" in message and "difference of" in message


def test_poses_may_differ_by_rounding_only(root: Path) -> None:
    path = root / "data" / SCENE / PINHOLES

    def shift(content: Any, by: float) -> None:
        content["frames"][2]["transform_matrix"][1][3] += by

    edit(path, lambda content: shift(content, 5e-5))
    read_scan(root, SCENE, "undistorted")
    edit(path, lambda content: shift(content, 1e-4))
    assert "view2.JPG" in str(broken(root))


def test_poses_without_the_axis_change_are_refused(root: Path) -> None:
    path = root / "data" / SCENE / FISHEYES

    def plain(content: Any) -> None:
        for frame, view in zip(content["frames"], room()[0].views):
            frame["transform_matrix"] = np.linalg.inv(view.world_to_camera).tolist()

    edit(path, plain)
    assert str(path) in str(broken(root, "fisheye"))


def test_fisheye_intrinsics_that_disagree_are_refused(root: Path) -> None:
    path = root / "data" / SCENE / FISHEYES
    edit(path, lambda content: content.update(k4=0.0))
    assert "intrinsics of cameras.txt" in str(broken(root, "fisheye"))


def test_a_frame_colmap_does_not_know_is_named(root: Path) -> None:
    path = root / "data" / SCENE / IMAGES
    path.write_text(path.read_text().replace("view3.JPG", "other.JPG"))
    message = str(broken(root))
    assert str(path) in message and "view3.JPG" in message


def test_an_image_of_another_size_is_refused(root: Path) -> None:
    path = root / "data" / SCENE / IMAGE
    Image.new("RGB", (64, 48)).save(path)
    message = str(broken(root))
    assert str(path) in message and "128x96" in message and "64x48" in message


def test_a_missing_folder_of_images_says_what_to_do(root: Path) -> None:
    shutil.rmtree(root / "data" / SCENE / "dslr" / "resized_undistorted_images")
    message = str(broken(root))
    assert "resized_undistorted_images" in message and "prepare.camera=fisheye" in message
    read_scan(root, SCENE, "fisheye")


def mesh_with(change: Callable[[Array, Array], None], path: Path) -> None:
    scene = room()[0]
    points, triangles = scene.cloud.points.copy(), scene.triangles.copy()
    change(points, triangles)
    write_mesh(path, points, triangles)


@pytest.mark.parametrize(
    "change",
    [
        lambda points, triangles: points.__setitem__((5, 1), np.nan),
        lambda points, triangles: points.__setitem__((5, 1), np.inf),
        lambda points, triangles: triangles.__setitem__((5, 1), len(points)),
        lambda points, triangles: triangles.__setitem__((5, 1), -1),
    ],
    ids=["nan", "inf", "beyond", "negative"],
)
def test_wrong_vertices_and_faces_are_named(
    root: Path, change: Callable[[Array, Array], None]
) -> None:
    path = root / "data" / SCENE / MESH
    mesh_with(change, path)
    assert str(path) in str(broken(root))


def test_a_mesh_of_another_scan_is_refused(root: Path) -> None:
    scene = room()[0]
    mesh = root / "data" / SCENE / MESH
    write_mesh(mesh, np.concatenate([scene.cloud.points, np.ones((1, 3))]), scene.triangles)
    message = str(broken(root))
    assert str(root / "data" / SCENE / SEGMENTS) in message and str(len(scene.cloud) + 1) in message


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
