"""The evaluation stage and its artifact, on masks whose figures are computed by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.artifacts import evaluation
from data.artifacts.evaluation import Evaluation, read_evaluation, write_evaluation
from data.artifacts.store import ArtifactKey, writing
from data.errors import ArtifactError, DataError
from data.types import Array, GroundTruth, Prompt, PromptTruth
from pipeline.steps import STEPS
from stages.evaluation.evaluate import EvaluationScene, run
from tests.support.sealed import seal

NUM_POINTS = 20
HEADLINE = ["num_queries", "miou", "giou", "ciou", "acc25", "acc50"]


def mask(*ids: int) -> Array:
    result = np.zeros(NUM_POINTS, bool)
    result[list(ids)] = True
    return result


def make_scene(scene_id: str = "00000000aa") -> EvaluationScene:
    """Objects 5 (points 0-3) and 9 (points 3-7, overlapping); four queries."""
    ground_truth = GroundTruth(
        (5, 9),
        ("bed", "pillow"),
        np.array([0, 1, 2, 3, 3, 4, 5, 6, 7], np.int32),
        np.array([0, 4, 9]),
        NUM_POINTS,
    )
    rows = [("bed", "referring", (5,)), ("both", "several", (5, 9)), ("toilet", "none", ())]
    rows.append(("pillow", "referring", (9,)))
    prompts, truths = [], {}
    for k, (text, task, object_ids) in enumerate(rows):
        prompt_id = f"{scene_id}_{k:04d}"
        prompts.append(Prompt(prompt_id, scene_id, text, task))
        truths[prompt_id] = PromptTruth(prompt_id, object_ids, text)
    ids = [prompt.prompt_id for prompt in prompts]
    student = {
        ids[0]: mask(0, 1),  # half of the bed: exactly 0.5
        ids[1]: mask(0, 1, 2, 3, 4, 5, 6, 7),  # perfect
        ids[2]: mask(),  # rightly nothing
    }  # the pillow's prediction is missing
    fusion = {ids[0]: mask(0, 1, 2, 3), ids[2]: mask(11)}
    masks = {"student": student, "fusion_only": fusion, "together": student}
    return EvaluationScene(scene_id, prompts, truths, ground_truth, masks)


@pytest.fixture(scope="module")
def result() -> Evaluation:
    return run([make_scene()])


def test_rows_hold_counts_by_hand(result: Evaluation) -> None:
    bed, both, toilet, pillow = result.rows
    assert [row.target_count for row in result.rows] == ["single", "multiple", "zero", "single"]
    assert (bed.scores["student"].intersection, bed.scores["student"].union) == (2, 4)
    assert bed.scores["student"].iou == pytest.approx(0.5, abs=1e-6)
    assert bed.scores["student"].predicted_points == 2
    assert both.truth_points == 8  # the shared point counts once
    assert both.scores["student"].iou == pytest.approx(1, abs=1e-6)
    assert (toilet.scores["student"].union, toilet.scores["student"].iou) == (0, 0.0)
    assert pillow.scores["student"].missing
    assert (pillow.scores["student"].intersection, pillow.scores["student"].union) == (0, 5)
    assert not toilet.scores["student"].missing


def test_headline_is_the_students_and_keys_are_stable(result: Evaluation) -> None:
    summary = result.summary
    groups = ["conventions", "by_task", "by_target_count"]
    assert list(summary) == [
        *HEADLINE,
        *groups,
        "student",
        "fusion_only",
        "together",
        "teacher_2d",
        "snapped",
        "scan",
        "benchmark",
        "certainty",
        "trust",
    ]
    assert summary["teacher_2d"]["pairs"] == 0  # nobody judged the teacher here
    for key in [*HEADLINE, *groups]:
        assert summary[key] == summary["student"][key]
        assert key in summary["fusion_only"]
    assert summary["num_queries"] == 4
    assert summary["miou"] == pytest.approx((0.5 + 1 + 0 + 0) / 4, abs=1e-6)
    assert summary["giou"] == pytest.approx((0.5 + 1 + 1 + 0) / 4, abs=1e-5)
    assert summary["ciou"] == pytest.approx((2 + 8) / (4 + 8 + 0 + 5))
    assert (summary["acc25"], summary["acc50"]) == (0.5, 0.25)
    assert summary["student"]["num_missing"] == 1
    assert summary["fusion_only"]["num_missing"] == 2


def test_what_the_scan_allows_and_the_snapped_truth_by_hand() -> None:
    """Superpoints 0-2, 3-5, 6-8 and 9-19; the bed is the first, the pillow the others to 8."""
    superpoints = np.repeat(np.arange(4), (3, 3, 3, 11)).astype(np.int32)
    judged = run([replace(make_scene(), superpoints=superpoints)])
    # Ceilings: bed 3 of 4; both 8 of 9; the pillow 5 of 6.
    scan = judged.summary["scan"]
    assert scan["ceiling"]["count"] == 3 and scan["object_ceiling"]["count"] == 2
    expected = (3 / 4 + 8 / 9 + 5 / 6) / 3
    assert scan["ceiling"]["miou"] == pytest.approx(expected, abs=1e-6)
    assert scan["surface"] is None and scan["by_scene"]["00000000aa"]["num_superpoints"] == 4
    bed, both, toilet, pillow = judged.rows
    # Snapped, the bed has 0-2 and the pillow 3-8.
    score = bed.snapped["student"]
    assert (score.intersection, score.union) == (2, 3)
    assert (both.snapped["student"].intersection, both.snapped["student"].union) == (8, 9)
    assert toilet.snapped["student"].union == 0
    assert pillow.snapped["student"].union == 6 and pillow.snapped["student"].missing
    snapped = judged.summary["snapped"]["student"]
    assert snapped["miou"] == pytest.approx((2 / 3 + 8 / 9 + 0 + 0) / 4, abs=1e-6)
    assert judged.summary["miou"] == run([make_scene()]).summary["miou"]


def test_conventions_and_boundary_counts(result: Evaluation) -> None:
    strict, inclusive = (result.summary["conventions"][name] for name in ("strict", "inclusive"))
    assert (strict["acc25"], strict["acc50"]) == (0.5, 0.25)
    assert (inclusive["acc25"], inclusive["acc50"]) == (0.75, 0.75)
    assert inclusive["miou"] == (0.5 + 1 + 1 + 0) / 4
    assert strict["boundary"] == {"both_empty": 1, "at_acc25": 0, "at_acc50": 1}
    assert "float32" in strict["rule"] and ">=" in inclusive["rule"]


def test_groups_by_task_and_target_count(result: Evaluation) -> None:
    by_task, by_target = result.summary["by_task"], result.summary["by_target_count"]
    assert list(by_task) == ["none", "referring", "several"]
    assert by_task["referring"]["num_queries"] == 2
    assert by_task["referring"]["miou"] == pytest.approx(0.25, abs=1e-6)
    assert list(by_target) == ["zero", "single", "multiple"]
    assert sum(group["num_queries"] for group in by_target.values()) == 4
    assert by_target["zero"]["false_mask_rate"] == 0.0
    fusion = result.summary["fusion_only"]["by_target_count"]["zero"]
    assert (fusion["false_mask_rate"], fusion["giou"]) == (1.0, 0.0)


def test_missing_predictions_never_shrink_the_denominator() -> None:
    scene = make_scene()
    nothing = run([replace(scene, masks={})]).summary
    empty = {p.prompt_id: mask() for p in scene.prompts}
    same = {"student": empty, "fusion_only": empty}
    all_empty = run([replace(scene, masks=same)]).summary
    assert nothing["num_queries"] == 4
    assert {key: nothing[key] for key in HEADLINE} == {key: all_empty[key] for key in HEADLINE}
    assert nothing["student"]["num_missing"] == 4


def test_group_without_queries_is_null_and_json_stays_finite(tmp_path: Path) -> None:
    scene = make_scene()
    summary = run([replace(scene, prompts=scene.prompts[:1])]).summary
    assert summary["by_target_count"]["zero"]["miou"] is None
    assert summary["by_target_count"]["zero"]["false_mask_rate"] is None
    text = evaluation.metrics_text(summary)
    assert "NaN" not in text and "Infinity" not in text
    assert _all_finite(json.loads(text))


def _all_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_all_finite(entry) for entry in value.values())
    return not isinstance(value, float) or math.isfinite(value)


def test_scenes_are_taken_one_at_a_time_and_add_up() -> None:
    alive: list[str] = []

    def stream() -> Any:
        for scene_id in ("00000000aa", "00000000bb"):
            alive.append(scene_id)
            yield make_scene(scene_id)

    seen: list[list[str]] = []
    both = run(stream(), progress=lambda done, total: seen.append(alive.copy()))
    assert seen == [["00000000aa"], ["00000000aa", "00000000bb"]]
    one = run([make_scene()])
    assert both.summary["num_queries"] == 8
    assert both.summary["miou"] == pytest.approx(one.summary["miou"])


def test_unknown_object_id_is_one_clear_error() -> None:
    scene = make_scene()
    prompt_id = scene.prompts[0].prompt_id
    truths = {**scene.truths, prompt_id: PromptTruth(prompt_id, (5, 77), "ghost")}
    with pytest.raises(DataError, match=rf"{prompt_id}.*expected object ids.*5, 9.*found 77"):
        run([replace(scene, truths=truths)])


def test_missing_truth_foreign_scene_repeated_query_and_no_query_are_refused() -> None:
    scene = make_scene()
    with pytest.raises(DataError, match="found none"):
        run([replace(scene, truths={})])
    with pytest.raises(DataError, match="a query about scene 00000000aa"):
        run([replace(scene, scene_id="00000000bb")])
    with pytest.raises(DataError, match="the id twice"):
        run([scene, scene])
    with pytest.raises(DataError, match="at least one query"):
        run([])


@pytest.mark.parametrize("wrong", [np.zeros(7, bool), np.zeros(NUM_POINTS, np.float32)])
def test_mask_of_another_scan_or_type_is_refused(wrong: Array) -> None:
    scene = make_scene()
    masks = {"student": {scene.prompts[0].prompt_id: wrong}}
    with pytest.raises(DataError, match="student mask of query 00000000aa_0000"):
        run([replace(scene, masks=masks)])


def test_points_left_out_count_nowhere() -> None:
    scene = make_scene()
    ground_truth = replace(scene.ground_truth, ignored_ids=np.array([0, 3, 3, 19], np.int32))
    rows = run([replace(scene, ground_truth=ground_truth)]).rows
    bed, both, toilet, pillow = rows
    assert [row.truth_points for row in rows] == [2, 6, 0, 4]
    assert bed.scores["student"].predicted_points == 1
    assert (bed.scores["student"].intersection, bed.scores["student"].union) == (1, 2)
    assert (both.scores["student"].intersection, both.scores["student"].union) == (6, 6)
    assert (toilet.scores["fusion_only"].union, pillow.scores["student"].union) == (1, 4)


def test_each_mask_is_asked_for_once() -> None:
    """Masks may be read from files as they are asked for; no more than a query's are held."""
    scene = make_scene()
    asked: list[str] = []

    class Told(dict[str, Array]):
        def get(self, name: str, default: Any = None) -> Any:
            asked.append(name)
            return super().get(name, default)

    masks = {source: Told(of_source) for source, of_source in scene.masks.items()}
    assert run([replace(scene, masks=masks)]).rows == run([scene]).rows
    assert asked == [p.prompt_id for p in scene.prompts for _ in masks]


def test_artifact_round_trip_and_damage(tmp_path: Path, result: Evaluation) -> None:
    key = ArtifactKey.make(tmp_path, "evaluate", STEPS["evaluate"].version, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_evaluation(folder, result)
    read = read_evaluation(key.folder)
    assert read.rows == result.rows
    assert list(read.summary) == list(result.summary)
    assert read.summary == result.summary
    (key.folder / "queries.json").write_text("[{}]")
    seal(key.folder)
    with pytest.raises(ArtifactError, match=r"queries.json.*Run Evaluate again"):
        read_evaluation(key.folder)
    (key.folder / "metadata.json").unlink()
    with pytest.raises(ArtifactError, match="finished artifact"):
        read_evaluation(key.folder)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_evaluation(tmp_path / name, run([make_scene()]))
    for file in ("metrics.json", "queries.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
