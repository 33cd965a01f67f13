"""COLMAP, nerfstudio, PLY and images one by one: formats, conversions and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from data.errors import DataError
from data.geometry.meshes import read_mesh, vertex_normals
from data.images import check_image
from data.readers.scannetpp_dslr import (
    nerfstudio_from_world_to_camera,
    read_cameras,
    read_images,
    rotation_from_quaternion,
    world_to_camera_from_nerfstudio,
)
from data.types import Array
from tests.support.scans.scannetpp_tree import write_mesh
from tests.support.scans.tiny_scene import box_mesh

POSE = "0.5 0.5 -0.5 0.5 1 2 3"


def rigid(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    pose[:3, 3] = rng.uniform(-5, 5, 3)
    return pose


@given(st.integers(0, 10_000))
def test_quaternions_equal_scipy(seed: int) -> None:
    x, y, z, w = Rotation.random(random_state=np.random.default_rng(seed)).as_quat()
    expected = Rotation.from_quat([x, y, z, w]).as_matrix()
    np.testing.assert_allclose(rotation_from_quaternion(np.array([w, x, y, z])), expected)


def test_the_axis_change_by_hand() -> None:
    # A camera at (1, 2, 3) with the mesh's axes: its x, y, z look along the world's.
    pose = np.eye(4)
    pose[:3, 3] = (-1, -2, -3)
    # World (x, y, z) becomes (y, x, -z); camera columns y and z are negated.
    expected = [[0, -1, 0, 2], [1, 0, 0, 1], [0, 0, 1, -3], [0, 0, 0, 1]]
    np.testing.assert_allclose(nerfstudio_from_world_to_camera(pose), expected, atol=1e-12)


@given(st.integers(0, 10_000))
def test_the_axis_change_goes_both_ways(seed: int) -> None:
    pose = rigid(seed)
    there = nerfstudio_from_world_to_camera(pose)
    np.testing.assert_allclose(world_to_camera_from_nerfstudio(there), pose, atol=1e-9)
    assert np.isclose(np.linalg.det(there[:3, :3]), 1)


def test_images_are_read_in_pairs_whatever_the_second_line(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text(
        "# comment\n\n"
        f"7 {POSE} 1 video/a.JPG\n\n"
        f"9 {POSE} 2 b c.JPG\n1 2 -1 3.5 4.5 17\n"
        "# another comment\n"
        f"11 {POSE} 1 c.JPG\n"
    )
    images = read_images(path)
    assert [(i.name, i.camera_id) for i in images.values()] == [
        ("a.JPG", 1),
        ("b c.JPG", 2),
        ("c.JPG", 1),
    ]
    np.testing.assert_allclose(images["a.JPG"].world_to_camera[:3, 3], [1, 2, 3])


@pytest.mark.parametrize(
    "content",
    [
        "# only comments\n",
        f"1 {POSE} 1 a.JPG",
        f"1 {POSE} 1 a.JPG\n2 {POSE} 1 b.JPG\n",
        f"1 {POSE} 1\n\n",
        f"x {POSE} 1 a.JPG\n\n",
        f"1 {POSE} 1.5 a.JPG\n\n",
        "1 2 0 0 0 1 2 3 1 a.JPG\n\n",
        "1 1 0 0 0 nan 2 3 1 a.JPG\n\n",
        f"1 {POSE} 1 a.JPG\n\n2 {POSE} 1 dslr/a.JPG\n\n",
        f"# Number of images: 2, mean observations per image: 0\n1 {POSE} 1 a.JPG\n\n",
    ],
)
def test_wrong_images_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "images.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="images.txt"):
        read_images(path)


def test_both_camera_models_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text(
        "# c\n\n3 PINHOLE 640 480 1 2 3 4\n5 OPENCV_FISHEYE 64 48 1 2 3 4 .1 .2 .3 .4\n"
    )
    cameras = read_cameras(path)
    assert (cameras[3].model, cameras[3].width, cameras[3].height) == ("PINHOLE", 640, 480)
    np.testing.assert_array_equal(cameras[5].K, [[1, 0, 3], [0, 2, 4], [0, 0, 1]])
    assert cameras[5].distortion == (0.1, 0.2, 0.3, 0.4)


@pytest.mark.parametrize(
    "content",
    [
        "# none\n",
        "1\n",
        "1 OPENCV 64 48 1 2 3 4 0 0 0 0\n",
        "1 PINHOLE 64 48 1 2 3\n",
        "1 PINHOLE 64 48 1 2 3 4 0 0 0 0\n",
        "1 PINHOLE 64 48 x 2 3 4\n",
        "1 PINHOLE 64 48 nan 2 3 4\n",
        "1 PINHOLE 64 -48 1 2 3 4\n",
        "1 PINHOLE 64 48 0 2 3 4\n",
        "1 OPENCV_FISHEYE 64 48 1 2 3 4 0 inf 0 0\n",
        "1 PINHOLE 64 48 1 2 3 4",
        "1 PINHOLE 64 48 1 2 3 4\n1 PINHOLE 64 48 1 2 3 4\n",
        "# Number of cameras: 2\n1 PINHOLE 64 48 1 2 3 4\n",
    ],
)
def test_wrong_cameras_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "cameras.txt"
    path.write_text(content)
    with pytest.raises(DataError, match="cameras.txt"):
        read_cameras(path)


@pytest.mark.parametrize("text", [False, True], ids=["binary", "ascii"])
def test_meshes_come_back_as_they_were_written(tmp_path: Path, text: bool) -> None:
    points, triangles, normals = box_mesh(np.zeros(3), np.array([1.0, 2, 3]), 0.5, False)
    write_mesh(tmp_path / "mesh.ply", points, triangles, text)
    mesh = read_mesh(tmp_path / "mesh.ply")
    np.testing.assert_array_equal(mesh.points, points.astype(np.float32))
    np.testing.assert_array_equal(mesh.triangles, triangles)
    assert (mesh.colors == [10, 20, 30]).all() and mesh.colors.dtype == np.uint8
    np.testing.assert_allclose(vertex_normals(mesh.points, mesh.triangles), normals, atol=1e-6)


def mesh_file(path: Path, vertex: Array | None, faces: Array | None) -> None:
    elements = []
    if vertex is not None:
        elements.append(PlyElement.describe(vertex, "vertex"))
    if faces is not None:
        elements.append(PlyElement.describe(faces, "face"))
    PlyData(elements).write(str(path))


def some_vertices(color: str = "u1", without: str = "") -> Array:
    fields = [(n, "f8") for n in "xyz"] + [(n, color) for n in ("red", "green", "blue")]
    return np.zeros(4, [field for field in fields if field[0] != without])


def some_faces(corners: int = 3, name: str = "vertex_indices") -> Array:
    faces = np.zeros(2, [(name, "i4", (corners,))])
    faces[name] = np.arange(corners)
    return faces


def test_other_spellings_of_a_mesh_are_read(tmp_path: Path) -> None:
    mesh_file(tmp_path / "mesh.ply", some_vertices(), some_faces(name="vertex_index"))
    assert read_mesh(tmp_path / "mesh.ply").triangles.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("vertex", "faces", "hint"),
    [
        (some_vertices(without="z"), some_faces(), "z"),
        (some_vertices(without="blue"), some_faces(), "blue"),
        (some_vertices("f4"), some_faces(), "uchar"),
        (some_vertices(), None, "face"),
        (None, some_faces(), "vertex"),
        (some_vertices()[:0], some_faces(), "vertex"),
        (some_vertices(), some_faces()[:0], "face"),
        (some_vertices(), some_faces(4), "triangle"),
        (some_vertices(), some_faces(name="corners"), "vertex_indices"),
    ],
)
def test_wrong_meshes_are_refused(
    tmp_path: Path, vertex: Array | None, faces: Array | None, hint: str
) -> None:
    mesh_file(tmp_path / "mesh.ply", vertex, faces)
    with pytest.raises(DataError, match=hint):
        read_mesh(tmp_path / "mesh.ply")


def test_normals_weigh_faces_by_area() -> None:
    # Around vertex 0: a face of area 1/2 towards z and one of area 1 towards x.
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2], [5, 5, 5]], np.float32)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 4, 4]])
    normals = vertex_normals(points, triangles)
    np.testing.assert_allclose(normals[0], np.array([2, 0, 1]) / np.sqrt(5), atol=1e-6)
    np.testing.assert_allclose(normals[4], [0, 0, 1])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_images_cut_short_are_found_without_decoding(
    tmp_path: Path, suffix: str, share: float
) -> None:
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(noise).save(path)
    check_image(path, 60, 80)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError, match="without its end"):
        check_image(path, 60, 80)
