"""No label reaches fusion, student or predictions: by type, and by trying."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shutil
from collections.abc import Mapping
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
    "data.artifacts.student",
    "data.artifacts.teacher",
    "data.geometry.superpoints",
    "data.geometry.visibility",
    "data.queries.hierarchical_search",
    "data.queries.prompts",
    "models.student",
    "models.teacher",
    "models.text",
    "models.text_adapter",
    "stages.evaluation.answer_questions",
    "stages.evaluation.hierarchical_search",
    "stages.fusion.fuse_masks",
    "stages.fusion.sample_masks",
    "stages.fusion.thresholds",
    "stages.scene.link_points",
    "stages.student.answering",
    "stages.student.distil_text",
    "stages.student.objectives",
    "stages.student.predict_masks",
    "stages.student.sample_loader",
    "stages.student.text_encoding",
    "stages.student.train_student",
    "stages.student.training_samples",
    "stages.teacher.lift_features",
    "stages.teacher.run_teacher",
)
# The definitions that work with ground truth, of modules that also hold label-free ones.
WITH_LABELS: Mapping[str, set[str]] = {
    "data.queries.prompts": {"decide_id_space", "check_id_space", "object_ids_of", "target_ids"},
    "data.queries.hierarchical_search": {"truths_in_room"},
    "stages.evaluation.answer_questions": {"run_scores"},
    "stages.evaluation.hierarchical_search": {
        *("SearchedRoom", "run_search_rows", "_Tally", "_check", "_target", "_add", "_rows"),
        "_metrics",
    },
}
LABELS = (
    "GroundTruth",
    "PromptTruth",
    "read_ground_truth",
    "read_truths",
    "object_ids",
    "teacher_2d",  # made of labels
    "Teacher2D",
    "InstanceRenderer",
)


@pytest.mark.parametrize("name", LABEL_FREE)
def test_stages_that_promise_it_never_name_a_label(name: str) -> None:
    source = inspect.getsource(importlib.import_module(name))
    if name not in WITH_LABELS:
        assert not [label for label in LABELS if label in source]
        return
    parts = {
        getattr(node, "name", f"line {node.lineno}"): ast.get_source_segment(source, node) or ""
        for node in ast.parse(source).body
        if not isinstance(node, ast.Import | ast.ImportFrom)
    }
    naming = {part for part, text in parts.items() if any(label in text for label in LABELS)}
    assert naming == WITH_LABELS[name]
    # Nor does what is label-free use what is not, but for the evaluation of searches itself.
    users = {
        part
        for part, text in parts.items()
        if part not in naming and any(re.search(rf"\b{name}\(", text) for name in naming)
    }
    assert not users


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
