"""Trees of queries on disk, and the phrases that are asked because of them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from data.artifacts import store
from data.artifacts.prompts import TREES_FILE, read_trees, write_trees
from data.errors import ArtifactError
from data.types import Prompt
from pipeline.steps.questions import Questions
from stages.relations.parse import parse

SENTENCES = {
    "a_0000": "the lamp on the nightstand",
    "a_0001": "the nightstand",
    "b_0000": "the second chair from the left when you face the bed",
    "b_0001": "the bed",
}


def trees() -> dict[str, Any]:
    return {key: tree for key, text in SENTENCES.items() if (tree := parse(text)) is not None}


def test_trees_are_read_as_written(tmp_path: Path) -> None:
    write_trees(tmp_path, trees())
    (tmp_path / store.METADATA).write_text("{}")
    assert read_trees(tmp_path) == trees() and sorted(trees()) == ["a_0000", "b_0000"]
    path = tmp_path / TREES_FILE
    content = json.loads(path.read_text())
    content["trees"]["a_0000"]["relations"][0]["name"] = "astride"
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="Run ParseQueries again"):
        read_trees(tmp_path)


def test_phrases_are_asked_behind_queries_and_bank_and_counted() -> None:
    dataset = cast(
        Any,
        SimpleNamespace(scenes=lambda: ("a", "b"), split_of=lambda name: "val", places={}),
    )
    prompts = [Prompt(key, key[0], text, "t") for key, text in SENTENCES.items()]
    questions = Questions(dataset, {"val": prompts}, {}, ["lamp", "wall"], trees())
    asked = {name: [prompt.text for prompt in questions.asked(name)] for name in "ab"}
    # "the lamp" is of the bank, "the nightstand" and "the bed" are queries themselves.
    assert asked["a"] == [*list(SENTENCES.values())[:2], "the lamp", "the wall"]
    assert asked["b"] == [*list(SENTENCES.values())[2:], "the lamp", "the wall", "the chair"]
    assert questions.counts() == {name: len(texts) for name, texts in asked.items()}
    ids = [prompt.prompt_id for prompt in questions.asked("b")]
    related = questions.related("b", ids)
    assert list(related.trees) == [0] and ids[related.row_of("chair")] == "b_atom_000"
    without = Questions(dataset, {"val": prompts}, {}, ["lamp", "wall"])
    assert without.counts() == {"a": 4, "b": 4} and not without.related("b", ids[:4]).trees
