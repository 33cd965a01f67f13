"""The metrics against stored runs of the published code, hand-computed cases and sets."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data.types import GroundTruth
from stages.evaluation import metrics
from stages.evaluation.metrics import Counts

GOLDEN = Path(__file__).parents[2] / "golden" / "metrics" / "metric_golden.npz"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _cases(golden: dict[str, Any]) -> list[tuple[slice, slice]]:
    points, superpoints = golden["point_offsets"], golden["superpoint_offsets"]
    return [
        (slice(points[i], points[i + 1]), slice(superpoints[i], superpoints[i + 1]))
        for i in range(len(points) - 1)
    ]


def _golden_counts(golden: dict[str, Any]) -> Counts:
    pairs = []
    for on_points, on_superpoints in _cases(golden):
        mask = golden["pred_sp_logits"][on_superpoints] >= 0
        prediction = mask[golden["superpoint"][on_points]]
        pairs.append(_count(prediction, golden["gt_point"][on_points] > 0))
    return _counts(*pairs)


def _count(prediction: Any, truth: Any) -> tuple[int, int]:
    """Intersection and union of two masks (N,) bool."""
    return metrics.count_points(prediction, np.flatnonzero(truth), len(truth))[:2]


def _counts(*pairs: tuple[int, int]) -> Counts:
    table = np.array(pairs, np.int64).reshape(-1, 2)
    return Counts(table[:, 0], table[:, 1])


def test_golden_file_holds_the_fifty_published_cases(golden: dict[str, Any]) -> None:
    assert len(golden["case_name"]) == 50
    assert np.isnan(golden["pred_sp_logits"]).any()
    assert np.isinf(golden["pred_sp_logits"]).any()


def test_golden_masks_on_superpoints_and_points(golden: dict[str, Any]) -> None:
    for on_points, on_superpoints in _cases(golden):
        mask = golden["pred_sp_logits"][on_superpoints] >= 0
        superpoint = golden["superpoint"][on_points]
        np.testing.assert_array_equal(mask, golden["expected_pred_sp"][on_superpoints] > 0)
        np.testing.assert_array_equal(mask[superpoint], golden["expected_pred_point"][on_points])


def test_golden_counts_and_ious(golden: dict[str, Any]) -> None:
    counts = _golden_counts(golden)
    np.testing.assert_array_equal(counts.intersection, golden["expected_intersection"])
    np.testing.assert_array_equal(counts.union, golden["expected_union"])
    np.testing.assert_array_equal(metrics.strict_iou(counts), golden["expected_piou"])
    np.testing.assert_allclose(
        metrics.inclusive_iou(counts),
        golden["variant_iou_empty_union_is_one"],
        rtol=0,
        atol=1e-12,
    )
    np.testing.assert_allclose(
        metrics.lisa_iou(counts), golden["lisa_fg_sample_iou"], rtol=0, atol=1e-7
    )


def test_golden_superpoint_iou(golden: dict[str, Any]) -> None:
    pairs = []
    for on_points, on_superpoints in _cases(golden):
        superpoint, truth = golden["superpoint"][on_points], golden["gt_point"][on_points]
        size = on_superpoints.stop - on_superpoints.start
        total = np.bincount(superpoint, minlength=size)
        share = np.bincount(superpoint, weights=truth, minlength=size) / np.maximum(total, 1)
        np.testing.assert_array_equal(share > 0.5, golden["expected_gt_sp"][on_superpoints])
        prediction = golden["expected_pred_sp"][on_superpoints] > 0
        pairs.append(_count(prediction, share > 0.5))
    iou = metrics.strict_iou(_counts(*pairs))
    np.testing.assert_allclose(iou, golden["expected_spiou"], rtol=0, atol=1e-6)
    assert iou.mean(dtype=np.float64) == pytest.approx(golden["expected_sp_miou"], abs=1e-6)


def test_golden_totals(golden: dict[str, Any]) -> None:
    counts = _golden_counts(golden)
    figures, both = metrics.headline(counts), metrics.conventions(counts)
    assert figures["num_queries"] == 50
    assert figures["miou"] == pytest.approx(golden["expected_miou"], abs=1e-7)
    assert figures["acc50"] == golden["expected_acc50_strict"] == 0.44
    assert figures["acc25"] == golden["expected_acc25_strict"] == 0.72
    assert figures["giou"] == pytest.approx(golden["lisa_giou"], abs=1e-7)
    assert figures["ciou"] == pytest.approx(golden["lisa_ciou"], abs=1e-7)
    assert both["strict"]["miou"] == figures["miou"]
    inclusive = both["inclusive"]
    expected = golden["variant_miou_empty_union_is_one"]
    assert inclusive["miou"] == pytest.approx(expected, abs=1e-12)
    assert inclusive["acc50"] == golden["variant_acc50_inclusive"] == 0.50
    assert inclusive["acc25"] == golden["variant_acc25_inclusive"] == 0.78
    assert inclusive["boundary"] == {"both_empty": 1, "at_acc25": 2, "at_acc50": 2}


def test_hand_computed_figures_of_four_queries() -> None:
    # One perfect, one exactly at a half, one exactly at a quarter, one empty against empty.
    counts = _counts((8, 8), (3, 6), (1, 4), (0, 0))
    figures, both = metrics.headline(counts), metrics.conventions(counts)
    assert figures["miou"] == pytest.approx((1 + 0.5 + 0.25 + 0) / 4, abs=1e-6)
    assert figures["giou"] == pytest.approx((1 + 0.5 + 0.25 + 1) / 4, abs=1e-5)
    assert figures["ciou"] == pytest.approx(12 / 18)
    assert (figures["acc25"], figures["acc50"]) == (0.5, 0.25)
    assert (both["inclusive"]["acc25"], both["inclusive"]["acc50"]) == (1.0, 0.75)
    assert both["inclusive"]["miou"] == (1 + 0.5 + 0.25 + 1) / 4
    assert both["strict"]["boundary"] == {"both_empty": 1, "at_acc25": 1, "at_acc50": 1}


def test_no_query_gives_none_not_nan() -> None:
    figures = metrics.headline(_counts())
    assert figures.pop("num_queries") == 0
    assert set(figures.values()) == {None}
    assert metrics.conventions(_counts())["strict"]["acc25"] is None


def test_only_empty_unions_give_finite_figures() -> None:
    figures = metrics.headline(_counts((0, 0), (0, 0)))
    assert (figures["miou"], figures["giou"], figures["ciou"]) == (0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    "prediction", [np.zeros(4, bool), np.zeros((3, 1), bool), np.zeros(3, np.float32)]
)
def test_masks_that_do_not_fit_are_refused(prediction: Any) -> None:
    with pytest.raises(ValueError, match="expected a"):
        metrics.count_points(prediction, np.arange(2), 3)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_counts_equal_those_of_masks(data: st.DataObject) -> None:
    """Objects that overlap and name points twice, targets named twice, points left out."""
    size = data.draw(st.integers(1, 12))
    points = st.lists(st.integers(0, size - 1), max_size=15)
    lists = [sorted(data.draw(points)) for _ in range(3)]
    ignored = np.array(data.draw(points), np.int32)
    offsets = np.cumsum([0, *map(len, lists)])
    flat = np.array([point for of_object in lists for point in of_object], np.int32)
    scan = GroundTruth((4, 7, 9), ("a", "b", "c"), flat, offsets, size, ignored)
    targets = data.draw(st.lists(st.sampled_from([4, 7, 9]), max_size=4))
    mask = data.draw(hnp.arrays(bool, size))
    kept = set(range(size)) - set(ignored.tolist())
    wanted = {point for k in targets for point in lists[(4, 7, 9).index(k)]} & kept
    drawn = set(np.flatnonzero(mask).tolist()) & kept
    found = scan.counted_points(targets)
    assert sorted(found.tolist()) == sorted(wanted)
    count = metrics.count_points(mask, found, size, scan.left_out)
    assert count == (len(wanted & drawn), len(wanted | drawn), len(drawn))


@pytest.mark.parametrize("pairs", [((2, 1),), ((-1, 1),)])
def test_impossible_counts_are_refused(pairs: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(ValueError, match="intersection"):
        _counts(*pairs)
    with pytest.raises(ValueError, match="one length"):
        Counts(np.zeros(2, np.int64), np.zeros(3, np.int64))


_mask_pairs = st.integers(0, 24).flatmap(
    lambda n: st.tuples(hnp.arrays(bool, n), hnp.arrays(bool, n))
)


def _naive(pairs: list[tuple[Any, Any]]) -> dict[str, Any]:
    """The same figures from Python sets and exact fractions."""
    ious, intersections, unions = [], 0, 0
    for prediction, truth in pairs:
        a, b = set(np.flatnonzero(prediction).tolist()), set(np.flatnonzero(truth).tolist())
        ious.append(Fraction(len(a & b), len(a | b)) if a | b else None)
        intersections, unions = intersections + len(a & b), unions + len(a | b)
    count = len(pairs)
    return {
        "strict_miou": float(sum(iou or 0 for iou in ious) / count),
        "inclusive_miou": float(sum(1 if iou is None else iou for iou in ious) / count),
        "ciou": intersections / unions if unions else 0.0,
        **{
            f"strict_{name}": sum((iou or 0) > k for iou in ious) / count
            for name, k in metrics.THRESHOLDS.items()
        },
        **{
            f"inclusive_{name}": sum(iou is None or iou >= k for iou in ious) / count
            for name, k in metrics.THRESHOLDS.items()
        },
        "at_acc50": sum(iou == Fraction(1, 2) for iou in ious),
        "at_acc25": sum(iou == Fraction(1, 4) for iou in ious),
        "both_empty": sum(iou is None for iou in ious),
    }


@given(st.lists(_mask_pairs, min_size=1, max_size=12))
@settings(max_examples=80, deadline=None)
def test_agrees_with_sets_and_fractions(pairs: list[tuple[Any, Any]]) -> None:
    counts = _counts(*(_count(*pair) for pair in pairs))
    naive, figures, both = _naive(pairs), metrics.headline(counts), metrics.conventions(counts)
    assert figures["ciou"] == pytest.approx(naive["ciou"], abs=1e-9)
    assert figures["giou"] == pytest.approx(naive["inclusive_miou"], abs=2e-5)
    for name, convention in both.items():
        assert convention["miou"] == pytest.approx(naive[f"{name}_miou"], abs=2e-6)
        assert convention["acc25"] == pytest.approx(naive[f"{name}_acc25"])
        assert convention["acc50"] == pytest.approx(naive[f"{name}_acc50"])
        assert convention["boundary"] == {key: naive[key] for key in convention["boundary"]}


@given(st.lists(_mask_pairs, min_size=1, max_size=8), st.randoms())
@settings(max_examples=50, deadline=None)
def test_laws(pairs: list[tuple[Any, Any]], random: Any) -> None:
    counts = _counts(*(_count(*pair) for pair in pairs))
    swapped = _counts(*(_count(b, a) for a, b in pairs))
    assert metrics.headline(counts) == metrics.headline(swapped)
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    again = metrics.headline(_counts(*(_count(*pair) for pair in shuffled)))
    assert again == pytest.approx(metrics.headline(counts))
    assert (metrics.strict_iou(counts) <= metrics.inclusive_iou(counts) + 1e-6).all()
    figures = metrics.headline(counts)
    assert all(0 <= value <= 1 for key, value in figures.items() if key != "num_queries")


_marks = st.lists(st.tuples(st.sampled_from([-0.5, -0.0, 0.0, 0.1, 0.7]), st.booleans()))


@given(_marks)
def test_auc_counts_pairs(marks: list[tuple[float, bool]]) -> None:
    wins = [(a > b) + (a == b) / 2 for a, above in marks for b, below in marks if above > below]
    found = metrics.auc([score for score, _ in marks], [positive for _, positive in marks])
    assert found == (pytest.approx(np.mean(wins)) if wins else pytest.approx(np.nan, nan_ok=True))
    scores, positives = zip(*marks, (np.nan, True), (1.0, False))
    assert np.isnan(metrics.auc(scores, positives))
