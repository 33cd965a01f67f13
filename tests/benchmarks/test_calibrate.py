"""Fitting how sure answers are: known weights are found again, and rooms left out are judged."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibrate import Described, fit, fit_all, left_out
from benchmarks.nothing_fits import iou
from data.types import Array
from stages.certainty import logistic

NAMES = ("peak", "inside")


def room(name: str, count: int, present: float) -> Described:
    """A room whose sentences have an answer where "peak" is high, and IoU where "inside" is."""
    rng = np.random.default_rng(len(name))
    is_present = rng.random(count) < present
    features: dict[str, Array] = {
        "peak": np.where(is_present, 3.0, -3.0) + rng.normal(size=count),
        "inside": rng.random(count),
    }
    ious = np.where(is_present, features["inside"], 0)
    return Described(name, features, is_present, ious, is_present)


def test_known_weights_are_found_again() -> None:
    rng = np.random.default_rng(0)
    features = {"peak": rng.normal(size=4000), "inside": rng.normal(size=4000)}
    wanted = logistic(features, {"peak": 0.4, "inside": -0.2, "bias": 0.3})
    found = fit(features, NAMES, wanted, np.ones(4000))
    # The penalty of squared weights draws both a little towards 0.
    assert found == pytest.approx({"peak": 0.4, "inside": -0.2, "bias": 0.3}, abs=0.05)
    assert abs(found["peak"]) < 0.4 and abs(found["inside"]) < 0.2


def test_presence_is_that_of_even_odds_whatever_is_asked() -> None:
    no_news = {"peak": np.zeros(1), "inside": np.full(1, 0.5)}
    for share in (0.1, 0.9):
        weights = fit_all([room("a", 3000, share)], NAMES)["presence"]
        assert float(logistic(no_news, weights)[0]) == pytest.approx(0.5, abs=0.05)


def test_rooms_left_out_are_judged() -> None:
    found = left_out([room("a", 300, 0.5), room("bb", 300, 0.3), room("ccc", 300, 0.7)], NAMES)
    assert found["auc"] > 0.99 and found["rank correlation"] > 0.99
    assert (found["present with a mask"], found["nothing with a mask"]) == (1, 0)
    assert found["nothing that has it"] < 0.05


def test_overlap_with_a_target_by_hand() -> None:
    mask = np.array([1, 1, 0, 0], bool)
    assert iou(mask, np.array([0, 1, 1, 0], bool)) == pytest.approx(1 / 3)
    assert iou(mask, None) == 0 and iou(~mask & mask, ~mask & mask) == 0
