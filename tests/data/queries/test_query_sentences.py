"""Sentences to ask: what a file of them may be, and which prompts are made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.formats import read_sentences
from stages.queries.prepare_prompts import run_sentences
from tests.support.damage import check_damaged, damaged_bytes, damaged_json


def test_lines_and_lists_are_the_same(tmp_path: Path) -> None:
    text, listed = tmp_path / "queries.txt", tmp_path / "queries.json"
    text.write_text("\n  Where can I sit? \r\nétagère\n\nWhere can I sit?\n")
    listed.write_text(json.dumps(["Where can I sit?", "étagère ", "", "étagère"]))
    assert read_sentences(text) == read_sentences(listed) == ["Where can I sit?", "étagère"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("queries.txt", b"", "empty"),
        ("queries.txt", b" \n\n", "empty"),
        ("queries.txt", b"\xff\xfe", "decode"),
        ("queries.json", b"{}", "JSON list"),
        ("queries.json", b"[]", "a sentence"),
        ("queries.json", b'["a", 3]', "sentence 1"),
        ("queries.json", b'["\\ud800"]', "sentence 0"),
        ("queries.json", b'["a"', "invalid JSON"),
    ],
)
def test_what_is_no_list_of_sentences_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_sentences(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"queries\.txt.*no such file"):
        read_sentences(tmp_path / "queries.txt")


@given(st.data())
def test_damaged_lists(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("q") / "queries.json"
    good = json.dumps(["where can I sit?", "a lamp", "what tells the time?"]).encode()
    path.write_bytes(good)
    bad = data.draw(st.one_of(damaged_json(good), damaged_bytes(good)))
    refused = check_damaged(path, bad, lambda: read_sentences(path))
    assert refused or all(isinstance(text, str) and text for text in _read_damaged(path, bad))


def _read_damaged(path: Path, bad: bytes) -> list[str]:
    path.write_bytes(bad)
    return read_sentences(path)


def test_every_sentence_is_asked_of_every_scene() -> None:
    prompts = run_sentences(
        {"train": ["a", "b"], "val": ["b", "c"]}, {"train": ["x"], "val": ["x", "y"]}
    )
    told = {s: [(p.prompt_id, p.scene_id, p.text) for p in row] for s, row in prompts.items()}
    of_x = [("x_0000", "x", "a"), ("x_0001", "x", "b"), ("x_0002", "x", "c")]
    assert told == {"train": of_x, "val": [*of_x, ("y_0000", "y", "b"), ("y_0001", "y", "c")]}
