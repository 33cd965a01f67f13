"""A person's own scan: what a whole folder gives, with a mesh and without."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers import scannetpp
from data.readers.rgbd import read_group_names, read_scan, read_split, scene_identity
from data.types import PointCloud
from tests.support.same_room import check_same_room
from tests.support.scans.rgbd_tree import (
    DEPTH,
    EVERY_FILE,
    IMAGE,
    INTRINSICS,
    MESH,
    POSE,
    SCENE,
    distance_to_room,
    write_tree,
)
from tests.support.scans.scannetpp_tree import HEIGHT, PINHOLE
from tests.support.scans.scannetpp_tree import SCENE as OTHER_SCENE
from tests.support.scans.scannetpp_tree import WIDTH, room
from tests.support.scans.scannetpp_tree import write_tree as write_scannetpp


@pytest.fixture
def scan_folder(tmp_path: Path) -> Path:
    return write_tree(tmp_path / SCENE)


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> PointCloud:
    """The points of a scan without a mesh."""
    folder = write_tree(tmp_path_factory.mktemp("fused") / SCENE, with_mesh=False)
    return read_scan(folder, SCENE, "").cloud


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_scan(folder, SCENE, "")
    return str(caught.value)


def test_the_room_is_that_of_the_scannetpp_reader(scan_folder: Path, tmp_path: Path) -> None:
    """All but what is known of its objects."""
    write_scannetpp(tmp_path / "scannetpp")
    expected = scannetpp.read_scan(tmp_path / "scannetpp", OTHER_SCENE, "undistorted")
    scan = read_scan(scan_folder, SCENE, "undistorted")
    assert (scan.truth.object_ids, scan.truth.labels) == ((), ())
    assert scan.truth.num_points == len(scan.cloud)
    check_same_room(scan, replace(expected, truth=scan.truth))
    assert read_group_names(scan_folder, SCENE) == []


def test_without_a_mesh_depth_is_fused(fused: PointCloud) -> None:
    low, high = room()[0].cloud.points.min(0), room()[0].cloud.points.max(0)
    assert len(fused) > 5000
    assert (fused.points > low - 0.1).all() and (fused.points < high + 0.1).all()
    np.testing.assert_allclose(np.linalg.norm(fused.normals, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.median(fused.colors, axis=0), (200, 200, 190), atol=6)


def test_normals_of_fused_walls_look_into_the_room(fused: PointCloud) -> None:
    """The floor's normals point up, as those of scanners' meshes do."""
    floor = fused.points[:, 2] < room()[0].cloud.points[:, 2].min() + 0.03
    assert floor.sum() > 500 and np.median(fused.normals[floor, 2]) > 0.95


def test_smaller_depth_images_are_of_the_same_view(scan_folder: Path) -> None:
    (scan_folder / MESH).unlink()
    for path in (scan_folder / "depth").iterdir():
        depth = np.asarray(Image.open(path))
        Image.fromarray(depth[::2, ::2]).save(path)
    scan = read_scan(scan_folder, SCENE, "")
    assert (scan.views[0].camera.height, scan.views[0].camera.width) == (HEIGHT, WIDTH)
    off = distance_to_room(scan.cloud.points)
    assert np.median(off) < 0.02 and np.quantile(off, 0.9) < 0.06  # a pixel is 0.1 m wide here


def test_a_mesh_needs_no_depth(scan_folder: Path) -> None:
    shutil.rmtree(scan_folder / "depth")
    assert len(read_scan(scan_folder, SCENE, "").views) == 6
    (scan_folder / MESH).unlink()
    assert "depth" in refused(scan_folder) and MESH in refused(scan_folder)


def test_a_scan_or_a_folder_of_scans(scan_folder: Path) -> None:
    root = scan_folder.parent
    write_tree(root / "b.2_x", with_mesh=False)
    (root / "notes").mkdir()
    assert read_split(scan_folder, "all") == [SCENE]
    assert read_split(root, "all") == ["b.2_x", SCENE]
    assert read_scan(root, SCENE, "").scene_id == SCENE
    assert scene_identity(root, SCENE, "") == scene_identity(scan_folder, SCENE, "")
    (root / "mine.txt").write_text(f"{SCENE}\n")
    assert read_split(root, "mine") == [SCENE]
    (root / "mine.txt").write_text(f"{SCENE}\n{SCENE}\n")
    with pytest.raises(DataError, match="once"):
        read_split(root, "mine")
    (root / "mine.txt").unlink()
    with pytest.raises(DataError, match=r"mine\.txt"):
        read_split(root, "mine")


def test_folders_that_are_no_scans(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="color/"):
        read_split(tmp_path, "all")
    with pytest.raises(DataError, match="no such folder"):
        read_split(tmp_path / "nowhere", "all")
    (tmp_path / "my room" / "color").mkdir(parents=True)
    with pytest.raises(DataError, match="my room"):
        read_split(tmp_path, "all")
    for name in ("../x", "nowhere", "-x", ""):
        with pytest.raises(DataError):
            read_scan(tmp_path, name, "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda depth: depth.astype(np.uint8), "16 bits"),
        (lambda depth: depth[:, :80], f"{WIDTH}x{HEIGHT}"),
        (lambda depth: np.stack([depth.astype(np.uint8)] * 3, 2), "16 bits"),
    ],
)
def test_depth_of_another_kind_is_refused(scan_folder: Path, change: object, message: str) -> None:
    (scan_folder / MESH).unlink()
    path = scan_folder / DEPTH
    assert callable(change)
    Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
    assert message in refused(scan_folder) and str(path) in refused(scan_folder)


def test_depth_in_another_unit_is_told(scan_folder: Path) -> None:
    """Tenths of a millimetre put every wall beyond reach."""
    (scan_folder / MESH).unlink()
    for path in (scan_folder / "depth").iterdir():
        depth = np.asarray(Image.open(path)).astype(np.int64) * 10
        Image.fromarray(np.minimum(depth + 5001, 65535).astype(np.uint16)).save(path)
    assert "unit" in refused(scan_folder)


def test_intrinsics_of_three_rows(scan_folder: Path) -> None:
    text = "55 0 63.5\n0 55.5 47.5\n0 0 1\n"
    (scan_folder / INTRINSICS).write_text(text)
    np.testing.assert_array_equal(read_scan(scan_folder, SCENE, "").views[0].camera.K, PINHOLE.K)


def test_lost_frames_need_no_depth(scan_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (scan_folder / MESH).unlink()
    (scan_folder / POSE).write_text("-inf " * 16)
    (scan_folder / DEPTH).unlink()
    assert len(read_scan(scan_folder, SCENE, "").views) == 5
    assert "1 of 6 frames left out" in caplog.text


@pytest.mark.parametrize("name", EVERY_FILE)
def test_identity_changes_with_every_file(scan_folder: Path, name: str) -> None:
    before = scene_identity(scan_folder, SCENE, "undistorted")
    assert scene_identity(scan_folder, SCENE, "fisheye") == before
    path = scan_folder / name
    path.write_bytes(path.read_bytes() + b" ")
    changed = scene_identity(scan_folder, SCENE, "")
    path.unlink()
    missing = scene_identity(scan_folder, SCENE, "")
    assert len({before, changed, missing}) == 3 and len(before) == 64


def test_depth_counts_where_it_is_used(scan_folder: Path) -> None:
    before = scene_identity(scan_folder, SCENE, "")
    (scan_folder / DEPTH).write_bytes(b"other")
    assert scene_identity(scan_folder, SCENE, "") == before
    (scan_folder / MESH).unlink()
    without = scene_identity(scan_folder, SCENE, "")
    (scan_folder / DEPTH).write_bytes(b"another")
    assert scene_identity(scan_folder, SCENE, "") != without


@pytest.mark.parametrize("name", [*EVERY_FILE, DEPTH])
@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "half"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, kind: str) -> None:
    folder = write_tree(tmp_path / SCENE, with_mesh=name != DEPTH)
    path = folder / name
    good = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        text = {"empty": b"", "text": b"404: not found\n", "half": good[: len(good) // 2]}[kind]
        path.write_bytes(text)
    if (name, kind) in ((IMAGE, "missing"), (MESH, "missing")):  # a frame less; fused instead
        assert len(read_scan(folder, SCENE, "").views) == 6 - (name == IMAGE)
        return
    assert str(path) in refused(folder)
