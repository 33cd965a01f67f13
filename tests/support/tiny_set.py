"""Scene sets of very small rooms, on which the whole pipeline takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

ROOMS = {
    "train_rooms": 2,
    "val_rooms": 1,
    "views": 4,
    "height": 64,
    "width": 96,
    "vertex_spacing": 0.2,
}
TEACHER = {"name": "oracle"}
STUDENT = {"preset": "tiny", "voxel_size": 0.2, "epochs": 2, "feature_dim": 16}


def write_set(path: Path, **content: Any) -> str:
    """Write a scene set; generated unless ``data_root`` is given. Returns its path as text."""
    whole = {
        "generated": "data_root" not in content,
        "splits": {"train": "nvs_sem_train", "val": "nvs_sem_val"},
        "queries": {"train": "queries/train.json", "val": "queries/val.json"},
        "config": {"generate": ROOMS, "teacher": TEACHER, "student": STUDENT},
        **content,
    }
    path.write_text(yaml.safe_dump(whole))
    return str(path)
