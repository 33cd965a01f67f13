"""The written tree: ScanNet++'s layout, consistent poses, the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from plyfile import PlyData
from scipy.spatial.transform import Rotation

from data.errors import DataError
from data.rooms.catalog import LABELS
from stages.scene.generate_rooms import run_index, run_room, scene_ids
from tests.support.scans.rooms_fixture import SCANNED, TINY, generate, tree_hashes
from tests.support.warm import forkserver


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rooms")
    generate(folder, TINY)
    yield folder


def scene_folder(root: Path) -> Path:
    return root / "data" / scene_ids(TINY, "train")[0]


def test_layout(root: Path) -> None:
    (train,), (val,) = scene_ids(TINY, "train"), scene_ids(TINY, "val")
    assert (root / "splits/nvs_sem_train.txt").read_text() == f"{train}\n"
    assert (root / "splits/nvs_sem_val.txt").read_text() == f"{val}\n"
    for name in ("semantic_classes.txt", "instance_classes.txt"):
        assert set(LABELS) <= set((root / "metadata" / name).read_text().splitlines())
    benchmark = root / "metadata" / "semantic_benchmark"
    assert {p.name for p in benchmark.iterdir()} == {
        "top100.txt",
        "top100_instance.txt",
        "map_benchmark.csv",
    }
    rows = (benchmark / "map_benchmark.csv").read_text().splitlines()
    assert rows[0] == "class,count,semantic_map_to,instance_map_to"
    assert "wall,8,,None" in rows
    dslr = scene_folder(root) / "dslr"
    names = {p.name for p in (dslr / "resized_images").iterdir()}
    assert len(names) == TINY.views and all(name.endswith(".JPG") for name in names)
    assert names == {p.name for p in (dslr / "resized_undistorted_images").iterdir()}
    for masks in ("resized_anon_masks", "resized_undistorted_masks"):
        assert {f"{Path(n).stem}.png" for n in names} == {p.name for p in (dslr / masks).iterdir()}
    image = cv2.imread(str(dslr / "resized_images" / min(names)))
    assert image is not None and image.shape == (TINY.height, TINY.width, 3)
    lists = json.loads((dslr / "train_test_lists.json").read_text())
    assert sorted(lists["train"] + lists["test"]) == sorted(names)


def test_mesh_and_segments_fit(root: Path) -> None:
    scans = scene_folder(root) / "scans"
    plain = PlyData.read(str(scans / "mesh_aligned_0.05.ply"))
    marked = PlyData.read(str(scans / "mesh_aligned_0.05_semantic.ply"))
    vertex = plain["vertex"]
    assert [p.name for p in vertex.properties] == ["x", "y", "z", "red", "green", "blue"]
    faces = np.stack(list(plain["face"]["vertex_indices"]))
    assert faces.shape[1] == 3 and faces.max() == len(vertex.data) - 1
    segments = json.loads((scans / "segments.json").read_text())["segIndices"]
    assert segments == list(range(len(vertex.data)))
    groups = json.loads((scans / "segments_anno.json").read_text())["segGroups"]
    classes = (root / "metadata" / "semantic_classes.txt").read_text().splitlines()
    by_label = {group["label"]: group["segments"] for group in groups}
    rows = by_label["wardrobe"]
    assert set(marked["vertex"]["label"][rows]) == {classes.index("wardrobe")}
    covered = np.unique(np.concatenate([group["segments"] for group in groups]))
    assert len(covered) == len(vertex.data)
    assert vertex["z"].min() > 0


def test_three_id_spaces_differ_and_pillows_overlap_their_bed(root: Path) -> None:
    path = scene_folder(root) / "scans" / "segments_anno.json"
    groups = json.loads(path.read_text())["segGroups"]
    assert all(group["objectId"] > 0 for group in groups)
    for position, group in enumerate(groups):
        assert len({position, group["id"], group["objectId"]}) == 3
    assert {g["id"] for g in groups} == {g["objectId"] for g in groups}
    bed = next(set(g["segments"]) for g in groups if g["label"] == "bed")
    pillows = [set(g["segments"]) for g in groups if g["label"] == "pillow"]
    assert len(pillows) >= 2 and all(pillow < bed for pillow in pillows)


def test_boxes_hold_their_objects(root: Path) -> None:
    scans = scene_folder(root) / "scans"
    vertex = PlyData.read(str(scans / "mesh_aligned_0.05.ply"))["vertex"]
    points = np.stack([vertex["x"], vertex["y"], vertex["z"]], axis=1).astype(float)
    for group in json.loads((scans / "segments_anno.json").read_text())["segGroups"]:
        box = group["obb"]
        axes = np.array(box["normalizedAxes"]).reshape(3, 3).T
        assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
        local = (points[group["segments"]] - box["centroid"]) @ axes
        if group["label"] != "bed":
            assert (np.abs(local) <= np.array(box["axesLengths"]) / 2 + 1e-4).all()


def colmap_poses(folder: Path) -> dict[str, np.ndarray]:
    lines = [line for line in (folder / "images.txt").read_text().split("\n")]
    lines = [line for line in lines if not line.startswith("#")]
    poses = {}
    for row in lines[0 : 2 * (len(lines) // 2) : 2]:
        fields = row.split()
        q, t = [float(v) for v in fields[1:5]], [float(v) for v in fields[5:8]]
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat([*q[1:], q[0]]).as_matrix()
        pose[:3, 3] = t
        poses[fields[9]] = pose
    return poses


def test_colmap_and_nerfstudio_tell_the_same_poses(root: Path) -> None:
    dslr = scene_folder(root) / "dslr"
    poses = colmap_poses(dslr / "colmap")
    camera = (dslr / "colmap" / "cameras.txt").read_text().splitlines()[-1].split()
    assert len(camera) == 12 and camera[1] == "OPENCV_FISHEYE"
    for name in ("transforms", "transforms_undistorted"):
        content = json.loads((dslr / "nerfstudio" / f"{name}.json").read_text())
        frames = content["frames"] + content["test_frames"]
        assert {frame["file_path"] for frame in frames} == set(poses)
        for frame in frames:
            # FORMATS 1.5: undo the world permutation, then negate camera y and z.
            m = np.array(frame["transform_matrix"])
            world = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]) @ m[:3]
            world[:, 1:3] *= -1
            inverse = np.linalg.inv(poses[frame["file_path"]])
            assert np.allclose(world, inverse[:3], atol=1e-9)
    assert content["camera_model"] == "PINHOLE"
    assert (content["k1"], content["k4"]) == (0.0, 0.0)
    assert (content["cx"], content["cy"]) == (TINY.width / 2, TINY.height / 2)


def _write_two(root: str) -> None:
    """A clean room and a scanned one."""
    run_room(Path(root), "train", 0, TINY)
    run_room(Path(root), "val", 0, SCANNED)


def test_same_bytes_in_other_processes_with_other_thread_counts(tmp_path: Path) -> None:
    _write_two(str(tmp_path / "here"))
    wanted = tree_hashes(tmp_path / "here")
    assert any(name.endswith("scan_truth.json") for name in wanted)
    code = (
        "import os, sys; from pathlib import Path; "
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from tests.data.rooms.test_rooms_files import _write_two; "
        "_write_two(sys.argv[1])"
    )
    environment = {"OMP_NUM_THREADS": "1", "PATH": "", "PYTHONHASHSEED": "5"}
    command = [sys.executable, "-c", code, str(tmp_path / "one")]
    repository = Path(__file__).resolve().parents[3]
    subprocess.run(command, check=True, env=environment, cwd=repository)
    process = forkserver().Process(target=_write_two, args=(str(tmp_path / "two"),))
    process.start()
    process.join()
    assert process.exitcode == 0
    for other in ("one", "two"):
        assert tree_hashes(tmp_path / other) == wanted


def test_index_names_a_missing_room(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=scene_ids(TINY, "train")[0]):
        run_index(tmp_path, TINY)


def test_planning_needs_no_heavy_package() -> None:
    code = (
        "import sys; from stages.scene.generate_rooms import scene_ids; "
        "from stages.configs import GenerateConfig; scene_ids(GenerateConfig(), 'train'); "
        "print(sorted({'cv2', 'open3d', 'scipy', 'numba', 'numpy', 'torch'} & set(sys.modules)))"
    )
    repository = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=repository)
    assert done.stdout.strip() == "[]"
