"""The 2D teacher's figures: by hand, in ``metrics.json`` and in the report."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import numpy as np
import pytest

from data.artifacts.teacher import FAILED
from data.artifacts.teacher_2d import Teacher2D
from data.errors import DataError
from stages.configs import Experiment, ReportConfig
from stages.evaluation.evaluate import EvaluationScene, Pairs
from stages.evaluation.evaluate import run as evaluate
from stages.evaluation.evaluate import teacher_metrics
from stages.report.inputs import ReportInputs, RunRecord
from stages.report.report import run as report
from tests.support.worlds.judged_world import make_queries, make_teacher_2d, make_wall, summary_of

TASKS = ("referring", "referring", "absent")


@pytest.fixture(scope="module")
def teacher_2d(tmp_path_factory: pytest.TempPathFactory) -> Teacher2D:
    return make_teacher_2d(tmp_path_factory.mktemp("answers"))


def test_figures_by_task_and_over_all(teacher_2d: Teacher2D) -> None:
    summary = summary_of(teacher_2d, *TASKS)
    expected = {
        "pairs": 12,
        "in_view": 3,  # the switch covers 0.39 % of a picture, and is not counted there
        "absent": 4,
        "mask_iou": pytest.approx((1 + 0.6 + 0) / 3),  # no [SEG] though in view counts 0
        "presence": pytest.approx((2 / 3 + 2 / 4) / 2),
        "true_positives": pytest.approx(2 / 3),
        "true_negatives": 0.5,
        "belief_auc": pytest.approx(8 / 12),  # 0.9, 0.5, 0 against 0, 0.7, 0.2, 0
        "failed": 2,
    }
    by_task = summary.pop("by_task")
    assert summary == expected
    assert isinstance(by_task, dict) and list(by_task) == ["absent", "referring"]
    assert all(list(group) == list(expected) for group in by_task.values())
    referring, absent = by_task["referring"], by_task["absent"]
    assert (referring["pairs"], referring["in_view"], referring["absent"]) == (8, 3, 2)
    assert referring["presence"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert referring["belief_auc"] == pytest.approx(3.5 / 6)
    assert (absent["pairs"], absent["failed"], absent["absent"]) == (4, 2, 2)
    assert absent["true_negatives"] == 0.5
    told = [absent[name] for name in ("mask_iou", "presence", "true_positives", "belief_auc")]
    assert told == [None] * 4


def test_a_failed_view_is_neither_a_miss_nor_a_rightful_no(teacher_2d: Teacher2D) -> None:
    status = teacher_2d.status.copy()
    status[2:, 0] = FAILED
    changed = teacher_metrics(Pairs.of_query(replace(teacher_2d, status=status), 0))
    assert (changed["failed"], changed["in_view"], changed["absent"]) == (2, 2, 0)
    assert changed["mask_iou"] == pytest.approx(0.8)
    assert (changed["true_positives"], changed["true_negatives"]) == (1.0, None)


@pytest.mark.parametrize(("cells", "in_view", "absent"), [(0, 0, 1), (1, 0, 0), (4, 0, 0)])
@pytest.mark.parametrize("masked", [True, False])
def test_in_between_is_not_counted(cells: int, in_view: int, absent: int, masked: bool) -> None:
    found = teacher_metrics(one_pair(cells, masked))
    assert (found["pairs"], found["in_view"], found["absent"]) == (1, in_view, absent)
    assert teacher_metrics(one_pair(5, masked))["in_view"] == 1


def one_pair(cells: int, masked: bool) -> Pairs:
    """An answer on a picture of 1024 cells, ``cells`` of which show the target."""
    no, yes = np.zeros(1, bool), np.array([masked])
    return Pairs(no, yes, np.array([cells / 1024]), np.zeros(1), np.zeros(1))


def make_evaluation_scene(teacher_2d: Teacher2D) -> EvaluationScene:
    """The wall with a student that finds the board, and lifted labels that miss everything."""
    _, truth = make_wall()
    masks = {"student": {"q0": truth.mask([5])}, "fusion_only": {}}
    return EvaluationScene("wall", *make_queries(), truth, masks, teacher_2d)


def test_evaluation_holds_the_teachers_figures(teacher_2d: Teacher2D) -> None:
    scene = make_evaluation_scene(teacher_2d)
    summary = evaluate([scene]).summary
    assert summary["teacher_2d"] == summary_of(teacher_2d, *TASKS)
    assert set(summary["teacher_2d"]["by_task"]) == set(summary["by_task"])
    other = replace(teacher_2d, prompt_ids=("q0", "q2", "q1"))
    with pytest.raises(DataError, match="scene wall, evaluation.*Run EvaluateTeacher2D again"):
        evaluate([replace(scene, teacher_2d=other)])


def test_the_report_sets_2d_beside_3d(teacher_2d: Teacher2D) -> None:
    evaluation = evaluate([make_evaluation_scene(teacher_2d)])
    inputs = ReportInputs(evaluation, list, RunRecord("demo", "lisa_nano", Experiment(), ()))
    page = report(inputs, ReportConfig(max_pictures=0)).html
    section = page[page.index('<section id="teacher"') :]
    section = section[: section.index("</section>")]
    for tag in ("p", "div", "table", "thead", "tbody", "tr", "th", "td", "ul", "li"):
        assert len(re.findall(f"<{tag}[ >]", section)) == section.count(f"</{tag}>"), tag
    rows = [
        [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.split("</t[hd]>", row)[:-1]]
        for row in section.split("<tbody>")[1].split("</tr>")[:-1]
    ]
    assert [[cell.strip() for cell in row] for row in rows] == [
        ["absent", "4", "0", "2", "2", "–", "–", "–", "0.0", "0.0"],
        ["referring", "8", "3", "2", "0", "53.3", "58.3", "58.3", "0.0", "50.0"],
        ["all", "12", "3", "4", "2", "53.3", "58.3", "66.7", "0.0", "33.3"],
    ]
    assert "The teacher in 2D, and what 3D makes of it" in section
    assert "a place or a size" in section and "at least 0.4 % of them" in section
    assert '<a href="#teacher">' in page
