"""Figures of paired runs: by hand, against SciPy, and for runs that cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from data.artifacts.evaluation import QueryRow
from data.errors import UserError
from data.types import Array
from stages.evaluation.metrics import RESAMPLES, SEED, Counts, counts_of
from stages.evaluation.paired_comparison import (
    METRIC_NAMES,
    RunAnswers,
    paired_metrics,
    shared_queries,
    sign_test,
)
from tests.support.worlds.compared import row, rows

ONE = [(1, 2), (0, 4), (3, 4), (0, 0)]
TWO = [(2, 2), (1, 4), (3, 4), (0, 5)]


def many(seed: int, count: int = 60) -> Counts:
    rng = np.random.default_rng(seed)
    union = rng.integers(0, 40, count)
    return Counts(rng.integers(0, union + 1), union)


def test_figures_by_hand() -> None:
    found = paired_metrics([Counts.of(ONE), Counts.of(TWO)])
    values = {name: figure.values for name, figure in found.items()}
    assert list(values) == list(METRIC_NAMES)
    assert values["miou"] == pytest.approx((0.3125, 0.5), abs=1e-6)
    # 1/4 and 1/2 are at the thresholds: strict counts neither, inclusive both.
    assert values["acc25"] == (0.5, 0.5) and values["acc50"] == (0.25, 0.5)
    assert values["inclusive_acc25"] == (0.75, 0.75) and values["inclusive_acc50"] == (0.75, 0.5)
    assert values["ciou"] == pytest.approx((0.4, 0.4))
    for name in ("giou", "inclusive_miou"):
        assert values[name] == pytest.approx((0.5625, 0.5), abs=1e-5)


def test_changes_by_hand() -> None:
    found = paired_metrics([Counts.of(ONE), Counts.of(TWO)])
    (change,) = found["miou"].changes
    assert change.difference == pytest.approx(0.1875, abs=1e-6)
    assert (change.better, change.worse, change.same) == (2, 0, 2)
    assert change.sign_p == pytest.approx(0.5)
    (change,) = found["giou"].changes  # The mask for what is absent counts here.
    assert (change.better, change.worse, change.same) == (2, 1, 1)
    assert change.sign_p == pytest.approx(1.0)
    (change,) = found["ciou"].changes
    assert (
        change.difference == pytest.approx(0, abs=1e-9) and change.sign_p is None is change.better
    )


@pytest.mark.parametrize(
    ("better", "worse", "p"),
    [(0, 0, 1), (1, 0, 1), (2, 0, 0.5), (5, 0, 2 / 32), (1, 3, 10 / 16), (0, 10, 2 / 1024)],
)
def test_sign_test_by_hand(better: int, worse: int, p: float) -> None:
    assert sign_test(better, worse) == pytest.approx(p)


def test_intervals_by_hand() -> None:
    def interval(one: list[tuple[int, int]], two: list[tuple[int, int]]) -> tuple[float, float]:
        (change,) = paired_metrics([Counts.of(one), Counts.of(two)])["inclusive_miou"].changes
        return change.low, change.high

    assert interval([(1, 4)], [(3, 4)]) == (0.5, 0.5)  # One query: every draw is that query.
    assert interval([(0, 4), (1, 4)], [(2, 4), (3, 4)]) == (0.5, 0.5)  # All gain the same.
    # Gains of 0 and 1: the mean is 0, 1/2, 1 in a quarter, a half, a quarter of all draws.
    assert interval([(0, 4), (4, 4)], [(4, 4), (4, 4)]) == (0, 1)
    assert interval([(4, 4), (4, 4)], [(0, 4), (4, 4)]) == (-1, 0)
    # One gain of 1 in 20: how often it is drawn is binomial.
    low, high = interval([(0, 4)] * 20, [(4, 4)] + [(0, 4)] * 19)
    drawn = stats.binom(20, 1 / 20).ppf([0.025, 0.975])
    assert (20 * low, 20 * high) == pytest.approx(tuple(drawn))


def test_intervals_against_scipy() -> None:
    one, two = many(1), many(2)
    found = paired_metrics([one, two])
    ious = [np.where(c.union == 0, 1, c.intersection / np.maximum(c.union, 1)) for c in (one, two)]
    told = {"paired": True, "method": "percentile", "n_resamples": RESAMPLES, "vectorized": True}

    def difference(a: Array, b: Array, axis: int) -> Array:
        return np.asarray(b.mean(axis) - a.mean(axis))

    def accuracy(a: Array, b: Array, axis: int) -> Array:
        return np.asarray((b >= 0.5).mean(axis) - (a >= 0.5).mean(axis))

    def ratio(i: Array, u: Array, j: Array, v: Array, axis: int) -> Array:
        return np.asarray(j.sum(axis) / v.sum(axis) - i.sum(axis) / u.sum(axis))

    counts = (one.intersection, one.union, two.intersection, two.union)
    cases = (("inclusive_miou", ious, difference), ("inclusive_acc50", ious, accuracy))
    for name, data, statistic in (*cases, ("ciou", counts, ratio)):
        expected = stats.bootstrap(data, statistic, rng=np.random.default_rng(SEED), **told)
        (change,) = found[name].changes
        interval = expected.confidence_interval
        assert (change.low, change.high) == pytest.approx(tuple(interval), abs=1e-9), name
        assert change.low < change.difference < change.high


def test_pairing_makes_intervals_narrower() -> None:
    one = many(3)
    better = Counts(np.minimum(one.intersection + 1, one.union), one.union)
    paired = paired_metrics([one, better])["inclusive_miou"].changes[0]
    shuffled = np.random.default_rng(0).permutation(len(one))
    other = Counts(better.intersection[shuffled], better.union[shuffled])
    unpaired = paired_metrics([one, other])["inclusive_miou"].changes[0]
    assert unpaired.difference == pytest.approx(paired.difference)
    assert 2 * (paired.high - paired.low) < unpaired.high - unpaired.low


def test_identical_runs_do_not_differ_and_swapped_ones_negate() -> None:
    one, two = many(4), many(5)
    for name, figure in paired_metrics([one, one, two]).items():
        same, other = figure.changes
        assert (same.difference, same.low, same.high) == (0, 0, 0), name
        assert other == paired_metrics([one, two])[name].changes[0]  # More runs change nothing.
        (back,) = paired_metrics([two, one])[name].changes
        assert back.difference == pytest.approx(-other.difference)
        assert (back.low, back.high) == pytest.approx((-other.high, -other.low), abs=1e-12)
        assert (back.better, back.worse, back.sign_p) == (other.worse, other.better, other.sign_p)


def test_no_query_and_other_lengths_are_refused() -> None:
    for runs in ([Counts.of([]), Counts.of([])], [many(1, 3), many(1, 4)]):
        with pytest.raises(ValueError, match="same queries"):
            paired_metrics(runs)


def asked(name: str, of_run: list[QueryRow], **targets: tuple[int, ...]) -> RunAnswers:
    return RunAnswers(name, of_run, targets)


def test_queries_are_paired_by_id_whatever_their_order() -> None:
    one, two = rows(ONE), rows(TWO)
    more = [row("q9", 0, 1), *reversed(two), row("q8", 0, 1)]
    shared = shared_queries([asked("a", one), asked("b", more)])
    assert [r.prompt_id for r in shared.rows[1]] == ["q0", "q1", "q2", "q3"]
    assert shared.left_out == (0, 2) and shared.reworded == 0
    counts = counts_of(shared.rows[1], "student")
    assert list(zip(counts.intersection, counts.union)) == TWO


def test_a_query_in_other_words_or_of_another_scene_is_another() -> None:
    one = [row("a", 1, 2), row("b", 1, 2), row("c", 1, 2)]
    two = [row("a", 1, 2, text="otherwise"), row("b", 1, 2), row("c", 1, 2, scene="hall")]
    shared = shared_queries([asked("a", one), asked("b", two)])
    assert [r.prompt_id for r in shared.rows[0]] == ["b"]
    assert shared.left_out == (2, 2) and shared.reworded == 2


def test_runs_without_a_common_query_are_refused() -> None:
    one, two = [row("a", 1, 2, scene="kitchen")], [row("b", 1, 2, scene="bath")]
    with pytest.raises(UserError, match="no query in common.*kitchen.*bath"):
        shared_queries([asked("a", one), asked("b", two)])
    with pytest.raises(UserError, match="no query in common"):
        shared_queries([asked("a", one), asked("b", one), asked("c", two)])


def test_other_truths_are_refused() -> None:
    one, same = rows(ONE), rows(ONE)
    for changed in (row("q2", 3, 4, truth=6), row("q2", 3, 4, targets="multiple")):
        with pytest.raises(UserError, match="second: 1 of 4 shared queries have a different truth"):
            shared_queries(
                [asked("first", one), asked("second", [*rows(TWO)[:2], changed, one[3]])]
            )
    # As many points, but of another object.
    with pytest.raises(UserError, match=r"q1: expected .*objects 3.*found .*objects 4, 5"):
        shared_queries([asked("first", one, q1=(3,)), asked("second", same, q1=(5, 4))])
    shared = shared_queries([asked("first", one, q1=(4, 5)), asked("second", same, q1=(5, 4))])
    assert len(shared.rows[0]) == 4
    assert len(shared_queries([asked("first", one, q1=(3,)), asked("second", same)]).rows[0]) == 4
