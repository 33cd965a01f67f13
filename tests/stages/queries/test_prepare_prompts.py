"""Records to prompts: finding the id space they use, targets, numbers and splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.formats import read_instruct3d as read_prompts
from data.queries.prompts import (
    GroupName,
    ObjectSpace,
    PromptRecord,
    decide_id_space,
    normalized_name,
)
from stages.configs import PromptsConfig
from stages.queries import prepare_prompts

# Position, id and objectId name three different objects almost everywhere.
GROUPS = {
    "aa": [
        GroupName(0, 2, 31, "bed"),
        GroupName(1, 0, 2, "office chair"),
        GroupName(2, 1, 0, "table"),
        GroupName(3, 9, 1, "pillow"),
    ],
    "bb": [GroupName(0, 1, 5, "Wall Clock"), GroupName(1, 0, 0, "bed"), GroupName(2, 7, 1, "sofa")],
}


def read(tmp_path: Path, *records: Any) -> list[PromptRecord]:
    path = tmp_path / "queries.json"
    path.write_text(json.dumps(list(records)))
    return read_prompts(path)


def record(scene_id: str, ids: Any, name: str) -> dict[str, Any]:
    text = f"the {name} {ids}"
    return {"scene_id": scene_id, "object_id": ids, "object_name": name, "description": text}


def records_in(space: ObjectSpace) -> list[dict[str, Any]]:
    field = {"position": 0, "id": 1, "objectId": 2}[space]
    return [
        record(scene_id, [group[field]], group.label)
        for scene_id, groups in GROUPS.items()
        for group in groups
    ]


def prepare(records: list[PromptRecord], **config: Any) -> prepare_prompts.PreparedPrompts:
    splits = {"train": ["aa"], "val": ["bb"]}
    return prepare_prompts.run(records, splits, GROUPS.__getitem__, PromptsConfig(**config))


@given(st.sampled_from([" office  chair", "Office_Chair", "office chair", "OFFICE CHAIR "]))
def test_names_are_compared_without_case_and_blanks(name: str) -> None:
    assert normalized_name(name) == "office_chair"


@pytest.mark.parametrize("space", ["position", "id", "objectId"])
def test_the_id_space_is_found_from_names(tmp_path: Path, space: ObjectSpace) -> None:
    records = read(tmp_path, *records_in(space))
    result = prepare(records)
    assert result.id_space == space
    expected = [group.object_id for groups in GROUPS.values() for group in groups]
    assert [truth.object_ids for truth in result.truths] == [(i,) for i in expected]


@pytest.mark.parametrize("space", ["position", "id", "objectId"])
def test_names_that_are_no_labels_and_many_targets_have_no_vote(
    tmp_path: Path, space: ObjectSpace
) -> None:
    field = {"position": 0, "id": 1, "objectId": 2}[space]
    bed, chair = GROUPS["aa"][0][field], GROUPS["aa"][1][field]
    extra = [record("aa", [bed, chair], "furniture")] * 30 + [record("aa", bed, "beds")] * 30
    extra += [record("aa", [bed, chair], "bed")] * 30 + [record("aa", [], "toilet")] * 30
    result = prepare(read(tmp_path, *extra, *records_in(space)))
    assert result.id_space == space
    assert result.truths[0].object_ids == (31, 2)
    assert result.truths[-len(records_in(space)) - 1].object_ids == ()


def test_names_written_otherwise_still_vote(tmp_path: Path) -> None:
    rows = [record("aa", 2, "Office_Chair"), record("bb", 5, "wall_clock"), record("bb", 0, "BED")]
    assert decide_id_space(read(tmp_path, *rows), GROUPS.__getitem__, 0.8) == "objectId"


def test_some_wrong_names_are_forgiven(tmp_path: Path) -> None:
    rows = records_in("position") * 2 + [record("aa", [3], "bed")]
    assert prepare(read(tmp_path, *rows)).id_space == "position"
    with pytest.raises(DataError, match="prompts.id_space"):
        prepare(read(tmp_path, *rows), min_agreement=0.99)


def test_queries_of_another_version_are_refused(tmp_path: Path) -> None:
    rows = [record("aa", [3], "bed"), record("aa", [0], "pillow"), record("bb", [2], "bed")]
    with pytest.raises(DataError) as caught:
        prepare(read(tmp_path, *rows))
    message = str(caught.value)
    assert "0 of 3 as objectId" in message and "v1 or v2" in message


def test_spaces_that_agree_equally_but_differ_are_refused(tmp_path: Path) -> None:
    groups = {"aa": [GroupName(0, 1, 1, "chair"), GroupName(1, 0, 0, "chair")]}
    rows = read(tmp_path, record("aa", [0], "chair"))
    with pytest.raises(DataError, match="1 of 1 as position"):
        decide_id_space(rows, groups.__getitem__, 0.8)
    same = {"aa": [GroupName(0, 0, 0, "chair"), GroupName(1, 1, 1, "chair")]}
    assert decide_id_space(rows, same.__getitem__, 0.8) == "objectId"


def test_without_a_vote_only_spaces_that_are_one_are_accepted(tmp_path: Path) -> None:
    rows = read(tmp_path, record("aa", [0, 1], "furniture"))
    same = {"aa": [GroupName(0, 0, 0, "chair"), GroupName(1, 1, 1, "bed")]}
    assert decide_id_space(rows, same.__getitem__, 0.8) == "objectId"
    with pytest.raises(DataError, match="0 of 0"):
        decide_id_space(rows, GROUPS.__getitem__, 0.8)
    assert decide_id_space(read(tmp_path, record("aa", [], "x")), GROUPS.__getitem__, 0.8)


def test_the_id_space_may_be_given(tmp_path: Path) -> None:
    rows = read(tmp_path, record("aa", [0, 1], "furniture"), record("bb", [], "x"))
    result = prepare(rows, id_space="position")
    assert result.truths[0].object_ids == (31, 2)


def test_ids_the_scene_does_not_have_are_named(tmp_path: Path) -> None:
    rows = read(tmp_path, *records_in("objectId"), record("aa", [31, 77], "furniture"))
    with pytest.raises(DataError) as caught:
        prepare(rows)
    message = str(caught.value)
    assert "[77]" in message and "scene aa" in message and "record 7" in message


def test_prompts_are_numbered_within_their_scene(tmp_path: Path) -> None:
    rows = [record("bb", [5], "wall clock"), *records_in("objectId"), record("aa", [], "toilet")]
    result = prepare(read(tmp_path, *rows))
    assert [p.prompt_id for p in result.prompts["train"]] == [f"aa_{k:04d}" for k in range(5)]
    assert [p.prompt_id for p in result.prompts["val"]] == [f"bb_{k:04d}" for k in range(4)]
    assert len(result.truths) == 9 and result.truths[0].prompt_id == "bb_0000"
    assert {p.task for p in result.prompts["val"]} == {"reasoning"}


def test_unknown_scenes_are_all_named(tmp_path: Path) -> None:
    rows = [record("aa", [31], "bed"), record("ff", [1], "bed"), record("../x", [1], "bed")]
    with pytest.raises(DataError) as caught:
        prepare(read(tmp_path, *rows))
    message = str(caught.value)
    assert "queries.json" in message and "'ff'" in message and "'../x'" in message


def test_splits_are_apart_and_none_is_without_queries(tmp_path: Path) -> None:
    rows = read(tmp_path, record("aa", [31], "bed"))
    cfg = PromptsConfig()
    with pytest.raises(DataError, match=r"\['aa'\]"):
        prepare_prompts.run(rows, {"train": ["aa"], "val": ["aa"]}, GROUPS.__getitem__, cfg)
    with pytest.raises(DataError, match="val"):
        prepare_prompts.run(rows, {"train": ["aa"], "val": ["bb"]}, GROUPS.__getitem__, cfg)


def test_a_scene_is_read_once(tmp_path: Path) -> None:
    asked = []

    def groups_of(scene_id: str) -> list[GroupName]:
        asked.append(scene_id)
        return GROUPS[scene_id]

    rows = read(tmp_path, *records_in("id") * 3)
    prepare_prompts.run(rows, {"train": ["aa"], "val": ["bb"]}, groups_of, PromptsConfig())
    assert sorted(asked) == ["aa", "bb"]
