"""Whole runs without and with a bank: all are asked for it, nothing measured or shown knows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from data.artifacts.evaluation import read_evaluation
from data.artifacts.prompts import read_truths
from data.artifacts.scene import read_ground_truth
from data.artifacts.soft_masks import read_predictions
from data.artifacts.teacher import MASK, NO_SEG, read_teacher
from data.artifacts.teacher_2d import read_teacher_2d
from pipeline.plan import Plan, load_plan
from pipeline.steps.questions import questions_of
from tests.support.finished_run import LINKS_MADE, FinishedRun
from tests.support.tiny_set import ROOMS, STUDENT, run_whole, write_set

BANK = ("chair", "zeppelin", "wall")
OVERRIDE = f"prompts.bank=[{', '.join(BANK)}]"


@dataclass(frozen=True)
class Runs:
    """The same rooms asked without and with a bank, whole runs both."""

    plain: Plan
    banked: Plan


@pytest.fixture(scope="module")
def runs(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("bank")
    tiny_run.copy_stages(folder, LINKS_MADE, "")
    teacher = {"name": "oracle", "oracle": {"miss": 0.0, "confuse": 0.0, "hallucinate": 0.0}}
    config = {"generate": ROOMS, "teacher": teacher, "student": STUDENT}
    path = write_set(folder / "tiny.yaml", config=config)
    plans = []
    for overrides in ("", OVERRIDE):
        plan = replace(load_plan(path, "", overrides), output=folder / "output")
        run_whole(plan)
        plans.append(plan)
    yield Runs(*plans)


def test_every_scene_is_asked_for_the_bank_behind_its_queries(runs: Runs) -> None:
    for scene in runs.banked.scenes():
        queries = [prompt.prompt_id for prompt in questions_of(runs.banked).of(scene)]
        asked = questions_of(runs.banked).asked(scene)
        ids = [prompt.prompt_id for prompt in asked]
        assert ids[: len(queries)] == queries and len(set(ids)) == len(ids)
        assert [prompt.text for prompt in asked[len(queries) :]] == [f"the {c}" for c in BANK]
        cache = read_teacher(runs.banked.key("run_teacher", scene).folder)
        assert list(cache.prompt_ids) == ids
        assert questions_of(runs.plain).asked(scene) == questions_of(runs.plain).of(scene)
        assert not set(ids[len(queries) :]) & set(
            read_truths(runs.banked.key("prepare_prompts").folder)
        )


def test_queries_are_answered_as_without_a_bank(runs: Runs) -> None:
    for scene in runs.plain.scenes():
        plain = read_teacher(runs.plain.key("run_teacher", scene).folder)
        banked = read_teacher(runs.banked.key("run_teacher", scene).folder)
        count = len(plain.prompt_ids)
        np.testing.assert_array_equal(banked.status[:, :count], plain.status)
        for view in range(len(plain.view_ids)):
            masks = banked.mask_logits(view)[:count]
            said = plain.status[view] == MASK
            np.testing.assert_array_equal(masks[said], plain.mask_logits(view)[said])


def test_walls_are_found_and_zeppelins_are_not(runs: Runs) -> None:
    for scene in runs.banked.scenes():
        assert "wall" in read_ground_truth(runs.banked.key("prepare_scene", scene).folder).labels
        cache = read_teacher(runs.banked.key("run_teacher", scene).folder)
        assert cache.status[:, -1].tolist() == [MASK] * 4
        assert cache.status[:, -2].tolist() == [NO_SEG] * 4


def test_what_is_measured_and_shown_knows_no_bank(runs: Runs) -> None:
    (scene,) = runs.banked.scenes("val")
    queries = tuple(prompt.prompt_id for prompt in questions_of(runs.banked).of(scene))
    asked = tuple(prompt.prompt_id for prompt in questions_of(runs.banked).asked(scene))
    answered = read_predictions(runs.banked.key("predict_masks", scene).folder).prompt_ids
    assert answered == asked and answered[: len(queries)] == queries
    marked, before = (
        read_teacher_2d(p.key("evaluate_teacher_2d", scene).folder)
        for p in (runs.banked, runs.plain)
    )
    assert marked.prompt_ids == queries
    np.testing.assert_array_equal(marked.intersection, before.intersection)
    evaluation = read_evaluation(runs.banked.key("evaluate").folder)
    assert tuple(row.prompt_id for row in evaluation.rows) == queries
    assert (
        evaluation.summary["teacher_2d"]
        == read_evaluation(runs.plain.key("evaluate").folder).summary["teacher_2d"]
    )
    page = (runs.banked.key("report").folder / "report.html").read_text()
    shown = re.findall(r"the zeppelin|_bank_", page)
    assert not shown


def test_another_bank_asks_the_teacher_again_and_prepares_nothing_anew(runs: Runs) -> None:
    (scene,) = runs.plain.scenes("val")
    other = load_plan(runs.plain.scene_set.source, "", "prompts.bank=[wall, zeppelin, chair]")
    plans = (runs.plain, runs.banked, other)
    for step in ("generate_room", "prepare_scene", "link_points"):
        assert len({plan.key(step, scene).fingerprint for plan in plans}) == 1
    assert len({plan.key("prepare_prompts").fingerprint for plan in plans}) == 1
    for step in ("run_teacher", "fuse_masks", "predict_masks", "evaluate_teacher_2d"):
        assert len({plan.key(step, scene).fingerprint for plan in plans}) == 3
    for step in ("train_student", "evaluate", "report"):
        assert len({plan.key(step).fingerprint for plan in plans}) == 3
