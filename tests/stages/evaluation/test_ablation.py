"""Figures of an ablation by hand, their intervals against an independent bootstrap."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from data.artifacts.evaluation import (
    CHART,
    FIGURES,
    ROWS,
    AnswerRow,
    ArmRows,
    TargetCount,
    read_ablation,
    write_ablation,
)
from data.artifacts.store import ArtifactKey, writing
from data.artifacts.teacher import FAILED, MASK, NO_SEG
from data.artifacts.teacher_2d import Teacher2D
from data.errors import ArtifactError, DataError
from data.rooms.catalog import LABELS
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, plural, recognise_wording
from data.types import GroundTruth, Prompt, PromptTruth
from stages.evaluation import ablation
from stages.evaluation.ablation import SceneQueries, bootstrap_interval
from tests.support.sealed import seal


def row(
    name: str,
    shares: tuple[int, int],
    kind: str = "referring",
    score: float | None = 1.0,
    wording: Any = "",
    targets: TargetCount = "single",
) -> AnswerRow:
    """A row of I / U points; a mask of one point where an absent object got one."""
    intersection, union = shares
    iou = float(np.float32(intersection) / (np.float32(union) + np.float32(1e-6)))
    absent: TargetCount = "zero" if kind == "absent" else targets
    return AnswerRow(name, "s", kind, absent, wording, *shares, iou, union, score)


def arm(name: str, *seeds: list[AnswerRow], seconds: tuple[float, ...] = ()) -> ArmRows:
    return ArmRows(name, f"arm {name}", tuple(map(tuple, seeds)), seconds or (1.0,) * len(seeds))


FIRST = [
    row("a", (1, 4), score=0.9, wording="seen"),  # exactly 1/4: not above it
    row("b", (3, 4), "colour", 0.5, "held_out"),
    row("c", (2, 4), "implicit", 0.2, "held_out"),
    row("d", (4, 4), "spatial", 0.9),
    row("e", (0, 3), "absent", 0.4),
    row("f", (0, 0), "absent", 0.1),
]
SECOND = [
    row("a", (2, 4), score=0.9, wording="seen"),
    row("b", (4, 4), "colour", 0.5, "held_out"),
    row("c", (0, 4), "implicit", 0.2, "held_out"),
    row("d", (0, 4), "spatial", 0.9),
    row("e", (0, 3), "absent", 0.4),
    row("f", (0, 1), "absent", 0.1),
]


def test_figures_of_two_seeds_by_hand() -> None:
    result = ablation.run([arm("F", FIRST, SECOND, seconds=(10.0, 30.0))], "F")
    figures = result["arms"]["F"]
    assert figures["title"] == "arm F"
    assert figures["num_queries"] == 3 and figures["seeds"] == 2 and figures["seconds"] == 20
    assert figures["miou"]["mean"] == pytest.approx(0.5, abs=1e-6)
    assert figures["miou"]["std"] == pytest.approx(0, abs=1e-6)  # each seed's mean is 1/2
    assert figures["acc25"]["mean"] == pytest.approx(2 / 3)
    assert figures["acc50"]["mean"] == pytest.approx(1 / 3)
    assert result["seeds"] == [0, 1] and result["convention"] == "strict"
    assert result["queries"].startswith("3 of 6 queries")
    low, high = figures["miou"]["ci95"]
    assert 0.25 - 1e-6 <= low < 0.5 < high <= 0.875 + 1e-6


def test_deviation_is_over_seeds_and_0_for_one() -> None:
    second = [row("a", (4, 4))]
    result = ablation.run([arm("F", [row("a", (0, 4))], second), arm("E", second)], "F")
    assert result["arms"]["F"]["miou"]["std"] == pytest.approx(np.std([0, 1], ddof=1), abs=1e-6)
    assert result["arms"]["E"]["miou"]["std"] == 0
    assert result["arms"]["E"]["miou"]["ci95"] == pytest.approx([1, 1], abs=1e-6)


def test_rows_by_type_and_wording_by_hand() -> None:
    result = ablation.run([arm("E", FIRST), arm("F", FIRST, SECOND)], "F")
    assert sorted(result["by_type"]) == ["absent", "colour", "implicit", "referring", "spatial"]
    colour = result["by_type"]["colour"]
    assert colour["E"]["miou"] == pytest.approx(0.75, abs=1e-6)
    assert colour["F"]["miou"] == pytest.approx(0.875, abs=1e-6)
    assert colour["F"]["num_queries"] == 1 and colour["F"]["false_masks"] is None
    assert result["by_type"]["absent"]["E"]["false_masks"] == 0.5
    assert result["by_type"]["absent"]["F"]["false_masks"] == 0.75
    assert result["by_type"]["absent"]["F"]["miou"] == 0
    assert result["wordings"]["E"]["seen"]["miou"] == pytest.approx(0.25, abs=1e-6)
    assert result["wordings"]["E"]["held_out"]["num_queries"] == 2
    plain = ablation.run([arm("E", [row("a", (1, 4))])], "F")
    assert "wordings" not in plain and plain["ratios"] == {}


def test_absent_curve_by_hand() -> None:
    curve = ablation.run([arm("E", FIRST)], "E")["absent_curve"]
    told = [(p["threshold"], p["false_masks"], p["miou"]) for p in curve]
    expected = [
        (0.1, 0.5, 0.5),
        (0.2, 0.5, 0.5),
        (0.4, 0.5, 1 / 3),
        (0.5, 0.0, 1 / 3),
        (0.9, 0.0, 0.25 / 3),
    ]
    np.testing.assert_allclose(told, expected, atol=1e-6)
    unsure = [row("a", (1, 4), score=None), row("e", (0, 1), "absent", None)]
    assert ablation.run([arm("I", unsure)], "I")["absent_curve"] == []
    assert ablation.run([arm("E", FIRST[:3])], "E")["absent_curve"] == []


def test_a_curve_has_at_most_41_points_whatever_the_number_of_scores() -> None:
    rng = np.random.default_rng(0)
    rows = [
        row(str(k), (1, 2), "absent" if k % 3 == 0 else "referring", float(score))
        for k, score in enumerate(rng.random(500))
    ]
    curve = ablation.absent_curve(arm("E", rows), lambda r: r.target_count != "zero")
    assert len(curve) == 41
    for key in ("miou", "false_masks"):
        values = [point[key] for point in curve]
        assert values == sorted(values, reverse=True)


def test_ratios_by_hand() -> None:
    arms = [
        arm("B", [row("a", (1, 4)), row("e", (0, 1), "absent", 0.3)]),
        arm("FE", [row("a", (2, 4)), row("e", (0, 1), "absent", 0.3)]),
        arm("H", [row("a", (4, 4)), row("e", (0, 1), "absent", 0.3)]),
    ]
    told = ablation.run(arms, "FE")["ratios"]
    assert told["system_over_B_miou"] == pytest.approx(2, abs=1e-5)
    assert "system_over_B_acc25" not in told  # B has none: nothing to divide by
    assert told["closed_gap_miou"] == pytest.approx(1 / 3, abs=1e-5)
    assert told["system_at_25_false_masks_over_B_miou"] == pytest.approx(2, abs=1e-5)
    assert not {"F_over_E_miou", "system_over_B+_miou"} & set(told)


def test_pictures_weigh_alike_whichever_query_they_are_of() -> None:
    rows = [row("a", (1, 1), score=None), row("a", (1, 2), score=None), row("b", (0, 1))]
    teacher = ArmRows("I", "teacher", (tuple(rows),), (1.0,), in_pictures=True)
    figures = ablation.run([teacher], "F")["arms"]["I"]
    assert figures["miou"]["mean"] == pytest.approx(0.5, abs=1e-6)
    assert figures["num_queries"] == 2


def test_tasks_that_nobody_named_all_count() -> None:
    rows = [row("a", (1, 2), "reasoning"), row("b", (1, 1), "absent")]
    assert ablation.run([arm("E", rows)], "F")["arms"]["E"]["num_queries"] == 1


def test_interval_agrees_with_scipy_and_with_a_plain_loop() -> None:
    rng = np.random.default_rng(5)
    values = rng.random(60)
    low, high = bootstrap_interval(values, np.ones(60, np.int64))
    oracle = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=rng
    ).confidence_interval
    assert (low, high) == pytest.approx((oracle.low, oracle.high), abs=0.006)
    draws = np.random.default_rng(0)
    means = [values[draws_of].mean() for draws_of in draws.integers(60, size=(2000, 60))]
    assert (low, high) == pytest.approx(np.percentile(means, (2.5, 97.5)).tolist(), abs=1e-12)
    assert (low, high) == bootstrap_interval(values, np.ones(60, np.int64))


def test_unusable_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        ablation.run([], "F")
    with pytest.raises(ValueError, match="arm F: its seeds answered different queries"):
        ablation.run([arm("F", [row("a", (1, 2))], [row("b", (1, 2))])], "F")


def test_how_every_generated_query_is_put_is_read_from_its_words() -> None:
    tables = {**REFERRING, **SPATIAL, **MULTIPLE}
    for kind, wording in tables.items():
        for held_out, templates in ((False, wording.train), (True, wording.held_out)):
            for template in templates:
                slots = {"name": "trash bin", "names": plural("bookshelf"), "color": "red"}
                text = template.format(
                    **slots, host="table", anchor="bed", other="sofa", count="two"
                )
                assert recognise_wording(text) == (kind, held_out), text
    for need in NEEDS:
        for held_out, texts in ((False, need.wording.train), (True, need.wording.held_out)):
            assert all(recognise_wording(text) == ("need", held_out) for text in texts)
    assert all(recognise_wording(f"the {label}") == ("name", False) for label in LABELS)
    assert recognise_wording("the unicorn") is None and recognise_wording("") is None


PROMPTS = [
    Prompt("p0", "s", "find the red chair", "referring"),
    Prompt("p1", "s", "I am looking for the bed", "referring"),
    Prompt("p2", "s", "the purple sofa", "absent"),
]
TRUTHS = {"p0": (1,), "p1": (2,), "p2": ()}


def queries(generated: bool = True) -> SceneQueries:
    points, offsets = np.array([1, 2, 3], np.int32), np.array([0, 2, 3], np.int32)
    truth = GroundTruth((1, 2), ("chair", "bed"), points, offsets, 4)
    truths = {name: PromptTruth(name, ids, "") for name, ids in TRUTHS.items()}
    return SceneQueries("s", PROMPTS, truths, truth, generated)


def test_rows_of_masks_by_hand() -> None:
    masks = {"p0": np.array([1, 1, 0, 0], bool), "p2": np.array([1, 0, 0, 0], bool)}
    rows = list(queries().rows_of_masks(masks, {"p0": 0.5}))
    told = [(r.kind, r.target_count, r.wording, r.intersection, r.union) for r in rows]
    assert told == [
        ("colour", "single", "seen", 1, 3),
        ("referring", "single", "held_out", 0, 1),
        ("absent", "zero", "seen", 0, 1),
    ]
    assert [row.predicted_points for row in rows] == [2, 0, 1]
    assert [row.score for row in rows] == [0.5, 0.0, 0.0]
    assert rows[0].iou == pytest.approx(1 / 3, abs=1e-6)
    unknown = list(queries(generated=False).rows_of_masks({}, {}))
    assert {(row.kind, row.wording) for row in unknown} == {("referring", ""), ("absent", "")}
    with pytest.raises(DataError, match="mask of query p0"):
        list(queries().rows_of_masks({"p0": np.zeros(3, bool)}, {}))


def test_a_colour_word_is_compared_with_the_kind_alone_where_there_are_several() -> None:
    points, offsets = np.array([1, 2, 3], np.int32), np.array([0, 2, 3], np.int32)
    truths = {"p0": PromptTruth("p0", (1,), ""), "p1": PromptTruth("p1", (2,), "")}
    masks = {
        "p0": np.array([0, 1, 1, 0], bool),
        "p1": np.array([0, 0, 0, 1], bool),
        "s_bank_001": np.array([0, 1, 1, 1], bool),  # of both chairs alike
    }
    for labels, expected in ((("chair", "chair"), 2 / 3), (("chair", "bed"), None)):
        truth = GroundTruth((1, 2), labels, points, offsets, 4)
        asked = SceneQueries("s", PROMPTS[:2], truths, truth, True, ["bed", "chair"])
        rows = list(asked.rows_of_masks(masks, {}))
        assert [row.kind for row in rows] == ["colour", "referring"]
        assert rows[0].iou == pytest.approx(1, abs=1e-6) and rows[1].plain_iou is None
        assert rows[0].plain_iou == (expected and pytest.approx(expected, abs=1e-6))
    unasked = SceneQueries("s", PROMPTS[:2], truths, truth, True, ["bed"])
    assert [row.plain_iou for row in unasked.rows_of_masks(masks, {})] == [None, None]


def test_what_a_colour_word_gains_by_hand() -> None:
    told = replace(row("b", (3, 4), "colour"), plain_iou=0.25)
    result = ablation.run([arm("E", [*FIRST[:1], told]), arm("F", FIRST[:2])], "E")
    assert result["colour_word"] == {
        "E": {"with": pytest.approx(0.75, abs=1e-6), "without": 0.25, "num_queries": 1}
    }


def teacher_2d(prompt_ids: tuple[str, ...] = ("p0", "p1", "p2")) -> Teacher2D:
    covered = np.array([[50, 0, 0], [50, 40, 0]], np.int32)
    status = np.array([[MASK, NO_SEG, MASK], [FAILED, NO_SEG, FAILED]], np.uint8)
    intersection = np.array([[25, 0, 0], [0, 0, 0]], np.int32)
    union = np.array([[60, 0, 7], [50, 40, 0]], np.int32)
    belief = np.zeros((2, 3), np.float32)
    views = ("v0", "v1")
    parts = (status, covered, intersection, union, belief)
    return Teacher2D("s", views, prompt_ids, 1000, *parts)


def test_rows_of_pictures_by_hand() -> None:
    rows = list(queries().rows_of_pictures(teacher_2d()))
    assert [(r.prompt_id, r.intersection, r.union) for r in rows] == [
        ("p0", 25, 60),
        ("p1", 0, 40),
        ("p2", 0, 7),
    ]
    assert [row.predicted_points for row in rows] == [35, 0, 7]
    assert {row.score for row in rows} == {None}
    with pytest.raises(DataError, match="answers to other queries"):
        list(queries().rows_of_pictures(teacher_2d(("p1", "p0", "p2"))))


def test_the_artifact_is_read_as_written(tmp_path: Path) -> None:
    figures = ablation.run([arm("E", FIRST)], "E")
    key = ArtifactKey.make(tmp_path, "ablation", 1, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_ablation(folder, figures, [arm("E", FIRST)], "<svg/>")
    assert read_ablation(key.folder) == json.loads(json.dumps(figures))
    rows = json.loads((key.folder / ROWS).read_text())
    assert rows["E"][0][1]["iou"] == pytest.approx(0.75, abs=1e-6)
    assert rows["E"][0][1]["score"] == 0.5
    assert (key.folder / CHART).read_text() == "<svg/>"
    (key.folder / FIGURES).write_text("[]")
    seal(key.folder)
    with pytest.raises(ArtifactError, match="metrics of an ablation"):
        read_ablation(key.folder)
