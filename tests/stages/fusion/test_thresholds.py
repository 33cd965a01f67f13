"""Where answers begin: against trying every threshold, and nothing moves on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.artifacts.soft_masks import read_pseudo, write_pseudo
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.thresholds import NONE, choose_thresholds, expected_dice, otsu, sharpen
from tests.support.worlds.teacher_world import finish, random_case


def ratio(probs: np.ndarray, threshold: float) -> float:
    """Twice the expected overlap of the mask over the expected sizes of both."""
    inside = probs >= threshold
    return float(2 * probs[inside].sum() / (inside.sum() + probs.sum()))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=40).filter(any))
def test_no_threshold_has_a_larger_expected_dice(levels: list[int]) -> None:
    probs = np.array(levels) / 255
    best = max(ratio(probs, threshold) for threshold in probs)
    assert ratio(probs, expected_dice(probs.astype(np.float32)) - 1e-6) == pytest.approx(best)


def test_by_hand() -> None:
    """Dice of one, two, three points of 0.8, 0.4, 0.1: 1.6 / 2.3, 2.4 / 3.3, 2.6 / 4.3."""
    assert expected_dice(np.array([0.4, 0.1, 0.8], np.float32)) == np.float32(0.4)
    assert expected_dice(np.array([0.3], np.float32)) == np.float32(0.3)
    assert expected_dice(np.array([1, 1, 0.2], np.float32)) == 1


@given(st.lists(st.tuples(st.integers(0, 255), st.integers(1, 5)), min_size=1, max_size=30))
def test_weights_stand_for_so_many_points(parts: list[tuple[int, int]]) -> None:
    probs, counts = (np.array(column) for column in zip(*parts, strict=True))
    probs = (probs / 255).astype(np.float32)
    if probs.any():
        weighted = expected_dice(probs, counts)
        repeated = np.repeat(probs, counts)
        assert ratio(repeated, weighted) == pytest.approx(ratio(repeated, expected_dice(repeated)))
        assert expected_dice(probs, np.ones(len(probs))) == expected_dice(probs)


def test_sharpen_by_hand() -> None:
    """Of 0.8, 0.4, 0.2: shares 1, 1/2, 1/4 of the largest; odds 1 and 1/3, squared 1 and 1/9."""
    probs = np.array([0.8, 0.4, 0.2, 0], np.float32)
    np.testing.assert_allclose(sharpen(probs, 2), [1, 0.5, 0.1, 0], atol=1e-6)
    np.testing.assert_allclose(sharpen(probs, 1), [1, 0.5, 0.25, 0], atol=1e-6)


def test_sharpness_parts_like_things() -> None:
    """Believed as they are, 0.9 alone gives 1.8 / 2.3 = 0.783, and with 0.4, 2.6 / 3.3 = 0.788.

    Drawn apart they are 1 and 0.36: 2 / 2.36 alone against 2.72 / 3.36 together.
    """
    probs = np.array([[0.9, 0.4]], np.float32)
    assert choose_thresholds(probs, "expected_dice", 0)[0] == np.float32(0.4)
    assert choose_thresholds(probs, "expected_dice", 0, None, 2.5)[0] == np.float32(0.9)
    assert choose_thresholds(probs, "half", 0, None, 2.5)[0] == np.float32(0.5)
    assert choose_thresholds(probs, "expected_dice", 0.95, None, 2.5)[0] == NONE


@given(st.lists(st.integers(0, 255), min_size=1, max_size=20).filter(any), st.floats(0.5, 4))
def test_sharpness_keeps_the_order(levels: list[int], sharpness: float) -> None:
    probs = np.sort(np.array(levels, np.float32) / 255)
    drawn = sharpen(probs, sharpness)
    assert (np.diff(drawn) >= 0).all() and drawn[-1] == 1 and drawn.min() >= 0
    chosen = choose_thresholds(probs[None], "expected_dice", 0, None, sharpness)[0]
    best = expected_dice(drawn)
    np.testing.assert_array_equal(probs >= chosen, drawn >= best)


def test_what_none_reaches() -> None:
    probs = np.array([[0, 0], [0.2, 0.1], [0.3, 0.1], [0.9, 0.6]], np.float32)
    half = choose_thresholds(probs, "half", 0.3)
    np.testing.assert_array_equal(half, np.array([NONE, NONE, 0.5, 0.5], np.float32))
    dice = choose_thresholds(probs, "expected_dice", 0.3)
    np.testing.assert_allclose(dice, [NONE, NONE, 0.3, 0.6])
    assert dice.dtype == np.float32 and NONE > 1
    assert not (probs >= dice[:, None])[:2].any(), "such queries have no object"


@pytest.mark.parametrize("rule", ["half", "expected_dice", "otsu"])
def test_zeros_and_nothing_have_no_object(rule: str) -> None:
    for shape in ((2, 3), (2, 0)):
        chosen = choose_thresholds(np.zeros(shape, np.float32), rule, 0)
        np.testing.assert_array_equal(chosen, [NONE, NONE])
    assert choose_thresholds(np.zeros((0, 5), np.float32), rule, 0.5).shape == (0,)


@pytest.mark.parametrize("seed", range(4))
def test_no_point_crosses_its_threshold_on_the_disk(tmp_path: Path, seed: int) -> None:
    labels = fuse_masks.run(*random_case(tmp_path / "cache", seed), FuseConfig(presence=0))
    (tmp_path / "pseudo").mkdir()
    write_pseudo(tmp_path / "pseudo", labels)
    again = read_pseudo(finish(tmp_path / "pseudo"))
    np.testing.assert_array_equal(again.answers(), labels.answers())
    np.testing.assert_array_equal(again.evidence, labels.evidence)
    assert labels.answers()[:3].any(axis=1).all() and not labels.answers()[3].any()


@given(st.lists(st.integers(0, 255), min_size=2, max_size=40).filter(lambda v: len(set(v)) > 1))
def test_otsu_parts_with_the_largest_variance_between_groups(levels: list[int]) -> None:
    probs = np.array(levels, np.float32) / np.float32(255)

    def between(threshold: float) -> float:
        upper = probs.astype(np.float64) >= threshold
        means = probs[upper].mean(dtype=np.float64), probs[~upper].mean(dtype=np.float64)
        return float(upper.sum() * (~upper).sum() * (means[0] - means[1]) ** 2)

    best = max(between(float(value)) for value in np.unique(probs)[1:])
    assert between(otsu(probs)) == pytest.approx(best, rel=1e-9)


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(1, 5)), min_size=1, max_size=20),
)
def test_otsus_weights_stand_for_points(cells: list[tuple[int, int]]) -> None:
    probs, counts = (np.array(part) for part in zip(*cells))
    probs = (probs / 255).astype(np.float32)
    assert otsu(probs, counts) == pytest.approx(otsu(np.repeat(probs, counts)))
    assert otsu(probs, np.ones(len(probs))) == otsu(probs)


def test_otsu_by_hand() -> None:
    """Two heaps of unequal height and size; the threshold is the lowest of the upper one."""
    probs = np.array([[0.02, 0.3, 0.04, 0.26, 0.03, 0.02, 0.05]], np.float32)
    assert choose_thresholds(probs, "otsu", 0)[0] == np.float32(0.26)
    assert choose_thresholds(probs, "otsu", 0.5)[0] == NONE
    assert otsu(np.full(3, 0.4, np.float32)) == pytest.approx(0.4)
