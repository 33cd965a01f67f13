"""Small generated data sets for the tests of the room generator, and plain readers of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from plyfile import PlyData

from data.types import SPLITS, Array
from stages.configs import GenerateConfig
from stages.scene.generate_rooms import run_index, run_room, scene_ids

SMALL = GenerateConfig(
    train_rooms=4, val_rooms=4, views=6, height=72, width=108, vertex_spacing=0.12, seed=11
)
TINY = GenerateConfig(
    train_rooms=1, val_rooms=1, views=2, height=32, width=48, vertex_spacing=0.25, seed=3
)
SCANNED = GenerateConfig(
    train_rooms=0,
    val_rooms=1,
    views=5,
    height=48,
    width=72,
    vertex_spacing=0.15,
    seed=11,
    scan="scanned",
    scan_views=14,
    clutter=24,
    voxel=0.06,
)


def generate(root: Path, cfg: GenerateConfig) -> None:
    for split in SPLITS:
        for index in range(cfg.rooms(split)):
            run_room(root, split, index, cfg)
    run_index(root, cfg)


def tree_hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True, eq=False)
class WrittenRoom:
    """A room as its files tell it: points and colours of every ``objectId``."""

    scene_id: str
    split: str
    labels: dict[int, str]
    points: dict[int, Array]
    own: dict[int, Array]
    colors: dict[int, Array]
    boxes: dict[int, dict[str, Any]]
    records: list[dict[str, Any]]

    def of(self, label: str) -> list[int]:
        return sorted(key for key, value in self.labels.items() if value == label)


def read_written(root: Path, split: str, scene_id: str) -> WrittenRoom:
    scans = root / "data" / scene_id / "scans"
    vertex = PlyData.read(str(scans / "mesh_aligned_0.05.ply"))["vertex"]
    points = np.stack([vertex["x"], vertex["y"], vertex["z"]], axis=1).astype(np.float64)
    colors = np.stack([vertex["red"], vertex["green"], vertex["blue"]], axis=1)
    segments = np.array(json.loads((scans / "segments.json").read_text())["segIndices"])
    groups = json.loads((scans / "segments_anno.json").read_text())["segGroups"]
    members = {g["objectId"]: np.flatnonzero(np.isin(segments, g["segments"])) for g in groups}
    labels = {g["objectId"]: str(g["label"]) for g in groups}
    pillows = [members[k] for k, label in labels.items() if label == "pillow"]
    soft = np.unique(np.concatenate(pillows)) if pillows else np.zeros(0, int)
    own = {
        key: rows if labels[key] == "pillow" else np.setdiff1d(rows, soft)
        for key, rows in members.items()
    }
    records = json.loads((root / "queries" / f"{split}.json").read_text())
    return WrittenRoom(
        scene_id,
        split,
        labels,
        {key: points[rows] for key, rows in members.items()},
        {key: points[rows] for key, rows in own.items()},
        {key: colors[rows] for key, rows in own.items()},
        {g["objectId"]: g["obb"] for g in groups},
        [record for record in records if record["scene_id"] == scene_id],
    )


def read_all(root: Path, cfg: GenerateConfig) -> list[WrittenRoom]:
    return [read_written(root, split, name) for split in SPLITS for name in scene_ids(cfg, split)]
