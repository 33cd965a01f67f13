"""Superpoint ceilings against all unions of superpoints, and truth snapped by hand."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.artifacts.evaluation import SOURCES, QueryRow, Score
from data.types import GroundTruth, SurfaceTruth
from stages.evaluation.scan_quality import (
    SuperpointTruth,
    summarise_scans,
    summarise_snapped,
)


def truth_of(
    *objects: list[int], num_points: int = 8, ignored: tuple[int, ...] = ()
) -> GroundTruth:
    flat = np.array(list(chain.from_iterable(objects)), np.int32)
    offsets = np.cumsum([0, *map(len, objects)]).astype(np.int64)
    ids = tuple(range(10, 10 + len(objects)))
    labels = ("thing",) * len(objects)
    return GroundTruth(ids, labels, flat, offsets, num_points, np.array(ignored, np.int32))


def superpoints(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
    st.sets(st.integers(0, 11), max_size=3),
)
def test_no_union_of_superpoints_is_better_than_the_ceiling(
    ids: list[int], members: set[int], ignored: set[int]
) -> None:
    size = len(ids)
    members, ignored = {m for m in members if m < size}, {i for i in ignored if i < size}
    truth = truth_of(sorted(members), num_points=size, ignored=tuple(sorted(ignored)))
    target = truth.counted_points([10])
    intersection, union = SuperpointTruth(truth, np.array(ids, np.int32)).ceiling(target)
    wanted = members - ignored
    best = 0.0
    names = sorted(set(ids))
    for chosen in chain.from_iterable(combinations(names, n) for n in range(1, len(names) + 1)):
        points = {k for k, name in enumerate(ids) if name in chosen} - ignored
        if points | wanted:
            best = max(best, len(points & wanted) / len(points | wanted))
    assert (intersection / union if union else 0.0) == pytest.approx(best)


def test_a_ceiling_by_hand() -> None:
    """Superpoints with 3 of 3, 2 of 3 and 1 of 2 points: the first two give 5 of 7."""
    truth = truth_of([0, 1, 2, 3, 4, 6])
    judged = SuperpointTruth(truth, superpoints(0, 0, 0, 1, 1, 1, 2, 2))
    # 3/6, then 5/7, then 6/8.
    assert judged.ceiling(truth.counted_points([10])) == (6, 8)
    assert judged.ceiling(np.array([0, 1, 2, 3])) == (3, 4)
    assert judged.ceiling(np.zeros(0, np.int32)) == (0, 0)


def test_points_left_out_of_evaluation_do_not_count() -> None:
    truth = truth_of([0, 1], num_points=4, ignored=(2, 3))
    judged = SuperpointTruth(truth, superpoints(0, 0, 0, 0))
    assert judged.ceiling(truth.counted_points([10])) == (2, 2)
    assert judged.snapped().points_of(10).tolist() == [0, 1, 2, 3]


def test_every_superpoint_gets_the_object_of_most_of_its_points() -> None:
    """Superpoints: 2 of chair and 1 of none; 1 of each and 2 of none; 1 of chair, 1 of bed."""
    truth = truth_of([0, 1, 3, 7], [4, 8], num_points=9)
    snapped = SuperpointTruth(truth, superpoints(0, 0, 0, 1, 1, 1, 1, 2, 2)).snapped()
    assert snapped.points_of(10).tolist() == [0, 1, 2, 7, 8]  # A tie: the first object.
    assert snapped.points_of(11).tolist() == []
    assert snapped.object_ids == truth.object_ids and snapped.num_points == 9


def test_overlapping_objects_vote_as_sets() -> None:
    """A pillow on a bed, which the bed's annotation holds, too."""
    bed, pillow = [0, 1, 2, 3, 4, 5], [3, 4, 5]
    truth = truth_of(bed, pillow, num_points=8)
    snapped = SuperpointTruth(truth, superpoints(0, 0, 1, 1, 1, 2, 2, 2)).snapped()
    assert snapped.points_of(10).tolist() == [0, 1, 2, 3, 4]
    assert snapped.points_of(11).tolist() == [2, 3, 4]


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.lists(st.sets(st.integers(0, 11), min_size=1), max_size=3),
)
def test_snapped_truth_is_made_of_superpoints_and_snapping_again_changes_nothing(
    ids: list[int], objects: list[set[int]]
) -> None:
    size = len(ids)
    kept = [sorted(p for p in points if p < size) for points in objects]
    truth, parts = truth_of(*kept, num_points=size), np.array(ids, np.int32)
    snapped = SuperpointTruth(truth, parts).snapped()
    for object_id in truth.object_ids:
        inside = snapped.mask([object_id])
        assert all(len(set(inside[parts == k].tolist())) == 1 for k in set(ids))
    again = SuperpointTruth(snapped, parts).snapped()
    assert again.point_ids.tolist() == snapped.point_ids.tolist()
    whole = SuperpointTruth(truth, np.arange(size, dtype=np.int32)).snapped()
    assert whole.point_ids.tolist() == truth.point_ids.tolist()


def test_superpoints_of_another_scan_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 8 superpoint ids"):
        SuperpointTruth(truth_of([0]), superpoints(0, 1))


def test_the_summary_averages_queries_objects_and_surfaces() -> None:
    surface = SurfaceTruth(0.8, 0.01, 0.03)
    first = truth_of([0, 1, 2, 3], [4])
    object.__setattr__(first, "surface", surface)
    ids = superpoints(0, 0, 0, 0, 1, 1, 1, 1)
    one = SuperpointTruth(first, ids).quality("a", [first.counted_points([10]), np.zeros(0, int)])
    second = truth_of([0, 1], num_points=8)
    two = SuperpointTruth(second, ids).quality("b", [second.counted_points([10])])
    found = summarise_scans([one, two])
    assert found["ceiling"] == {"count": 2, "miou": pytest.approx(0.75), "acc25": 1.0, "acc50": 0.5}
    assert found["object_ceiling"]["miou"] == pytest.approx((1 + 0.25 + 0.5) / 3)
    assert found["surface"] == {"coverage": 0.8, "median_error": 0.01, "error_90": 0.03}
    assert found["by_scene"]["b"]["surface"] is None
    assert found["by_scene"]["a"]["num_superpoints"] == 2
    nothing = summarise_scans([])
    assert nothing["ceiling"]["miou"] is None and nothing["surface"] is None


def test_the_snapped_headline_takes_the_exact_score_where_there_is_no_other() -> None:
    exact, other = Score(1, 2, 0.5, 2, False), Score(2, 2, 1.0, 2, False)
    rows = [
        QueryRow("q0", "s", "t", "k", "single", 2, dict.fromkeys(SOURCES, exact)),
        QueryRow(
            *("q1", "s", "t", "k", "single", 2),
            dict.fromkeys(SOURCES, exact),
            snapped=dict.fromkeys(SOURCES, other),
        ),
    ]
    found = summarise_snapped(rows)
    assert found["student"]["miou"] == pytest.approx(0.75)
    assert found["together"]["num_queries"] == 2 and "superpoint" in found["rule"]
