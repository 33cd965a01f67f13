"""Queries against the written files: every kind is checked by geometry computed here anew."""

from __future__ import annotations

import colorsys
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from data.rooms.queries import TASKS, color_name
from data.rooms.textures import PALETTE
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural
from data.types import Array
from tests.support.scans.rooms_english import (
    ANSWERS,
    MULTIPLE_FORMS,
    REFERRING_FORMS,
    SPATIAL_FORMS,
    parse,
)
from tests.support.scans.rooms_fixture import SMALL, WrittenRoom, generate, read_all


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[WrittenRoom]]:
    root = tmp_path_factory.mktemp("rooms")
    generate(root, SMALL)
    yield read_all(root, SMALL)


def records(rooms: list[WrittenRoom], task: str) -> list[tuple[WrittenRoom, dict[str, Any]]]:
    found = [(room, r) for room in rooms for r in room.records if r["task"] == task]
    assert len(found) >= len(rooms)
    return found


def is_colored(colors: Array, name: str) -> bool:
    """Whether most of an object is plainly of a colour: hue bands by the standard library."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(np.median(colors, axis=0) / 255))
    hue *= 360
    bands = {"red": (345, 375), "orange": (18, 40), "yellow": (40, 68), "green": (85, 170)}
    bands |= {"blue": (200, 245), "purple": (255, 305), "pink": (318, 355), "brown": (12, 40)}
    if name in ("white", "grey", "black"):
        low, high = {"white": (0.65, 1.1), "grey": (0.25, 0.65), "black": (0, 0.25)}[name]
        return low <= value < high and (saturation < 0.25 or name == "black")
    low, high = bands[name]
    return saturation > 0.25 and (low <= hue < high or low <= hue + 360 < high)


def stands_on(room: WrittenRoom, item: int, host: int) -> bool:
    """Vertical contact: the host reaches just up to the item's lowest points, below it."""
    own, below = room.own[item], room.own[host]
    bottom = own[:, 2].min()
    middle = own[:, :2].mean(axis=0)
    low, high = below[:, :2].min(axis=0), below[:, :2].max(axis=0)
    touching = np.abs(below[:, 2] - bottom) < 0.05
    if bottom < 0.25 or not touching.any() or (middle < low).any() or (middle > high).any():
        return False
    return bool(np.linalg.norm(below[touching][:, :2] - middle, axis=1).min() < 0.4)


def gap(room: WrittenRoom, first: int, second: int) -> float:
    return float(cdist(room.points[first], room.points[second]).min())


def test_every_room_has_enough_queries_of_every_task(rooms: list[WrittenRoom]) -> None:
    for room in rooms:
        assert len(room.records) >= 8
        assert {record["task"] for record in room.records} == set(TASKS)
        texts = [record["description"] for record in room.records]
        assert len(set(texts)) >= len(texts) - 1


def test_fields_and_object_names(rooms: list[WrittenRoom]) -> None:
    agree = total = 0
    for room in rooms:
        for record in room.records:
            keys = {"scene_id", "object_id", "object_name", "image", "description", "task"}
            assert set(record) == keys and record["image"].endswith(".JPG")
            assert set(record["object_id"]) <= set(room.labels)
            assert (record["object_id"] == []) == (record["task"] == "absent")
            assert all(len(room.points[key]) > 0 for key in record["object_id"])
            agree += sum(room.labels[k] == record["object_name"] for k in record["object_id"])
            total += len(record["object_id"])
    assert agree / total > 0.8


def test_referring_names_exactly_one_object(rooms: list[WrittenRoom]) -> None:
    kinds: Counter[str] = Counter()
    for room, record in records(rooms, "referring"):
        found = parse(REFERRING_FORMS, record["description"])
        fitting = room.of(found["name"])
        if found.get("color"):
            kinds["color"] += 1
            fitting = [k for k in fitting if is_colored(room.colors[k], found["color"])]
        if found.get("host"):
            kinds["on"] += 1
            hosts = room.of(found["host"])
            assert len(hosts) == 1
            fitting = [k for k in fitting if stands_on(room, k, hosts[0])]
        assert fitting == record["object_id"], record
    assert kinds["color"] >= 3 and kinds["on"] >= 2


def test_implicit_targets_are_all_that_meet_the_need(rooms: list[WrittenRoom]) -> None:
    for room, record in records(rooms, "implicit"):
        answers = [k for k, form in ANSWERS.items() if re.search(form, record["description"])]
        assert len(answers) == 1, record
        assert record["object_id"] == room.of(answers[0])


def test_hand_written_answers_cover_every_wording() -> None:
    for need in NEEDS:
        for text in (*need.wording.train, *need.wording.held_out):
            found = [key for key, form in ANSWERS.items() if re.search(form, text)]
            assert found == list(need.labels), text


def test_spatial_is_clear_by_brute_force_distances(rooms: list[WrittenRoom]) -> None:
    kinds: Counter[str] = Counter()
    for room, record in records(rooms, "spatial"):
        found = parse(SPATIAL_FORMS, record["description"])
        label = found.get("name") or next(
            label for label in room.labels.values() if plural(label) == found["names"]
        )
        rivals = room.of(label)
        (target,) = record["object_id"]
        assert target in rivals and len(rivals) >= 2
        others = [key for key in rivals if key != target]
        if found.get("anchor"):
            (anchor,) = room.of(found["anchor"])
            own = gap(room, target, anchor)
            rest = [gap(room, key, anchor) for key in others]
            kinds["near" if found.get("near") else "far"] += 1
            assert own + 0.3 < min(rest) if found.get("near") else own > max(rest) + 0.3
        elif found.get("big"):
            kinds["big"] += 1
            size = {k: np.prod(room.boxes[k]["axesLengths"]) for k in rivals}
            assert all(size[target] > 1.3 * size[key] for key in others)
        else:
            kinds["tall"] += 1
            tops = {k: room.points[k][:, 2].max() for k in rivals}
            assert all(tops[target] > tops[key] + 0.1 for key in others)
    assert kinds["near"] >= 2 and kinds["far"] >= 2


def test_multiple_is_the_whole_set(rooms: list[WrittenRoom]) -> None:
    numbers = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
    for room, record in records(rooms, "multiple"):
        found = parse(MULTIPLE_FORMS, record["description"])
        assert len(record["object_id"]) >= 2
        if found.get("host"):
            (host,) = room.of(found["host"])
            wanted = [k for k in room.labels if k != host and stands_on(room, k, host)]
        elif found.get("other"):
            wanted = [*room.of(found["name"]), *room.of(found["other"])]
            assert len(wanted) == 2
        else:
            label = found.get("name") or next(
                label for label in room.labels.values() if plural(label) == found["names"]
            )
            wanted = room.of(label)
            assert numbers.get(found.get("count") or "", len(wanted)) == len(wanted)
        assert sorted(wanted) == record["object_id"], record


def test_absent_things_are_absent(rooms: list[WrittenRoom]) -> None:
    for room, record in records(rooms, "absent"):
        answers = [k for k, form in ANSWERS.items() if re.search(form, record["description"])]
        if answers:
            assert not room.of(answers[0]), record
            continue
        found = parse(REFERRING_FORMS, record["description"])
        there = room.of(found["name"])
        if found.get("color"):
            there = [k for k in there if is_colored(room.colors[k], found["color"])]
        assert there == [], record


def as_regex(template: str) -> str:
    return re.sub(r"\\\{\w+\\\}", ".+", re.escape(template))


def all_wordings() -> list[Wording]:
    plain = [*REFERRING.values(), *SPATIAL.values(), *MULTIPLE.values()]
    return plain + [need.wording for need in NEEDS]


def test_training_rooms_never_use_held_out_wordings(rooms: list[WrittenRoom]) -> None:
    held_out = [as_regex(text) for wording in all_wordings() for text in wording.held_out]
    used = {"train": 0, "val": 0}
    for room in rooms:
        for record in room.records:
            fits = [form for form in held_out if re.fullmatch(form, record["description"])]
            used[room.split] += bool(fits)
    assert used["train"] == 0
    assert used["val"] >= 8
    for wording in all_wordings():
        assert wording.train and wording.held_out
        assert not set(wording.train) & set(wording.held_out)


def test_named_view_shows_a_target(rooms: list[WrittenRoom]) -> None:
    for room in rooms:
        images = {record["image"] for record in room.records}
        assert len(images) >= 2


def test_color_names_know_the_palette() -> None:
    for name, rgb in PALETTE.items():
        for light in (0.75, 0.9, 1.0):
            found = color_name(np.array(rgb) * light * 240)
            assert found in (name, "") or (name == "white" and found == "grey")
        if name != "beige":
            assert color_name(np.array(rgb) * 235) == name
    assert color_name(np.array([0, 0, 0])) == "black"


def test_more_questions_are_for_training_rooms_alone_and_all_different(
    rooms: list[WrittenRoom], tmp_path: Path
) -> None:
    cfg = SMALL.model_copy(update={"train_rooms": 1, "val_rooms": 1, "train_questions": 3})
    generate(tmp_path, cfg)
    usual = {room.scene_id: room for room in rooms}
    for room in read_all(tmp_path, cfg):
        few = usual[room.scene_id].records
        if room.split == "val":
            assert room.records == few
            continue
        counts, before = (Counter(r["task"] for r in records) for records in (room.records, few))
        assert all(before[task] <= counts[task] <= 3 * before[task] for task in TASKS)
        assert counts.total() >= 2 * before.total()
        told = {(r["task"], r["description"], tuple(r["object_id"])) for r in room.records}
        assert len(told) == counts.total()
