"""Calibration of presence and quality, by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from data.artifacts.evaluation import SOURCES, QueryRow, Score, TargetCount
from data.artifacts.soft_masks import StudentTrust
from stages.evaluation.calibration import (
    calibration_error,
    rank_correlation,
    reliability,
    summarise_certainty,
    summarise_trust,
)


def test_bins_and_their_error_by_hand() -> None:
    expected = np.array([0.05, 0.09, 0.55, 0.95, 1.0])
    happened = np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    bins = reliability(expected, happened)
    assert [count for *_, count in bins] == [2, 1, 2]
    np.testing.assert_allclose([b[:2] for b in bins], [(0.07, 0.5), (0.55, 1), (0.975, 1)])
    wanted = (2 * 0.43 + 1 * 0.45 + 2 * 0.025) / 5
    assert calibration_error(expected, happened) == pytest.approx(wanted)
    assert np.isnan(calibration_error(np.zeros(0), np.zeros(0)))


def test_who_is_right_on_average_has_no_error() -> None:
    happened = np.repeat([0.0, 1.0], [30, 70])
    assert calibration_error(np.full(100, 0.7), happened) == pytest.approx(0)
    assert calibration_error(1 - happened, happened) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=40))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    one, other = np.array(pairs, float).T
    found = rank_correlation(one, other)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(one, other).statistic, abs=1e-9)


def test_scans_unlike_those_learnt_from_are_counted() -> None:
    found = summarise_trust({"a": StudentTrust(0.75, 0.25), "b": StudentTrust(0.25, 0.0)})
    assert found is not None
    assert (found["agreement"], found["share"], found["unlike"]) == (0.5, 0.125, 1)
    assert found["by_scene"]["b"] == {"agreement": 0.25, "share": 0.0}
    assert summarise_trust({}) is None


def row(target: TargetCount, iou: float, presence: float | None, quality: float | None) -> QueryRow:
    score = Score(0, 1, iou, 1, False, presence, quality)
    return QueryRow("q", "s", "text", "find", target, 0, dict.fromkeys(SOURCES, score))


def test_figures_of_a_run() -> None:
    rows = [
        row("single", 0.5, 0.9, 0.4),
        row("multiple", 0.8, 0.8, 0.6),
        row("single", 0.1, 0.3, 0.5),
        row("zero", 0.0, 0.4, 0.9),
        row("zero", 0.0, None, None),  # Of several scenes: nobody tells.
    ]
    found = summarise_certainty(rows, "together")
    # Of three present and one absent, two pairs of three are in order.
    assert found["presence"]["auc"] == pytest.approx(2 / 3)
    assert sum(count for *_, count in found["presence"]["bins"]) == 4
    # Quality is of what is there alone: ranks 1, 3, 2 against 2, 3, 1.
    assert found["quality"]["rank_correlation"] == pytest.approx(0.5)
    assert found["quality"]["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.2) / 3)


def test_where_nothing_is_told_there_are_no_figures() -> None:
    found = summarise_certainty([row("single", 0.5, None, None)], "student")
    nothing: dict[str, object] = {"calibration_error": None, "bins": []}
    assert found == {
        "presence": {"auc": None, **nothing},
        "quality": {"rank_correlation": None, **nothing},
    }
