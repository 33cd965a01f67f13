"""ScanNet++ scenes with a file missing, cut, wrong or at odds with another: one clear error."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.errors import DataError
from data.readers.scannetpp import read_scan
from data.readers.scannetpp_layout import CameraChoice
from data.types import Array
from tests.support.scans.scannetpp_tree import (
    ANNOTATION,
    EVERY_FILE,
    FISHEYES,
    IMAGE,
    IMAGES,
    MESH,
    PINHOLES,
    SCENE,
    SEGMENTS,
    room,
    write_mesh,
)


def broken(root: Path, camera: CameraChoice = "undistorted") -> DataError:
    with pytest.raises(DataError) as caught:
        read_scan(root, SCENE, camera)
    return caught.value


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("camera", "name"), EVERY_FILE)
def test_a_missing_file_is_named(root: Path, camera: CameraChoice, name: str) -> None:
    path = root / "data" / SCENE / name
    path.unlink()
    if name == PINHOLES:  # without it the fisheye images are undistorted, if they are there
        read_scan(root, SCENE, camera)
        path = root / "data" / SCENE / FISHEYES
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


def test_missing_folders_of_images_say_what_to_do(root: Path) -> None:
    dslr = root / "data" / SCENE / "dslr"
    shutil.rmtree(dslr / "resized_images")
    message = str(broken(root, "fisheye"))
    assert str(dslr / "resized_images") in message and "Download" in message
    read_scan(root, SCENE, "undistorted")
    shutil.rmtree(dslr / "resized_undistorted_images")
    message = str(broken(root))
    assert str(dslr / "resized_images") in message
    assert "resized_undistorted_images" in message and "transforms_undistorted.json" in message


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


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(EVERY_FILE), st.integers(0, 2**31), st.integers(1, 30))
def test_any_damage_is_either_harmless_or_one_clear_error(
    whole: Path, case: tuple[CameraChoice, str], seed: int, count: int
) -> None:
    camera, name = case
    path = whole / "data" / SCENE / name
    good = path.read_bytes()
    rng = np.random.default_rng(seed)
    bad = np.frombuffer(good, np.uint8).copy()
    bad[rng.integers(0, len(bad), count)] = rng.integers(0, 256, count)
    try:
        path.write_bytes(bad.tobytes())
        read_scan(whole, SCENE, camera)
    except DataError as error:
        assert str(whole / "data" / SCENE) in str(error)
    finally:
        path.write_bytes(good)
