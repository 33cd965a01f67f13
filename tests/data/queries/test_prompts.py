"""Prompts: records as they stand in their file, and the artifact without and with truths."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from data.artifacts import prompts as artifact
from data.errors import ArtifactError, DataError
from data.queries.formats import read_instruct3d as read_prompts
from data.queries.prompts import PromptRecord
from data.types import Prompt, PromptTruth

RECORD: dict[str, Any] = {
    "scene_id": "aa",
    "object_id": [31],
    "object_name": "bed",
    "image": "DSC03393.JPG",
    "description": "where can I sleep?",
}


def read(tmp_path: Path, *records: Any) -> list[PromptRecord]:
    path = tmp_path / "queries.json"
    path.write_text(json.dumps(list(records)))
    return read_prompts(path)


def test_a_record_is_read_as_it_stands(tmp_path: Path) -> None:
    first, second, third = read(
        tmp_path,
        RECORD,
        {**RECORD, "object_id": 7, "task": "spatial", "images": ["dslr/a.JPG", "b"]},
        {**RECORD, "object_id": [], "description": "  the toilet\n"},
    )
    assert (first.scene_id, first.text, first.task) == ("aa", "where can I sleep?", "reasoning")
    assert (first.raw_ids, first.object_name, first.view_ids) == ((31,), "bed", ("DSC03393",))
    assert (second.raw_ids, second.task, second.view_ids) == ((7,), "spatial", ("a", "b"))
    assert (third.raw_ids, third.text, third.number) == ((), "the toilet", 2)


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"description": ""}, "description"),
        ({"description": " \n"}, "description"),
        ({"description": None}, "description"),
        ({"scene_id": 5}, "scene_id"),
        ({"object_name": ["bed"]}, "object_name"),
        ({"task": ""}, "task"),
        ({"object_id": "31"}, "object_id"),
        ({"object_id": None}, "object_id"),
        ({"object_id": [1.5]}, "object_id"),
        ({"object_id": [True]}, "object_id"),
        ({"object_id": [[1]]}, "object_id"),
        ({"object_id": [1, 1]}, "object_id"),
        ({"image": 5}, "image"),
    ],
)
def test_a_wrong_field_names_file_record_and_field(
    tmp_path: Path, change: dict[str, Any], hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, RECORD, {**RECORD, **change})
    message = str(caught.value)
    assert "queries.json" in message and "record 1" in message and hint in message


@pytest.mark.parametrize("key", ["scene_id", "object_id", "object_name", "description"])
def test_a_field_that_is_not_there_is_named(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=key):
        read(tmp_path, {name: value for name, value in RECORD.items() if name != key})


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '[{"scene_id"', "\x00\x01", "[[]]"])
def test_files_that_hold_no_queries_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "queries.json"
    path.write_text(content)
    with pytest.raises(DataError, match="queries.json"):
        read_prompts(path)
    with pytest.raises(DataError, match="no such file"):
        read_prompts(tmp_path / "none.json")


def test_repeated_queries_are_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        records = read(tmp_path, RECORD, RECORD, {**RECORD, "scene_id": "bb"})
    assert len(records) == 3
    assert "1 queries repeat" in caplog.text


PROMPTS = {
    "train": [Prompt("aa_0000", "aa", 'where <b>"is"</b> das Bett? 床', "implicit")],
    "val": [Prompt("bb_0000", "bb", "the toilet", "absent")],
}
TRUTHS = [PromptTruth("aa_0000", (31, 2), "bed"), PromptTruth("bb_0000", (), "toilet")]


def test_prompts_and_truths_come_back(tmp_path: Path) -> None:
    artifact.write_prompts(tmp_path, PROMPTS, TRUTHS, "objectId")
    assert artifact.read_prompts(tmp_path) == PROMPTS
    assert artifact.read_truths(tmp_path) == {truth.prompt_id: truth for truth in TRUTHS}


def test_prompts_hold_no_label_and_are_read_without_truths(tmp_path: Path) -> None:
    artifact.write_prompts(tmp_path, PROMPTS, TRUTHS, "objectId")
    assert "31" not in (tmp_path / artifact.PROMPTS_FILE).read_text()
    (tmp_path / artifact.TRUTHS_FILE).unlink()
    assert artifact.read_prompts(tmp_path) == PROMPTS
    with pytest.raises(ArtifactError, match="truths.json"):
        artifact.read_truths(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"schema_version": 99, "splits": {}, "truths": {}}',
        '{"schema_version": 1, "splits": {"a": [{"x": 1}]}, "truths": {"a": {"x": 1}}}',
    ],
)
def test_damaged_artifacts_are_refused(tmp_path: Path, content: str) -> None:
    for name in (artifact.PROMPTS_FILE, artifact.TRUTHS_FILE):
        (tmp_path / name).write_text(content)
    with pytest.raises(ArtifactError, match="PreparePrompts"):
        artifact.read_prompts(tmp_path)
    with pytest.raises(ArtifactError, match="PreparePrompts"):
        artifact.read_truths(tmp_path)
