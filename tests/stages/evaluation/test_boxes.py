"""Boxes, the parts of masks and F1: hand-computed, and against slow plain loops."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.types import Array
from stages.evaluation.metrics import BoxScan, box_ious, box_of, f1_scores, part_boxes

NO_TRIANGLES = np.zeros((0, 3), np.int32)
Corners = tuple[tuple[float, ...], tuple[float, ...]]


def box(low: Sequence[float], high: Sequence[float]) -> Array:
    return np.array([low, high], np.float64)


def stack(*boxes: Array) -> Array:
    return np.array(boxes, np.float64).reshape(-1, 2, 3)


UNIT = box((0, 0, 0), (1, 1, 1))


def slow_iou(first: Array, second: Array) -> float:
    """Volume of both over volume of either, axis by axis."""
    common = volume_a = volume_b = 1.0
    for axis in range(3):
        a0, a1, b0, b1 = first[0][axis], first[1][axis], second[0][axis], second[1][axis]
        common *= max(0.0, min(a1, b1) - max(a0, b0))
        volume_a *= max(0.0, a1 - a0)
        volume_b *= max(0.0, b1 - b0)
    return float(common / (volume_a + volume_b - common)) if common > 0 else 0.0


def slow_f1s(predicted: Array, true: Array, k: float) -> set[float]:
    """F1 of every pairing with the largest sum of IoU, found by trying all of them."""
    if not len(true):
        return {1.0 if not len(predicted) else 0.0}
    ious = [[slow_iou(p, t) for t in true] for p in predicted]
    size = max(len(predicted), len(true))
    best, found = -1.0, set()
    for order in itertools.permutations(range(size)):
        pairs = [ious[i][j] for i, j in enumerate(order) if i < len(predicted) and j < len(true)]
        f1 = 2 * sum(iou >= k for iou in pairs) / (len(predicted) + len(true))
        if sum(pairs) > best + 1e-9:
            best, found = sum(pairs), {f1}
        elif sum(pairs) > best - 1e-9:
            found.add(f1)
    return found


def slow_parts(points: Array, triangles: Array, mask: Array) -> set[Corners]:
    """Corners of the parts' boxes, by a flood over pairs of points."""
    ids = [i for i in range(len(points)) if mask[i]]
    cells = [[math.floor(float(x) / 0.03) for x in points[i]] for i in range(len(points))]
    edges = {frozenset(pair) for t in triangles.tolist() for pair in itertools.combinations(t, 2)}

    def joined(i: int, j: int) -> bool:
        near = all(abs(a - b) <= 1 for a, b in zip(cells[i], cells[j], strict=True))
        return near or frozenset((i, j)) in edges

    parts, waiting = [], set(ids)
    while waiting:
        part, border = set(), {waiting.pop()}
        while border:
            i = border.pop()
            part.add(i)
            reached = {j for j in waiting if joined(i, j)}
            waiting -= reached
            border |= reached
        parts.append(part)
    largest = max((len(part) for part in parts), default=0)
    kept = [[points[i] for i in part] for part in parts if 10 * len(part) >= largest]
    axes = range(3)
    return {
        (
            tuple(min(float(p[a]) for p in part) for a in axes),
            tuple(max(float(p[a]) for p in part) for a in axes),
        )
        for part in kept
    }


def corners(boxes: Array) -> set[Corners]:
    return {(tuple(b[0].tolist()), tuple(b[1].tolist())) for b in boxes}


@pytest.mark.parametrize(
    ("other", "iou"),
    [
        (UNIT, 1.0),
        (box((0, 0, 0), (1, 1, 0.5)), 0.5),  # within: 0.5 of 1
        (box((0, 0, 0), (0.5, 0.5, 1)), 0.25),
        (box((0.5, 0, 0), (1.5, 1, 1)), 1 / 3),  # 0.5 of 1.5
        (box((1, 0, 0), (2, 1, 1)), 0.0),  # they share a face
        (box((-1, -1, -1), (3, 3, 3)), 1 / 64),
        (box((0, 0, 0.5), (1, 1, 0.5)), 0.0),  # flat
        (box_of(np.zeros((0, 3))), 0.0),  # of no point
    ],
)
def test_iou_by_hand(other: Array, iou: float) -> None:
    assert box_ious(stack(UNIT), stack(other))[0, 0] == pytest.approx(iou, abs=0)
    assert box_ious(stack(other), stack(UNIT))[0, 0] == pytest.approx(iou, abs=0)


def test_boxes_without_volume_and_without_any() -> None:
    flat, nothing = box((0, 0, 0), (1, 1, 0)), box_of(np.zeros((0, 3)))
    assert not box_ious(stack(flat, nothing), stack(flat, nothing)).any()
    assert box_ious(stack(), stack(UNIT)).shape == (0, 1)
    assert box_ious(stack(UNIT), stack()).shape == (1, 0)


def test_box_of_points() -> None:
    found = box_of(np.array([[1, 5, 2], [3, 4, 2], [2, 6, -1]], np.float32))
    np.testing.assert_array_equal(found, [[1, 4, -1], [3, 6, 2]])
    assert found.dtype == np.float64


def test_f1_by_hand() -> None:
    half, quarter = box((0, 0, 0), (1, 1, 0.5)), box((0, 0, 0), (1, 1, 0.25))
    far = box((9, 9, 9), (10, 10, 10))
    # One of one, exactly at the threshold: inclusive.
    assert f1_scores(stack(half), stack(UNIT)) == {"f1_25": 1.0, "f1_50": 1.0}
    assert f1_scores(stack(quarter), stack(UNIT)) == {"f1_25": 1.0, "f1_50": 0.0}
    just_under = box((0, 0, 0), (1, 1, 0.4999999))
    assert f1_scores(stack(just_under), stack(UNIT)) == {"f1_25": 1.0, "f1_50": 0.0}
    # Two predicted, one of them right; three true: 2 * 1 / (2 + 3).
    true = stack(UNIT, far + 20, far + 40)
    assert f1_scores(stack(UNIT, far), true) == {"f1_25": 0.4, "f1_50": 0.4}
    # A target is found once only: 2 * 1 / (3 + 1).
    assert f1_scores(stack(UNIT, UNIT, half), stack(UNIT)) == {"f1_25": 0.5, "f1_50": 0.5}


def test_f1_without_targets_or_without_boxes() -> None:
    assert f1_scores(stack(), stack()) == {"f1_25": 1.0, "f1_50": 1.0}
    assert f1_scores(stack(UNIT), stack()) == {"f1_25": 0.0, "f1_50": 0.0}
    assert f1_scores(stack(), stack(UNIT)) == {"f1_25": 0.0, "f1_50": 0.0}
    # A target without a point cannot be found, but counts.
    assert f1_scores(stack(UNIT), stack(UNIT, box_of(np.zeros((0, 3)))))["f1_50"] == 2 / 3


def test_boxes_are_paired_for_the_largest_sum_not_one_after_the_other() -> None:
    # The first box fits both targets, better the first (0.8 to 0.6); the second fits that only.
    true = stack(box((0, 0, 0), (1, 1, 1)), box((0.4, 0, 0), (1, 1, 1)))
    predicted = stack(box((0.2, 0, 0), (1, 1, 1)), box((0, 0, 0), (0.7, 1, 1)))
    ious = box_ious(predicted, true)
    np.testing.assert_allclose(ious, [[0.8, 0.75], [0.7, 0.3]])
    # 0.75 + 0.7 is more than 0.8 + 0.3, and finds both at 0.5; taken greedily, one would be.
    assert f1_scores(predicted, true)["f1_50"] == 1.0


coordinates = st.integers(0, 6).map(float)


@st.composite
def some_boxes(draw: st.DrawFn) -> Array:
    """Up to four boxes with corners on whole numbers, flat ones among them."""
    found = []
    for _ in range(draw(st.integers(0, 4))):
        ends = [sorted((draw(coordinates), draw(coordinates))) for _ in range(3)]
        found.append(np.array(ends).T)
    return stack(*found)


@settings(max_examples=80, deadline=None)
@given(some_boxes(), some_boxes())
def test_iou_and_f1_agree_with_plain_loops(predicted: Array, true: Array) -> None:
    ious = box_ious(predicted, true)
    for i, j in itertools.product(range(len(predicted)), range(len(true))):
        assert ious[i, j] == pytest.approx(slow_iou(predicted[i], true[j]), abs=1e-12)
    scores = f1_scores(predicted, true)
    for name, k in (("f1_25", 0.25), ("f1_50", 0.5)):
        assert min(abs(scores[name] - f1) for f1 in slow_f1s(predicted, true, k)) < 1e-12


def line(start: float, count: int, step: float = 0.02) -> Array:
    """Points along x."""
    points = np.zeros((count, 3), np.float32)
    points[:, 0] = start + step * np.arange(count)
    return points


def test_parts_by_hand() -> None:
    """Three rows of points: 20, 20 and 1 of them, each over 6 cm from the next."""
    points = np.concatenate([line(0, 20), line(1, 20), line(2, 1)])
    scan = BoxScan(points, NO_TRIANGLES)
    boxes = part_boxes(scan, np.ones(41, bool))
    assert corners(boxes) == corners(np.stack([box_of(points[:20]), box_of(points[20:40])]))
    # One point of 20 is less than a tenth of them, but of 10 it is a tenth.
    assert len(part_boxes(scan, np.arange(41) >= 30)) == 2
    assert len(part_boxes(scan, np.arange(41) >= 29)) == 1
    # Nothing is dropped where it is all there is.
    assert corners(part_boxes(scan, np.arange(41) == 40)) == corners(stack(box_of(points[40:])))
    assert part_boxes(scan, np.zeros(41, bool)).shape == (0, 2, 3)


def test_what_is_3_cm_apart_hangs_together_and_6_cm_does_not() -> None:
    for start in np.linspace(0, 0.03, 7):
        for gap, parts in ((0.029, 1), (0.061, 2)):
            points = np.array([[start, 0, 0], [start + gap, 0, 0]])
            assert len(part_boxes(BoxScan(points, NO_TRIANGLES), np.ones(2, bool))) == parts


def test_edges_of_the_mesh_join_only_within_the_mask() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0]], np.float32)
    scan = BoxScan(points, np.array([[0, 1, 2], [1, 2, 3]], np.int32))
    assert corners(part_boxes(scan, np.ones(4, bool))) == corners(stack(box_of(points)))
    # 0 and 3 hang together over 1 and 2 alone, which are not in the mask.
    assert len(part_boxes(scan, np.array([True, False, False, True]))) == 2


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_parts_agree_with_a_flood_over_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = random.uniform(0, random.choice([0.1, 0.3, 0.6]), (40, 3)).astype(np.float32)
    triangles = random.integers(0, 40, (random.integers(0, 6), 3)).astype(np.int32)
    mask = random.random(40) < 0.6
    found = part_boxes(BoxScan(points, triangles), mask)
    assert corners(found) == slow_parts(points, triangles, mask)


def test_an_alignment_turns_and_moves_the_points() -> None:
    points = np.array([[1, 2, 3]], np.float32)
    quarter = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]], np.float64)
    scan = BoxScan.make(points, NO_TRIANGLES, quarter)
    np.testing.assert_array_equal(scan.points, [[3, 7, 10]])  # (-2 + 5, 1 + 6, 3 + 7)
    assert scan.is_aligned and not BoxScan.make(points, NO_TRIANGLES).is_aligned
