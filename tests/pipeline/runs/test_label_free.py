"""No label reaches fusion, student or predictions: by type, and by trying."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.artifacts.soft_masks import read_predictions
from tests.support.cli import luigi, tasks_done
from tests.support.finished_run import LABELS_MADE, LINKS_MADE, FinishedRun
from tests.support.sealed import seal
from tests.support.tiny_set import ROOMS, STUDENT, write_set

LABEL_FREE = (
    "data.artifacts.embeddings",
    "data.artifacts.links",
    "data.artifacts.soft_masks",
    "data.artifacts.teacher",
    "data.artifacts.student",
    "data.queries.prompts",
    "stages.student.training_samples",
    "data.geometry.superpoints",
    "data.queries.hierarchical_search",
    "data.queries.hierarchical_search",
    "data.queries.hierarchical_search",
    "stages.student.training_samples",
    "data.geometry.visibility",
    "models.text_adapter",
    "models.student",
    "models.student",
    "models.student",
    "models.teacher",
    "models.text",
    "stages.evaluation.answer_questions",
    "stages.evaluation.answer_questions",
    "stages.student.answering",
    "stages.fusion.fuse_masks",
    "stages.student.distil_text",
    "stages.evaluation.hierarchical_search",
    "stages.fusion.fuse_masks",
    "stages.teacher.lift_features",
    "stages.fusion.sample_masks",
    "stages.scene.link_points",
    "stages.student.objectives",
    "stages.student.predict_masks",
    "stages.teacher.run_teacher",
    "stages.student.sample_loader",
    "stages.student.train_student",
    "stages.student.text_encoding",
    "stages.fusion.thresholds",
    "stages.student.train_student",
    "stages.student.train_student",
    "stages.fusion.fuse_masks",
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


AFTER_TEACHER = {
    "link_points": "LinkPoints",
    "fuse_masks": "FuseMasks",
    "train_student": "TrainStudent",
    "predict_masks": "PredictMasks",
}


@pytest.mark.parametrize(
    ("teacher", "made", "made_again"),
    [
        ("oracle", (*LABELS_MADE, "train_student", "predict_masks"), AFTER_TEACHER),
        ("lisa_nano", LINKS_MADE, {"run_teacher": "RunTeacher", **AFTER_TEACHER}),
    ],
)
def test_garbage_for_ground_truth_changes_no_bit(
    teacher: str,
    made: tuple[str, ...],
    made_again: dict[str, str],
    tiny_run: FinishedRun,
    tmp_path: Path,
) -> None:
    """The oracle itself reads ground truth; of what follows it, and of LISA, nothing does."""
    config = {"generate": ROOMS, "teacher": {"name": teacher}, "student": STUDENT}
    scene_set = write_set(tmp_path / "tiny.yaml", config=config)
    tiny_run.copy_stages(tmp_path, made)
    first = luigi(tmp_path, "PredictMasks", "--scene-set", scene_set)
    assert first.returncode == 0, first.stdout
    results = tmp_path / "output/tiny"
    before = predicted(results)
    rng = np.random.default_rng(0)
    for path in results.glob("prepare_scene/*/*/scene.h5"):
        with h5py.File(path, "r+") as file:
            ids = file["ground_truth/point_ids"]
            ids[...] = rng.integers(0, len(file["points"]), ids.shape)
        seal(path.parent)
    for path in results.glob("prepare_prompts/*/truths.json"):
        path.write_text(garbled(path.read_text()))
        seal(path.parent)
    for stage in made_again:
        shutil.rmtree(results / stage)
    again = luigi(tmp_path, "PredictMasks", "--scene-set", scene_set)
    assert again.returncode == 0, again.stdout
    assert set(tasks_done(again.stdout)) == set(made_again.values())
    assert predicted(results) == before


def garbled(content: str) -> str:
    """Other queries, objects and names in as many bytes, so that the file looks whole."""
    head, truths = content.split('"truths"')
    truths = re.sub(r"\d", "7", truths)
    return f'{head}"truths"' + re.sub('(?<="object_name": ")[^"]+', _crossed_out, truths)


def _crossed_out(found: re.Match[str]) -> str:
    return "x" * len(found[0])


def predicted(results: Path) -> dict[str, bytes]:
    """Predicted probabilities of every validation scene."""
    folders = [path.parent for path in results.glob("predict_masks/*/*/metadata.json")]
    assert folders
    return {folder.parent.name: read_predictions(folder).probs.tobytes() for folder in folders}
