"""Each benchmark's official figures: the golden file, hand-computed cases and plain loops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.artifacts.evaluation import SOURCES, QueryRow, Score, metrics_text
from data.queries.formats import FormatName
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages.evaluation import metrics
from stages.evaluation.benchmarks import CONVENTIONS, METRIC_NAMES, QuerySource, summarise
from stages.evaluation.evaluate import EvaluationScene, run
from stages.evaluation.metrics import BoxScan

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "metric_golden.npz"
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
SCENE = "scene0000_00"


SIZE = 0.0625  # A power of two, so that volumes are exact.


def cube(low: Sequence[float]) -> Array:
    """(125, 3): a grid of 5 x 5 x 5 points; its box has edges of ``SIZE``."""
    axis = np.linspace(0, SIZE, 5)
    grid = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    return np.asarray(grid + np.asarray(low))


# Four cubes of 6 cm, half a metre apart; 11 and 12 are chairs, 13 a table, 14 a Lamp.
OBJECTS = {11: "chair", 12: "Chair", 13: "table", 14: "lamp"}
POINTS = np.concatenate([cube((0.5 * k, 0, 0)) for k in range(4)])
TRUTH = GroundTruth(
    tuple(OBJECTS),
    tuple(OBJECTS.values()),
    np.arange(500, dtype=np.int32),
    np.arange(0, 501, 125),
    500,
)
SCAN = BoxScan(POINTS, np.zeros((0, 3), np.int32))


def cubes(*numbers: int) -> Array:
    """Mask of whole cubes by their place."""
    return np.isin(np.arange(500) // 125, numbers)


def lower(k: int, share: float) -> Array:
    """Mask of the points of a cube in the lower ``share`` of its height."""
    return cubes(k) & (POINTS[:, 2] <= SIZE * share)


def scored(
    query_format: FormatName,
    queries: Sequence[tuple[str, tuple[int, ...], Array]],
    scan: BoxScan | None = SCAN,
) -> dict[str, Any]:
    """``benchmark`` of queries (task, object ids, mask of all sources)."""
    prompts, truths, masks = [], {}, {}
    for k, (task, object_ids, mask) in enumerate(queries):
        prompts.append(Prompt(f"q{k}", SCENE, "words", task))
        truths[f"q{k}"] = PromptTruth(f"q{k}", object_ids, "name")
        masks[f"q{k}"] = mask
    by_source = dict.fromkeys(SOURCES, masks)
    scene = EvaluationScene(SCENE, prompts, truths, TRUTH, by_source, scan=scan)
    summary = run([scene], queries=QuerySource(query_format, "scannet")).summary
    assert json.loads(metrics_text(summary)) == summary
    found: dict[str, Any] = summary["benchmark"]
    return found


def student(found: dict[str, Any]) -> Any:
    return found["figures"]["student"]


def test_every_format_has_a_convention_with_a_rule_and_known_figures() -> None:
    assert set(CONVENTIONS) == set(FORMATS)
    names = {query_format: CONVENTIONS[query_format].name for query_format in FORMATS}
    assert names == {
        "instruct3d": "reason3d",
        "reasonseg3d": "lisa",
        "reason3d": "reason3d",
        "reason3d_search": "reason3d",
        "scanrefer": "scanrefer",
        "multi3drefer": "multi3drefer",
        "intent3d": "intent3d",
        "surprise3d": "surprise3d",
    }
    for convention in CONVENTIONS.values():
        assert len(convention.rule) > 50 and set(convention.metrics) <= set(METRIC_NAMES)


def golden_rows() -> tuple[list[QueryRow], dict[str, Any]]:
    """The golden file's fifty cases as rows of an evaluation, and what is expected of them."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        golden = {name: file[name] for name in file.files}
    points, superpoints = golden["point_offsets"], golden["superpoint_offsets"]
    rows = []
    for i in range(50):
        on_superpoints = slice(superpoints[i], superpoints[i + 1])
        mask = golden["pred_sp_logits"][on_superpoints] >= 0
        of_points = slice(points[i], points[i + 1])
        found = mask[golden["superpoint"][of_points]]
        truth = golden["gt_point"][of_points] > 0
        both, either, _ = metrics.count_points(found, np.flatnonzero(truth), len(truth))
        score = Score(both, either, 0.0, int(found.sum()), False)
        scores = dict.fromkeys(SOURCES, score)
        rows.append(QueryRow(f"q{i}", "s", "", "t", "single", int(truth.sum()), scores))
    return rows, golden


def test_golden_totals_of_reason3d_and_lisa() -> None:
    rows, golden = golden_rows()
    for query_format in ("reason3d", "instruct3d", "surprise3d"):
        found = student(summarise(rows, QuerySource(query_format, "scannet")))["overall"]
        assert list(found) == ["num_queries", "miou", "acc25", "acc50"]
        assert found["num_queries"] == 50
        assert found["miou"] == pytest.approx(golden["expected_miou"], abs=1e-7)
        assert found["acc25"] == golden["expected_acc25_strict"] == 0.72
        assert found["acc50"] == golden["expected_acc50_strict"] == 0.44
    found = student(summarise(rows, QuerySource("reasonseg3d", "scannet")))["overall"]
    assert list(found) == ["num_queries", "giou", "ciou"]
    assert found["giou"] == pytest.approx(golden["lisa_giou"], abs=1e-7)
    assert found["ciou"] == pytest.approx(golden["lisa_ciou"], abs=1e-7)


def test_what_the_section_says_of_itself() -> None:
    queries = [("t", (11,), cubes(0))]
    found = scored("reason3d", queries, scan=None)
    assert (found["query_format"], found["dataset"]) == ("reason3d", "scannet")
    assert found["is_benchmark"] and found["convention"] == "reason3d"
    assert "I / (U + 1e-6)" in found["rule"] and "num_scenes" not in found
    assert list(found["figures"]) == list(SOURCES) and student(found)["rows"] == {}
    rooms = summarise([], QuerySource())
    assert not rooms["is_benchmark"] and rooms["dataset"] == "generated"
    assert student(rooms)["overall"] == {
        "num_queries": 0,
        "miou": None,
        "acc25": None,
        "acc50": None,
    }


def test_surprise3d_has_a_row_for_each_type_of_question() -> None:
    half = lower(0, 0.25)  # two of five layers: 50 of 125 points
    found = student(scored("surprise3d", [("cs", (11,), half), ("hi", (12,), cubes(1))], None))
    assert list(found["rows"]) == ["cs", "hi"]
    assert found["rows"]["cs"]["miou"] == pytest.approx(0.4, abs=1e-6)
    assert found["rows"]["cs"]["acc25"] == 1 and found["rows"]["cs"]["acc50"] == 0
    assert found["overall"]["miou"] == pytest.approx(0.7, abs=1e-6)


def test_scanrefer_by_hand() -> None:
    """Boxes, not points: a half and a quarter are hits exactly at the threshold."""
    assert POINTS[lower(2, 0.5)][:, 2].max() == SIZE / 2
    queries = [
        ("referring", (13,), lower(2, 0.5)),  # the only table: IoU 0.5
        ("referring", (14,), lower(3, 0.25)),  # the only lamp: 0.25
        ("referring", (11,), cubes(1)),  # one of two chairs, and the other was found: 0
        ("referring", (12,), cubes(1)),  # found: 1
        ("referring", (11,), cubes()),  # nothing: 0
    ]
    found = scored("scanrefer", queries)
    assert (found["num_scenes"], found["num_scenes_aligned"]) == (1, 0)
    assert student(found) == {
        "overall": {"num_queries": 5, "acc25": 0.6, "acc50": 0.4},
        "rows": {
            "unique": {"num_queries": 2, "acc25": 1.0, "acc50": 0.5},
            "multiple": {"num_queries": 3, "acc25": 1 / 3, "acc50": 1 / 3},
        },
    }


def test_a_corner_is_as_good_as_the_whole_for_a_box_but_a_stray_point_is_not() -> None:
    ends = np.zeros(500, bool)
    ends[[250, 374]] = True  # opposite corners of the table
    assert (POINTS[250], POINTS[374])[0].tolist() == POINTS[cubes(2)].min(0).tolist()
    found = scored("scanrefer", [("r", (13,), ends), ("r", (13,), cubes(2) | lower(3, 0))])
    assert student(found)["overall"]["acc50"] == 0.5


def test_intent3d_boxes_all_targets_together() -> None:
    # One of two targets half a metre apart: a box of 6 cm in one of 56 cm.
    found = student(scored("intent3d", [("intent", (11, 12), cubes(0))]))
    assert found["overall"] == {"num_queries": 1, "acc25": 0.0, "acc50": 0.0}
    found = student(scored("intent3d", [("intent", (11, 12), cubes(0, 1))]))
    assert found == {"overall": {"num_queries": 1, "acc25": 1.0, "acc50": 1.0}, "rows": {}}
    assert "Average precision is not computed" in CONVENTIONS["intent3d"].rule


def test_multi3drefer_by_hand() -> None:
    queries = [
        ("zt_w_d", (), cubes()),  # rightly nothing: 1
        ("zt_wo_d", (), cubes(3)),  # wrongly something: 0
        ("st_w_d", (13,), lower(2, 0.5)),  # IoU 0.5: 1 and 1
        ("st_wo_d", (14,), lower(3, 0.25)),  # IoU 0.25: 1 and 0
        ("mt", (11, 12), cubes(0, 1, 3)),  # two of three right: 2 * 2 / 5
        ("mt", (11, 12, 13), cubes(0)),  # one of one, two missed: 2 * 1 / 4
    ]
    found = student(scored("multi3drefer", queries))
    assert list(found["rows"]) == ["mt", "st_w_d", "st_wo_d", "zt_w_d", "zt_wo_d"]
    assert found["rows"]["mt"] == {"num_queries": 2, "f1_25": 0.65, "f1_50": 0.65}
    at_25 = {name: row["f1_25"] for name, row in found["rows"].items()}
    assert at_25 == {"mt": 0.65, "st_w_d": 1, "st_wo_d": 1, "zt_w_d": 1, "zt_wo_d": 0}
    assert found["rows"]["st_wo_d"]["f1_50"] == 0
    assert found["overall"]["f1_25"] == pytest.approx((1 + 0 + 1 + 1 + 0.8 + 0.5) / 6)
    assert found["overall"]["f1_50"] == pytest.approx((1 + 0 + 1 + 0 + 0.8 + 0.5) / 6)


def test_small_parts_are_no_boxes_and_need_no_truth_to_be_dropped() -> None:
    stray = cubes(0) | (np.arange(500) == 300)
    found = student(scored("multi3drefer", [("st_w_d", (11,), stray), ("zt_w_d", (), stray)]))
    assert found["rows"]["st_w_d"]["f1_50"] == 1 and found["rows"]["zt_w_d"]["f1_50"] == 0


def test_points_left_out_of_evaluation_count_in_no_box() -> None:
    ignored = np.flatnonzero(cubes(2) & (POINTS[:, 2] > SIZE / 2)).astype(np.int32)
    truth = GroundTruth(
        TRUTH.object_ids, TRUTH.labels, TRUTH.point_ids, TRUTH.offsets, 500, ignored
    )
    prompt = Prompt("q0", SCENE, "words", "referring")
    masks = dict.fromkeys(SOURCES, {"q0": cubes(2)})
    truths = {"q0": PromptTruth("q0", (13,), "table")}
    half = {"q0": lower(2, 0.5)}
    scene = EvaluationScene(SCENE, [prompt], truths, truth, {**masks, "student": half}, scan=SCAN)
    rows = run([scene], queries=QuerySource("scanrefer", "scannet")).rows
    assert {source: rows[0].official[source]["box_iou"] for source in SOURCES} == {
        "student": 1.0,
        "fusion_only": 1.0,
        "together": 1.0,
    }


def test_a_missing_mask_is_an_empty_one_and_a_missing_scan_is_an_error() -> None:
    prompt = Prompt("q0", SCENE, "words", "zt_w_d")
    truths = {"q0": PromptTruth("q0", (), "")}
    scene = EvaluationScene(SCENE, [prompt], truths, TRUTH, {}, scan=SCAN)
    row = run([scene], queries=QuerySource("multi3drefer", "scannet")).rows[0]
    assert row.official["together"] == {"f1_25": 1.0, "f1_50": 1.0}
    with pytest.raises(ValueError, match="multi3drefer need the scan's points"):
        scored("multi3drefer", [("zt_w_d", (), cubes())], scan=None)


def test_the_number_of_scenes_that_are_aligned_is_told() -> None:
    turned = BoxScan.make(POINTS, SCAN.triangles, np.eye(4))
    found = scored("scanrefer", [("referring", (13,), cubes(2))], scan=turned)
    assert (found["num_scenes"], found["num_scenes_aligned"]) == (1, 1)


def slow_scanrefer(queries: Sequence[tuple[str, tuple[int, ...], Array]]) -> dict[str, Any]:
    """Acc@k by plain loops over points."""

    def box(mask: Array) -> list[list[float]]:
        kept = [point for point, chosen in zip(POINTS.tolist(), mask.tolist()) if chosen]
        return [[min(p[a] for p in kept), max(p[a] for p in kept)] for a in range(3)]

    hits: dict[str, list[tuple[bool, bool]]] = {"overall": [], "unique": [], "multiple": []}
    for _, (object_id,), mask in queries:
        iou = 0.0
        if mask.any():
            true = box(cubes(list(OBJECTS).index(object_id)))
            inside = of_found = of_true = 1.0
            for (f0, f1), (t0, t1) in zip(box(mask), true, strict=True):
                inside *= max(0.0, min(f1, t1) - max(f0, t0))
                of_found, of_true = of_found * (f1 - f0), of_true * (t1 - t0)
            iou = inside / (of_found + of_true - inside) if inside else 0.0
        same = [name for name in OBJECTS.values() if name.lower() == OBJECTS[object_id].lower()]
        for row in ("overall", "unique" if len(same) == 1 else "multiple"):
            hits[row].append((iou >= 0.25, iou >= 0.5))
    return {
        row: [sum(hit[k] for hit in of_row) / len(of_row) if of_row else None for k in (0, 1)]
        for row, of_row in hits.items()
    }


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scanrefer_agrees_with_plain_loops(seed: int) -> None:
    random = np.random.default_rng(seed)
    queries = []
    for _ in range(4):
        target = int(random.integers(4))
        mask = cubes(target) & (POINTS <= random.uniform(0, 1.6, 3)).all(1)
        if random.random() < 0.3:
            mask = mask | lower(int(random.integers(4)), 0.25)
        queries.append(("referring", (11 + target,), mask))
    found = student(scored("scanrefer", queries))
    rows = {"overall": found["overall"], **found["rows"]}
    assert {row: [of["acc25"], of["acc50"]] for row, of in rows.items()} == slow_scanrefer(queries)
