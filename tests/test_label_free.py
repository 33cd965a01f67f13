"""No label reaches fusion, student or predictions: by type, and by trying."""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.artifacts.predictions import read_predictions
from tests.cli import luigi, tasks_done
from tests.tiny_set import write_set

LABEL_FREE = (
    "data.artifacts.links",
    "data.artifacts.pseudo",
    "data.artifacts.teacher",
    "data.batches",
    "data.visibility",
    "models.losses",
    "models.student",
    "models.teacher",
    "stages.link_points",
    "stages.run_teacher",
    "stages.fuse_masks",
    "stages.sample_loader",
    "stages.train_student",
    "stages.predict_masks",
)
LABELS = (
    "GroundTruth",
    "PromptTruth",
    "read_ground_truth",
    "read_truths",
    "object_ids",
    "judgement",  # made of labels
    "InstanceRenderer",
)


@pytest.mark.parametrize("name", LABEL_FREE)
def test_stages_that_promise_it_never_name_a_label(name: str) -> None:
    source = inspect.getsource(importlib.import_module(name))
    assert not [label for label in LABELS if label in source]


def test_garbage_for_ground_truth_changes_no_bit_after_the_oracle(tmp_path: Path) -> None:
    scene_set = write_set(tmp_path / "tiny.yaml")
    first = luigi(tmp_path, "PredictMasks", "--scene-set", scene_set)
    assert first.returncode == 0, first.stdout
    results = tmp_path / "output/tiny"
    before = predicted(results)
    rng = np.random.default_rng(0)
    for path in results.glob("prepare_scene/*/*/scene.h5"):
        with h5py.File(path, "r+") as file:
            ids = file["ground_truth/point_ids"]
            ids[...] = rng.integers(0, len(file["points"]), ids.shape)
    for path in results.glob("prepare_prompts/*/truths.json"):
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "truths": {}}))
    for stage in ("link_points", "fuse_masks", "train_student", "predict_masks"):
        shutil.rmtree(results / stage)
    again = luigi(tmp_path, "PredictMasks", "--scene-set", scene_set)
    assert again.returncode == 0, again.stdout
    redone = {"LinkPoints", "FuseMasks", "TrainStudent", "PredictMasks"}
    assert set(tasks_done(again.stdout)) == redone
    assert predicted(results) == before


def predicted(results: Path) -> dict[str, bytes]:
    """Predicted probabilities of every validation scene."""
    folders = [path.parent for path in results.glob("predict_masks/*/*/metadata.json")]
    assert folders
    return {folder.parent.name: read_predictions(folder).probs.tobytes() for folder in folders}
