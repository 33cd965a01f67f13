"""Writes the tiny room as a region of a Matterport3D house; objects are unions of faces."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from data.types import Array
from tests.support.scans.scannet_tree import camera_to_world
from tests.support.scans.scannetpp_tree import GROUPS, HEIGHT, PINHOLE, WIDTH, room, write_mesh

HOUSE, REGION = "17DRP5sb8fy", 3
SCENE = f"{HOUSE}_region{REGION}"
PANORAMAS = ("0123456789abcdef" * 2, "1123456789abcdef" * 2)
ELSEWHERE = "2123456789abcdef" * 2
MESH = f"region_segmentations/region{REGION}.ply"
SEGMENTS = f"region_segmentations/region{REGION}.fsegs.json"
ANNOTATION = f"region_segmentations/region{REGION}.semseg.json"
HOUSE_FILE = f"house_segmentations/{HOUSE}.house"
CAMERAS = f"undistorted_camera_parameters/{HOUSE}.conf"
IMAGE = f"undistorted_color_images/{PANORAMAS[0]}_i0_1.jpg"
EVERY_FILE = (MESH, SEGMENTS, ANNOTATION, HOUSE_FILE, CAMERAS, IMAGE)
KINDS = tuple(sorted({name.split("/")[0] for name in EVERY_FILE}))


def image_name(index: int) -> str:
    """View i of the room: three of each panorama."""
    return f"{PANORAMAS[index // 3]}_i0_{index % 3}.jpg"


def face_boxes() -> Array:
    """(F,) box of every face, 0 being the room itself."""
    scene = room()[0]
    return np.asarray(scene.superpoint_ids[scene.triangles[:, 0]])


def face_segments() -> Array:
    """(F,) int64: two segments a box, by the parity of the face; not 0 to S - 1."""
    boxes = face_boxes().astype(np.int64)
    return 7 * boxes + 3 + np.arange(len(boxes)) % 2


def write_tree(root: Path) -> Path:
    """One region of one house below ``root/v1/scans`` and the split train; the house's folder."""
    folder = root / "v1" / "scans" / HOUSE
    for kind in KINDS:
        (folder / kind).mkdir(parents=True)
    scene = room()[0]
    write_mesh(folder / MESH, scene.cloud.points, scene.triangles)
    segments = face_segments()
    content = {"params": {}, "sceneId": "x", "segIndices": segments.tolist()}
    (folder / SEGMENTS).write_text(json.dumps(content))
    groups = [
        {
            "id": group_id,
            "objectId": object_id,
            "label": label,
            "segments": np.unique(segments[face_boxes() == box]).tolist(),
        }
        for box, (group_id, object_id, label) in zip((1, 2, 3), GROUPS)
    ]
    (folder / ANNOTATION).write_text(json.dumps({"segGroups": groups}))
    (folder / HOUSE_FILE).write_text(house_text())
    (folder / CAMERAS).write_text(conf_text())
    for index in range(len(scene.views)):
        shade = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
        Image.fromarray(shade).save(folder / "undistorted_color_images" / image_name(index))
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text(f"{SCENE}\n")
    return folder


def house_text() -> str:
    box = "0 0 0  -1 -1 0 5 5 3  0 0 0 0 0"
    lines = ["ASCII 1.1", f"H {HOUSE} x 18 3 0 0 0 0 0 2 1 1  0 0 0 0 0  0 0 0 1 1 1  0 0 0 0 0"]
    lines += [f"R 0 0 0 0 a  {box}", f"R {REGION} 0 0 0 b  {box}"]
    lines += [f"P 0 0 {REGION} door  0 0 0 1 1 1  0 0 0 0"]  # a portal
    for number, (name, region) in enumerate(
        [(PANORAMAS[0], REGION), (ELSEWHERE, 0), (PANORAMAS[1], REGION), ("f" * 32, -1)]
    ):
        lines.append(f"P {name} {number} {region} 0  1 1 1  0 0 0 0 0")
    return "\n".join(lines) + "\n"


def conf_text(cy: float = HEIGHT - PINHOLE.K[1, 2] - 0.5) -> str:
    """The principal point's cy counts from the bottom, to whole numbers at pixel centres."""
    K = PINHOLE.K
    intrinsics = f"intrinsics_matrix {K[0, 0]} 0 {K[0, 2] - 0.5}  0 {K[1, 1]} {cy} 0 0 1"
    lines = ["dataset matterport", "n_images 7"]
    lines += ["depth_directory undistorted_depth_images"]
    lines += ["color_directory undistorted_color_images", ""]
    for index in range(6):
        if index % 3 == 0:
            lines.append(intrinsics)
        pose = camera_to_world(index)
        pose[:, 1:3] *= -1  # OpenGL: y up, looking along -z
        lines.append(scan_line(image_name(index), pose))
    lines += [intrinsics, scan_line(f"{ELSEWHERE}_i0_0.jpg", np.eye(4))]  # not there
    return "\n".join(lines) + "\n"


def scan_line(name: str, pose: Array) -> str:
    numbers = " ".join(repr(float(value)) for value in pose.ravel())
    return f"scan {name.replace('_i', '_d').replace('.jpg', '.png')} {name} {numbers}"
