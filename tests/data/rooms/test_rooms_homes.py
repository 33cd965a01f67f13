"""Questions with answers, searches, and rooms of other sizes, against the written files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.queries.hierarchical_search import read_room_query
from data.rooms.ids import KINDS
from data.rooms.wordings import ROOM_WORDS
from stages.configs import GenerateConfig
from stages.scene.generate_rooms import scene_ids
from tests.support.scans.rooms_english import ANSWERS, REFERRING_FORMS, parse
from tests.support.scans.rooms_fixture import TINY, WrittenRoom, generate, read_all

PLAIN = TINY.model_copy(update={"train_rooms": 4, "val_rooms": 4})
HOMES = PLAIN.model_copy(update={"rooms_per_place": 3, "searches": 3, "qa_questions": 3})


def made(root: Path, cfg: GenerateConfig) -> list[WrittenRoom]:
    generate(root, cfg)
    return read_all(root, cfg)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WrittenRoom]]:
    yield made(tmp_path_factory.mktemp("plain"), PLAIN)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WrittenRoom]]:
    yield made(tmp_path_factory.mktemp("homes"), HOMES)


def of_task(room: WrittenRoom, task: str) -> list[dict[str, Any]]:
    return [record for record in room.records if record["task"] == task]


def test_what_is_asked_besides_changes_no_other_record(
    plain: list[WrittenRoom], homes: list[WrittenRoom]
) -> None:
    for before, after in zip(plain, homes, strict=True):
        assert after.records[: len(before.records)] == before.records
        extra = [record["task"] for record in after.records[len(before.records) :]]
        assert extra[:3] == ["qa"] * 3
        assert set(extra[3:]) == {"search"} and len(extra) <= 6  # Two views show few things.


def test_the_answer_to_a_question_names_what_meets_the_need(homes: list[WrittenRoom]) -> None:
    answered = set()
    for room in homes:
        for record in of_task(room, "qa"):
            (name,) = [k for k, form in ANSWERS.items() if re.search(form, record["description"])]
            found = room.of(name)
            assert record["object_id"] == found
            assert record["answers"] == ([name] if found else ["none"])
            answered.add(bool(found))
    assert answered == {True, False}


def test_a_search_tells_its_room_and_its_target_is_there(homes: list[WrittenRoom]) -> None:
    for split in ("train", "val"):
        of_split = [room for room in homes if room.split == split]
        for kind, room in zip(KINDS, of_split, strict=True):
            for record in of_task(room, "search"):
                asked = read_room_query(record["description"])
                words = ROOM_WORDS[kind]
                assert asked.room in words.train + (words.held_out if split == "val" else ())
                answers = [k for k, form in ANSWERS.items() if re.search(form, asked.wanted)]
                if answers:
                    assert record["object_id"] == room.of(answers[0])
                else:
                    name = parse(REFERRING_FORMS, asked.wanted)["name"]
                    assert {room.labels[key] for key in record["object_id"]} == {name}


def test_rooms_of_a_home_stand_in_a_row_and_never_overlap(
    plain: list[WrittenRoom], homes: list[WrittenRoom]
) -> None:
    def extent(room: WrittenRoom) -> tuple[float, float]:
        every = np.concatenate(list(room.points.values()))
        return float(every[:, 0].min()), float(every[:, 0].max())

    names = scene_ids(HOMES, "train")
    by_name = {room.scene_id: room for room in homes}
    first, second, third, fourth = (extent(by_name[name]) for name in names)
    assert first[1] < second[0] and second[1] < third[0] and third[0] == pytest.approx(18, abs=2)
    assert fourth[0] < 2  # The next home begins anew.
    for before, after in zip(plain, homes, strict=True):
        shift = extent(after)[0] - extent(before)[0]
        for key, points in before.points.items():
            assert np.allclose(points[:, 0] + shift, after.points[key][:, 0], atol=1e-4)
            assert np.allclose(points[:, 1:], after.points[key][:, 1:], atol=1e-5)


def test_larger_rooms_are_larger_and_hold_the_same_furniture(
    plain: list[WrittenRoom], tmp_path: Path
) -> None:
    def area(rooms: list[WrittenRoom]) -> float:
        floors = [room.points[room.of("floor")[0]] for room in rooms]
        return float(np.mean([np.prod(np.ptp(floor[:, :2], axis=0)) for floor in floors]))

    assert PLAIN.room_scale == 1
    wide = made(tmp_path, PLAIN.model_copy(update={"room_scale": 1.5}))
    assert 1.7 < area(wide) / area(plain) < 2.8  # 1.5 squared is 2.25; rooms are turned a little.


def test_a_set_may_have_no_training_rooms(tmp_path: Path) -> None:
    generate(tmp_path, PLAIN.model_copy(update={"train_rooms": 0, "val_rooms": 1}))
    assert not (tmp_path / "queries" / "train.json").exists()
    assert json.loads((tmp_path / "queries" / "val.json").read_text())
