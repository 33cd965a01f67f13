"""Writes the tiny room in ScanNet++'s layout, with every id space different from the others."""

from __future__ import annotations

import functools
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from plyfile import PlyData, PlyElement
from scipy.spatial.transform import Rotation

from data.readers.scannetpp_layout import CameraChoice
from data.types import Array, Camera, GroundTruth, Scene
from tests.support.scans.tiny_scene import make_tiny_scene

SCENE = "00000000aa"
HEIGHT, WIDTH = 96, 128
MESH = "scans/mesh_aligned_0.05.ply"
SEGMENTS = "scans/segments.json"
ANNOTATION = "scans/segments_anno.json"
CAMERAS = "dslr/colmap/cameras.txt"
IMAGES = "dslr/colmap/images.txt"
PINHOLES = "dslr/nerfstudio/transforms_undistorted.json"
FISHEYES = "dslr/nerfstudio/transforms.json"
IMAGE = "dslr/resized_undistorted_images/view1.JPG"
FISHEYE_IMAGE = "dslr/resized_images/view1.JPG"
EVERY_FILE: list[tuple[CameraChoice, str]] = [
    ("undistorted", name) for name in (MESH, SEGMENTS, ANNOTATION, CAMERAS, IMAGES, PINHOLES, IMAGE)
] + [("fisheye", name) for name in (FISHEYES, FISHEYE_IMAGE)]
FISHEYE = Camera(
    "OPENCV_FISHEYE",
    np.array([[60.0, 0, 63.0], [0, 60.5, 47.0], [0, 0, 1]]),
    HEIGHT,
    WIDTH,
    (0.03, -0.01, 0.002, -0.0003),
)
PINHOLE = Camera("PINHOLE", np.array([[55.0, 0, 64.0], [0, 55.5, 48.0], [0, 0, 1]]), HEIGHT, WIDTH)
# (id, objectId, label) by position; the pillow's points are also the bed's.
GROUPS = ((10, 31, "bed"), (11, 30, "table"), (12, 5, "office chair"), (13, 2, "pillow"))


@functools.cache
def room() -> tuple[Scene, GroundTruth]:
    return make_tiny_scene(SCENE, 0.25, 24, 32)


def group_points() -> list[Array]:
    truth = room()[1]
    points = [truth.points_of(object_id) for object_id in (11, 12, 13)]
    return [*points, points[0][::3]]


def write_tree(root: Path, scene_id: str = SCENE, vertex_segments: bool = True) -> Path:
    """One scene below ``root/data`` and the splits train and val; returns the scene's folder."""
    folder = root / "data" / scene_id
    _write_scans(folder / "scans", vertex_segments)
    _write_cameras(folder / "dslr")
    for name in ("resized_images", "resized_undistorted_images"):
        (folder / "dslr" / name).mkdir()
        for index, view in enumerate(room()[0].views):
            shade = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
            Image.fromarray(shade).save(folder / "dslr" / name / f"{view.view_id}.JPG")
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "train.txt").write_text(f"{scene_id}\n")
    return folder


def _write_scans(folder: Path, vertex_segments: bool) -> None:
    folder.mkdir(parents=True)
    scene = room()[0]
    write_mesh(folder / "mesh_aligned_0.05.ply", scene.cloud.points, scene.triangles)
    ids = np.arange(len(scene.cloud)) if vertex_segments else 7 * scene.superpoint_ids + 3
    (folder / "segments.json").write_text(json.dumps({"segIndices": ids.tolist()}))
    groups = [
        {
            "id": group_id,
            "objectId": object_id,
            "label": label,
            "segments": np.unique(ids[points]).tolist(),
        }
        for (group_id, object_id, label), points in zip(GROUPS, group_points())
    ]
    (folder / "segments_anno.json").write_text(json.dumps({"segGroups": groups}))


def write_mesh(
    path: Path,
    points: Array,
    triangles: Array,
    text: bool = False,
    colors: Array | tuple[int, int, int] = (10, 20, 30),
) -> None:
    fields = [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1"), ("green", "u1"), ("blue", "u1")]
    vertex = np.zeros(len(points), fields)
    for axis, name in enumerate("xyz"):
        vertex[name] = points[:, axis]
    vertex["red"], vertex["green"], vertex["blue"] = np.asarray(colors).T
    face = np.zeros(len(triangles), [("vertex_indices", "i4", (3,))])
    face["vertex_indices"] = triangles
    path.write_bytes(_ply(vertex.dtype, vertex.tobytes(), len(face), face.tobytes(), text))


@functools.lru_cache(maxsize=8)
def _ply(fields: np.dtype[Any], vertices: bytes, num_faces: int, faces: bytes, text: bool) -> bytes:
    """The file of a mesh: plyfile writes face by face, and most trees have the room's mesh."""
    face = np.frombuffer(faces, [("vertex_indices", "i4", (3,))], num_faces)
    elements = [
        PlyElement.describe(np.frombuffer(vertices, fields), "vertex"),
        PlyElement.describe(face, "face"),
    ]
    stream = io.BytesIO()
    PlyData(elements, text=text).write(stream)
    return stream.getvalue()


def _write_cameras(folder: Path) -> None:
    (folder / "colmap").mkdir(parents=True)
    (folder / "nerfstudio").mkdir()
    K = FISHEYE.K
    numbers = (K[0, 0], K[1, 1], K[0, 2], K[1, 2], *FISHEYE.distortion)
    line = f"1 OPENCV_FISHEYE {WIDTH} {HEIGHT} {' '.join(map(repr, map(float, numbers)))}"
    (folder / "colmap" / "cameras.txt").write_text(f"# Number of cameras: 1\n{line}\n")
    lines, frames = [], []
    for index, view in enumerate(room()[0].views):
        pose = view.world_to_camera
        x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
        values = " ".join(repr(float(v)) for v in (w, x, y, z, *pose[:3, 3]))
        lines += [f"{index + 1} {values} 1 dslr/{view.view_id}.JPG", "1.5 2.5 -1" * (index % 2)]
        frames.append({"file_path": f"{view.view_id}.JPG", "transform_matrix": _gl(pose).tolist()})
    header = f"# Image list with two lines\n# Number of images: {len(frames)}, mean: 1\n"
    (folder / "colmap" / "images.txt").write_text(header + "\n".join(lines) + "\n")
    for name, camera in (("transforms", FISHEYE), ("transforms_undistorted", PINHOLE)):
        lens = dict(zip(("k1", "k2", "k3", "k4"), camera.distortion or (0.0,) * 4))
        content = {
            "fl_x": camera.K[0, 0],
            "fl_y": camera.K[1, 1],
            "cx": camera.K[0, 2],
            "cy": camera.K[1, 2],
            "w": WIDTH,
            "h": HEIGHT,
            "camera_model": camera.model,
            **lens,
            "frames": frames[:-1],
            "test_frames": frames[-1:],
        }
        (folder / "nerfstudio" / f"{name}.json").write_text(json.dumps(content))


def _gl(world_to_camera: Array) -> Array:
    """The axis change as the toolkit performs it: columns negated, then rows exchanged."""
    pose = np.linalg.inv(world_to_camera)
    pose[:3, 1:3] *= -1
    pose = pose[[1, 0, 2, 3]]
    pose[2] *= -1
    return np.asarray(pose)
