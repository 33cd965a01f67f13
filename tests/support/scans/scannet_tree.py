"""Writes the tiny room in ScanNet v2's layout; objects are unions of segments of many vertices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.readers.scannet import read_scan
from data.types import Array
from tests.support.scans.scannetpp_tree import (
    GROUPS,
    HEIGHT,
    PINHOLE,
    WIDTH,
    group_points,
    room,
    write_mesh,
)

SCENE = "scene0000_00"
MESH = f"{SCENE}_vh_clean_2.ply"
SEGMENTS = f"{SCENE}_vh_clean_2.0.010000.segs.json"
AGGREGATION = f"{SCENE}.aggregation.json"
INFO = f"{SCENE}.txt"
FULL_MESH = f"scannet.{SCENE}_vh_clean.segs.json"
INTRINSICS = "intrinsic/intrinsic_color.txt"
POSE = "pose/1.txt"
IMAGE = "color/1.jpg"
EVERY_FILE = (MESH, SEGMENTS, AGGREGATION, INTRINSICS, POSE, IMAGE)


def segment_ids() -> Array:
    """(N,) int64: box by box, the pillow's part of the bed apart; not 0 to S - 1."""
    ids = 7 * room()[0].superpoint_ids.astype(np.int64) + 3
    ids[group_points()[3]] = 1000
    return ids


def scannet_K() -> Array:
    """The room's intrinsics with the principal point as ScanNet measures it."""
    K = PINHOLE.K.copy()
    K[:2, 2] -= 0.5
    return K


def matrix_text(matrix: Array) -> str:
    return "\n".join(" ".join(repr(float(value)) for value in row) for row in matrix) + "\n"


def camera_to_world(index: int) -> Array:
    return np.linalg.inv(room()[0].views[index].world_to_camera)


def write_tree(root: Path, scene_id: str = SCENE) -> Path:
    """One scene below ``root/scans`` and the split train; returns the scene's folder."""
    folder = root / "scans" / scene_id
    folder.mkdir(parents=True)
    write_scan(folder, scene_id)
    write_frames(folder)
    (root / "scannetv2_train.txt").write_text(f"{scene_id}\n")
    return folder


def write_scan(folder: Path, scene_id: str) -> None:
    scene, ids = room()[0], segment_ids()
    write_mesh(folder / f"{scene_id}_vh_clean_2.ply", scene.cloud.points, scene.triangles)
    segments = {"params": {}, "sceneId": scene_id, "segIndices": ids.tolist()}
    name = f"{scene_id}_vh_clean_2.0.010000.segs.json"
    (folder / name).write_text(json.dumps(segments))
    content = {
        "sceneId": f"scannet.{scene_id}",
        "appId": "Aggregator.v2",
        "segGroups": segment_groups(ids),
        "segmentsFile": f"scannet.{name}",
    }
    (folder / f"{scene_id}.aggregation.json").write_text(json.dumps(content))
    K = scannet_K()
    lines = (
        "axisAlignment = 0 -1 0 5 1 0 0 6 0 0 1 7 0 0 0 1",
        f"colorHeight = {HEIGHT}",
        "colorToDepthExtrinsics = 1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        f"colorWidth = {WIDTH}",
        f"fx_color = {K[0, 0]}",
        f"fy_color = {K[1, 1]}",
        "sceneType = Bedroom / Hotel",
    )
    (folder / f"{scene_id}.txt").write_text("\n".join(lines) + "\n")


def segment_groups(ids: Array) -> list[dict[str, object]]:
    """The room's objects by their segments."""
    return [
        {
            "id": group_id,
            "objectId": object_id,
            "label": label,
            "segments": np.unique(ids[points]).tolist(),
        }
        for (group_id, object_id, label), points in zip(GROUPS, group_points())
    ]


def write_frames(folder: Path, digits: int = 1, flat: bool = False) -> None:
    """Frames as the exporter writes them, or (``flat``, 6 digits) as in scannet_frames_25k."""
    for name in ("color", "pose"):
        (folder / name).mkdir(parents=True)
    for index in range(len(room()[0].views)):
        stem = f"{index:0{digits}d}"
        shade = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
        Image.fromarray(shade).save(folder / "color" / f"{stem}.jpg")
        (folder / "pose" / f"{stem}.txt").write_text(matrix_text(camera_to_world(index)))
    K = np.eye(4)
    K[:3, :3] = scannet_K()
    path = folder / ("intrinsics_color.txt" if flat else INTRINSICS)
    path.parent.mkdir(exist_ok=True)
    path.write_text(matrix_text(K))


def root_of(scene: Path) -> Path:
    return scene.parent.parent


def refused(scene: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_scan(root_of(scene), SCENE, "undistorted")
    return str(caught.value)
