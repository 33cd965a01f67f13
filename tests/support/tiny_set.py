"""Scene sets of very small rooms, and all steps of their plan run in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.plan import Plan
from pipeline.steps import STEPS
from pipeline.tasks.steps import run_step

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
REPORT = {"picture_width": 64, "view_width": 32}
"""The smallest pictures: drawing them in the usual size takes a third of such a run's time."""


def write_set(path: Path, **content: Any) -> str:
    """Write a scene set; generated unless ``data_root`` is given. Returns its path as text.

    Its pictures are small unless ``config`` tells of a report.
    """
    whole = {
        "generated": "data_root" not in content,
        "splits": {"train": "nvs_sem_train", "val": "nvs_sem_val"},
        "queries": {"train": "queries/train.json", "val": "queries/val.json"},
        "config": {"generate": ROOMS, "teacher": TEACHER, "student": STUDENT},
        **content,
    }
    whole["config"] = {"report": REPORT, **whole["config"]}
    path.write_text(yaml.safe_dump(whole))
    return str(path)


def run_whole(plan: Plan) -> None:
    """Make the report and all its inputs, on the CPU."""
    for step, key in plan.upstream(STEPS["report"], None):
        scenes = plan.scenes() if step.is_per_scene else (None,)
        scene = next(name for name in scenes if plan.key(step.name, name) == key)
        run_step(step, plan, scene, "cpu")
    run_step(STEPS["report"], plan, None, "cpu")
