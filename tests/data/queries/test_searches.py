"""Searches over several rooms, step by step and by hand: prompts, the room chosen, the score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts.answers import RoomChoice
from data.artifacts.evaluation import SOURCES
from data.errors import DataError
from data.queries.hierarchical_search import (
    Search,
    is_extra,
    search_prompts,
    sign_ids,
    truths_in_room,
)
from data.queries.prompts import GroupName, PromptRecord
from data.types import Array, GroundTruth, PromptTruth
from stages.configs import PromptsConfig
from stages.evaluation import hierarchical_search
from stages.evaluation.hierarchical_search import SearchedRoom
from stages.queries import prepare_prompts

LAMP = Search(
    "home_search_0000", "home", 0, ("a", "b"), "in x, the lamp", "x", "the lamp", ("s", "t")
)
BED = Search("home_search_0001", "home", 1, ("a", "b"), "the bed", "", "the bed", ())
TRUTHS = {
    LAMP.search_id: PromptTruth(LAMP.search_id, (4,), "lamp", scene_id="b"),
    BED.search_id: PromptTruth(BED.search_id, (7, 8), "bed", scene_id="a"),
}


def test_every_room_is_asked_for_what_is_wanted_and_for_each_sign_once() -> None:
    other = Search("home_search_0002", "home", 2, ("a", "b"), "in y, it", "y", "it", ("t", "u"))
    asked = search_prompts([LAMP, BED, other], "b")
    assert [(p.prompt_id, p.text, p.task) for p in asked] == [
        ("b_search_0000", "the lamp", "search"),
        ("b_search_0001", "the bed", "search"),
        ("b_search_0002", "it", "search"),
        ("b_sign_000", "s", "sign"),
        ("b_sign_001", "t", "sign"),
        ("b_sign_002", "u", "sign"),
    ]
    assert {p.scene_id for p in asked} == {"b"}
    assert all(is_extra(p.prompt_id, "b") for p in asked) and not is_extra("b_0003", "b")
    assert search_prompts([LAMP, BED], "elsewhere") == []
    assert sign_ids([BED], "a") == {}


def test_a_truth_counts_in_the_room_it_is_about_alone() -> None:
    assert truths_in_room([LAMP, BED], TRUTHS, "b") == {
        "b_search_0000": PromptTruth("b_search_0000", (4,), "lamp", scene_id="b")
    }
    assert set(truths_in_room([LAMP, BED], TRUTHS, "a")) == {"a_search_0001"}


def chosen(scores: Mapping[str, Mapping[str, float]]) -> list[RoomChoice]:
    return hierarchical_search.run_find_rooms(
        [LAMP, BED], {room: {"student": own} for room, own in scores.items()}
    )


def test_the_room_with_most_signs_is_chosen_and_without_signs_the_surest_answer() -> None:
    rooms = {
        "a": {"a_sign_000": 0.9, "a_sign_001": 0.1, "a_search_0000": 1.0, "a_search_0001": 0.3},
        "b": {"b_sign_000": 0.5, "b_sign_001": 0.7, "b_search_0000": 0.2, "b_search_0001": 0.4},
    }
    lamp, bed = chosen(rooms)
    assert lamp == RoomChoice(LAMP.search_id, "student", "b", {"a": 0.5, "b": 0.6})
    assert bed == RoomChoice(BED.search_id, "student", "b", {"a": 0.3, "b": 0.4})
    rooms["a"]["a_sign_001"] = 0.3  # Now both have 0.6, and what is wanted is surer in a.
    assert chosen(rooms)[0].room == "a"
    nothing = {room: dict.fromkeys(own, 0.0) for room, own in rooms.items()}
    assert [choice.room for choice in chosen(nothing)] == ["", ""]


def room(scene_id: str, **masks: list[int]) -> SearchedRoom:
    """Ten points; in b point 0 to 3 are the lamp, in a 0 to 1 and 1 to 2 the beds."""
    truth = GroundTruth((4,), ("lamp",), np.arange(4, dtype=np.int32), np.array([0, 4]), 10)
    if scene_id == "a":
        points = np.array([0, 1, 1, 2], np.int32)
        truth = GroundTruth((7, 8), ("bed", "bed"), points, np.array([0, 2, 4]), 10)
    by_prompt = {f"{scene_id}_search_{name[1:]}": mask_of(found) for name, found in masks.items()}
    return SearchedRoom(scene_id, truth, dict.fromkeys(SOURCES, by_prompt))


def mask_of(points: list[int]) -> Array:
    mask = np.zeros(10, bool)
    mask[points] = True
    return mask


def choices(lamp: str, bed: str) -> dict[tuple[str, str], RoomChoice]:
    told = {LAMP.search_id: lamp, BED.search_id: bed}
    return {
        (name, source): RoomChoice(name, source, room, {})
        for name, room in told.items()
        for source in SOURCES
    }


def test_points_marked_in_other_rooms_count_against_the_answer_without_the_step() -> None:
    rooms = [room("a", _0000=[5, 6], _0001=[0, 1, 2]), room("b", _0000=[0, 1, 9], _0001=[3])]
    result = hierarchical_search.run_search_rows([LAMP, BED], TRUTHS, choices("b", "a"), rooms)
    lamp, bed = result.rows
    assert (lamp.scene_id, lamp.task, lamp.target_count) == ("b", "search", "single")
    assert (bed.scene_id, bed.target_count, bed.truth_points) == ("a", "multiple", 3)
    # With the right room: 2 of 4 points found, 1 too many: 2 / 5. Beds: all three: 3 / 3.
    score = lamp.scores["student"]
    assert (score.intersection, score.union, score.predicted_points) == (2, 5, 3)
    assert bed.scores["student"].iou == pytest.approx(1)
    figures = result.metrics["together"]
    assert figures["with_room"]["miou"] == pytest.approx((2 / 5 + 1) / 2, abs=1e-6)
    # Without it: two more points marked in a, one more in b: 2 / 7 and 3 / 4.
    assert figures["without_room"]["miou"] == pytest.approx((2 / 7 + 3 / 4) / 2, abs=1e-6)
    assert figures["room_hit_rate"] == figures["room_hit_rate_told"] == 1
    assert result.metrics["num_searches"] == 2


def test_searches_are_scored_by_the_snapped_truth_too() -> None:
    """By its superpoints the lamp has five points: all that were found, and 5 in the union."""
    rooms = [room("a", _0000=[5, 6], _0001=[0, 1, 2]), room("b", _0000=[0, 1, 9], _0001=[3])]
    points = np.array([0, 1, 2, 3, 9], np.int32)
    snapped = replace(rooms[1].ground_truth, point_ids=points, offsets=np.array([0, 5]))
    rooms[1] = replace(rooms[1], snapped=snapped)
    result = hierarchical_search.run_search_rows([LAMP, BED], TRUTHS, choices("b", "a"), rooms)
    lamp, bed = result.rows
    score = lamp.snapped["student"]
    assert (score.intersection, score.union, score.predicted_points) == (3, 5, 3)
    assert (lamp.scores["student"].intersection, lamp.truth_points) == (2, 4)
    assert bed.snapped == bed.scores


def test_a_wrong_room_scores_nothing_and_no_room_means_all() -> None:
    rooms = [room("a", _0000=[5, 6], _0001=[0, 1, 2]), room("b", _0000=[0, 1, 9], _0001=[3])]
    result = hierarchical_search.run_search_rows([LAMP, BED], TRUTHS, choices("a", ""), rooms)
    lamp, bed = (row.scores["student"] for row in result.rows)
    assert (lamp.intersection, lamp.union) == (0, 2 + 4)
    assert (bed.intersection, bed.union) == (3, 4)
    assert result.metrics["student"]["room_hit_rate"] == 0
    missing = hierarchical_search.run_search_rows(
        [LAMP, BED], TRUTHS, choices("b", "a"), [room("a"), room("b")]
    )
    assert [row.scores["student"].missing for row in missing.rows] == [True, True]
    assert missing.metrics["student"]["with_room"]["miou"] == 0


def test_a_truth_of_another_place_or_of_unknown_objects_is_refused() -> None:
    elsewhere = {**TRUTHS, LAMP.search_id: PromptTruth(LAMP.search_id, (4,), "lamp", (), "z")}
    with pytest.raises(DataError, match="home_search_0000.*about 'z'"):
        hierarchical_search.run_search_rows([LAMP], elsewhere, choices("a", "a"), [])
    unknown = {**TRUTHS, LAMP.search_id: PromptTruth(LAMP.search_id, (5,), "lamp", (), "b")}
    with pytest.raises(DataError, match=r"scene b has.*\[5\]"):
        hierarchical_search.run_search_rows(
            [LAMP], unknown, choices("a", "a"), [room("b", _0000=[1])]
        )


def test_records_become_searches_where_their_scene_is_of_a_place() -> None:
    source = Path("queries.json")
    told = [("a", "the bed", "referring"), ("a", "in the office, the bed", "search")]
    told += [("b", "the sofa in the lounge", "search"), ("c", "in the attic, a bed", "search")]
    records = [
        PromptRecord(source, number, scene, text, task, (1,), "bed")
        for number, (scene, text, task) in enumerate(told)
    ]
    found = prepare_prompts.run(
        records,
        {"train": ["a", "b"], "val": ["c"]},
        lambda scene: [GroupName(0, 0, 1, "bed")],
        PromptsConfig(),
        places={"home": ("a", "b")},
    )
    assert [p.prompt_id for p in found.prompts["train"]] == ["a_0000"]
    first, second = found.searches["train"]
    assert (first.search_id, first.wanted, first.rooms) == (
        "home_search_0000",
        "the bed",
        ("a", "b"),
    )
    assert (second.search_id, second.signs) == (
        "home_search_0001",
        ("the sofa", "the coffee table"),
    )
    # Where its scene is no room of a place, a search is a query like any other.
    assert [(p.prompt_id, p.task) for p in found.prompts["val"]] == [("c_0000", "search")]
    rooms = {truth.prompt_id: truth.scene_id for truth in found.truths}
    assert rooms == {"a_0000": "", "home_search_0000": "a", "home_search_0001": "b", "c_0000": ""}
