"""What LISA-nano is asked while it learns: never the words it will be examined in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any, cast

import numpy as np
import pytest
import yaml

from data.rooms.catalog import LABELS
from data.rooms.teacher_questions import KINDS, QUERY_LABELS, ViewQuery
from data.rooms.teacher_sentences import any_name, demo_sentence, load_phrases, sentence_of
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural

DEMO = {
    "name": [REFERRING["name"]],
    "color": [REFERRING["color"]],
    "on": [REFERRING["on"]],
    "all": [MULTIPLE["all"]],
    "everything": [MULTIPLE["on"]],
    "both": [MULTIPLE["and"]],
    "relation": list(SPATIAL.values()),
}
ALL_WORDINGS = [wording for group in DEMO.values() for wording in group]
ALL_WORDINGS += [need.wording for need in NEEDS]


class EveryChoice:
    """In the place of a generator: goes through all that could have been drawn, one by one."""

    _UNIFORM = (0.0, 0.2, 0.5, 0.7, 0.99)

    def __init__(self) -> None:
        self._path: list[list[int]] = []
        self._depth = 0

    def integers(self, count: int) -> int:
        if self._depth == len(self._path):
            self._path.append([0, count])
        choice, _ = self._path[self._depth]
        self._depth += 1
        return choice

    def random(self) -> float:
        return self._UNIFORM[self.integers(len(self._UNIFORM))]

    def next(self) -> bool:
        """Go on to the next combination; False after the last."""
        self._depth = 0
        while self._path and self._path[-1][0] + 1 == self._path[-1][1]:
            self._path.pop()
        if self._path:
            self._path[-1][0] += 1
        return bool(self._path)


def everything(speak: Callable[[np.random.Generator], str]) -> Iterator[str]:
    """All that ``speak`` could say."""
    choices = EveryChoice()
    while True:
        yield speak(cast(np.random.Generator, choices))
        if not choices.next():
            return


def words(text: str) -> str:
    """Lower-case words with one space around each."""
    return f" {' '.join(re.findall(r'[a-z]+', text.lower()))} "


def pattern(template: str) -> str:
    """A regular expression of a template's words, any words in its slots."""
    parts = re.split(r"\{\w+\}", template)
    return "( [a-z ]+)".join(words(part).rstrip() for part in parts) + " "


def any_of(templates: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern(template)})" for template in templates))


HELD_OUT = any_of([text for wording in ALL_WORDINGS for text in wording.held_out])


def query(kind: str, label: str) -> ViewQuery:
    return ViewQuery(kind, label, (0,), "purple" if kind == "color" else "", "bookshelf")


def queries() -> list[ViewQuery]:
    """One of every kind and label that can be asked."""
    asked = [query("name", label) for label in QUERY_LABELS]
    kinds = [kind for kind in KINDS if kind not in ("name", "stranger")]
    return asked + [query(kind, label) for kind in kinds for label in LABELS]


def test_the_filter_knows_held_out_words_when_it_reads_them() -> None:
    generator = np.random.default_rng(0)
    for one in queries():
        said = demo_sentence(generator, one, held_out=True)
        assert HELD_OUT.search(words(f"well, {said.upper()}")), said


def test_nothing_that_can_be_said_is_held_out() -> None:
    for one in queries():
        for said in everything(lambda rng: sentence_of(rng, one)):
            assert not HELD_OUT.search(words(said)), said
            assert "{" not in said and "}" not in said and said == said.strip() != ""


def test_no_phrase_of_the_corpus_is_held_out() -> None:
    text = resources.files("data.rooms").joinpath("phrases.yaml").read_text(encoding="utf-8")
    tables: dict[str, dict[str, list[str]]] = yaml.safe_load(text)
    for label, phrases in ((k, v) for table in tables.values() for k, v in table.items()):
        for phrase in phrases:
            assert not HELD_OUT.search(words(phrase)), (label, phrase)


@pytest.mark.parametrize("part", ["names", "verbs", "situations", "descriptions"])
def test_every_label_has_phrases_of_its_own(part: str) -> None:
    owner: dict[str, str] = {}
    for label in LABELS:
        phrases: tuple[str, ...] = getattr(load_phrases()[label], part)
        assert len(phrases) >= 4, label
        for phrase in phrases:
            assert owner.setdefault(words(phrase), label) == label, phrase


def test_another_name_is_no_other_label() -> None:
    for label in QUERY_LABELS:
        names = set(everything(lambda rng: any_name(rng, label)))
        assert label in names
        assert names.isdisjoint(set(QUERY_LABELS) - {label})


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"stranger"}))
def test_all_that_a_query_names_is_said(kind: str) -> None:
    one = query(kind, "potted plant")
    called = ["potted plant", *load_phrases()["potted plant"].names]
    for said in everything(lambda rng: sentence_of(rng, one)):
        if kind in ("name", "on", "color", "all", "both", "relation"):
            assert any(name in said for name in called), said
        if kind in ("on", "everything", "both"):
            assert "bookshelf" in said, said
        assert ("purple" in said) == (kind == "color"), said


def _filled(wording: Wording, held_out: bool, one: ViewQuery) -> set[str]:
    slots: dict[str, Any] = {"name": one.label, "names": plural(one.label), "color": one.color}
    slots |= {"host": one.other, "anchor": one.other, "other": one.other, "count": "two"}
    return {text.format(**slots) for text in (wording.held_out if held_out else wording.train)}


@pytest.mark.parametrize("held_out", [False, True])
def test_the_demo_asks_in_the_words_of_one_side_only(held_out: bool) -> None:
    needs = {need.labels[0]: [need.wording] for need in NEEDS}
    for one in queries():
        wordings = needs[one.label] if one.kind == "need" else DEMO[one.kind]
        expected = {text for wording in wordings for text in _filled(wording, held_out, one)}
        assert set(everything(lambda rng: demo_sentence(rng, one, held_out))) == expected
