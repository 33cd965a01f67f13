"""Scoring of arms from their artifacts, with artifacts made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.types import Array, GroundTruth, Prompt, PromptTruth
from pipeline.plan import Plan, load_plan
from pipeline.steps.questions import Questions
from pipeline.tasks.arm_rows import arm_rows, own_keys
from pipeline.tasks.arms import chosen, runs
from stages.certainty import answer_certainty, label_features
from stages.configs import CertaintyConfig
from tests.support.tiny_set import write_set

TRUTH = np.array([0, 1, 1, 0], bool)


@dataclass(frozen=True)
class Labels:
    """Lifted labels: the query's, then those of a category of the bank."""

    prompt_ids: tuple[str, ...] = ("q", "bank")
    soft: Array = field(default_factory=lambda: np.full((2, 4), 0.75, np.float32))
    evidence: Array = field(default_factory=lambda: np.ones((2, 3), np.float32))
    view_weights: Array = field(default_factory=lambda: np.ones((2, 1), np.float32))
    view_confidences: Array = field(default_factory=lambda: np.ones((2, 1), np.float32))

    def answers(self) -> Array:
        return np.array([[0, 1, 0, 0], [1, 1, 1, 1]], bool)


@dataclass(frozen=True)
class Masks:
    """A student's masks, and those of student and labels together."""

    together: Array
    prompt_ids: tuple[str, ...] = ("q",)

    @property
    def masks(self) -> Array:
        return np.array([[1, 1, 1, 1]], bool)

    def presence(self, source: str) -> Array:
        return np.array([{"student": 0.5, "together": 0.25}[source]], np.float32)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[Array], None]:
    """Puts such masks in the place of every artifact."""

    def put(together: Array) -> None:
        points, offsets = np.array([1, 2], np.int32), np.array([0, 2], np.int32)
        given: dict[str, Any] = {
            "truths": {"q": PromptTruth("q", (5,), "bed")},
            "truth": GroundTruth((5,), ("bed",), points, offsets, 4),
            "labels": Labels(),
            "masks": Masks(together),
        }
        monkeypatch.setattr(Plan, "read", lambda plan, step, part, scene=None: given[part])
        monkeypatch.setattr(
            Questions, "of", lambda self, scene: [Prompt("q", scene, "find the bed", "referring")]
        )
        monkeypatch.setattr(
            "pipeline.tasks.arm_rows.questions_of",
            lambda plan: Questions(plan.dataset, {}, {}, ()),
        )

    return put


def plans_of(tmp_path: Path, names: str, seeds: int) -> tuple[Plan, list[Any]]:
    scene_set = write_set(tmp_path / "tiny.yaml")
    of_runs = runs(chosen(names), seeds, "")
    return load_plan(scene_set), [(r, load_plan(scene_set, "", r.overrides)) for r in of_runs]


def test_each_arm_is_scored_by_its_own_masks_and_scores(
    tmp_path: Path, stub: Callable[[Array], None]
) -> None:
    stub(TRUTH[None])
    plan, run_plans = plans_of(tmp_path, "E,F,FE", 2)
    found = arm_rows(plan, run_plans, "val", "test")
    assert [(arm.name, len(arm.rows)) for arm in found] == [("E", 1), ("F", 2), ("FE", 2)]
    labels: Any = Labels()
    sure = answer_certainty(label_features(labels), CertaintyConfig(), "labels")[0]
    told = [[(r.prompt_id, r.intersection, r.union, r.score) for r in a.rows[0]] for a in found]
    assert told == [[("q", 1, 2, float(sure[0]))], [("q", 2, 4, 0.5)], [("q", 2, 2, 0.25)]]
    assert found[0].rows[0][0].wording == "seen" and not found[0].in_pictures


def test_seconds_are_summed_over_what_an_arm_needs_of_its_own(
    tmp_path: Path, stub: Callable[[Array], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    stub(TRUTH[None])
    plan, run_plans = plans_of(tmp_path, "E,F", 1)
    for k, key in enumerate(own_keys(run_plans[1][0].arm, run_plans[1][1], "val")):
        key.folder.mkdir(parents=True)
        (key.folder / "metadata.json").write_text(json.dumps({"wall_seconds": 10.0**k}))
    labels, student = arm_rows(plan, run_plans, "val", "test")
    assert labels.seconds == (1.0,) and student.seconds == (11111.0,)
