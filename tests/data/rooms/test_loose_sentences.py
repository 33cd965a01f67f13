"""Questions put loosely still say what is asked for, and never in the words of the exam."""

from __future__ import annotations

import numpy as np
import pytest

from data.rooms.catalog import LABELS
from data.rooms.teacher_questions import COLORS, KINDS, QUERY_LABELS, ViewQuery
from data.rooms.teacher_sentences import load_phrases, loose_sentence, sentence_of
from data.rooms.wordings import plural
from tests.data.rooms.test_sentences import HELD_OUT, queries, query, words

DRAWS = 60


def drawn(one: ViewQuery, count: int = DRAWS) -> list[str]:
    """Questions for the same query."""
    rng = np.random.default_rng(4)
    return [loose_sentence(rng, one) for _ in range(count)]


def test_nothing_said_loosely_is_held_out() -> None:
    for one in queries():
        for said in drawn(one):
            assert not HELD_OUT.search(words(said)), said
            assert said == said.strip() != "" and "  " not in said and "{" not in said


@pytest.mark.parametrize("kind", ["name", "color", "on", "all", "both"])
def test_what_is_asked_for_is_said_and_no_rival_is(kind: str) -> None:
    for label in LABELS:
        one = query(kind, label)
        called = {words(name) for name in (label, plural(label), *load_phrases()[label].names)}
        asked = {one.label, plural(one.label), one.other if kind in ("on", "both") else one.label}
        own = " ".join((*called, *asked))
        # A label within another's name, such as "bed" in "bed side table", is that name's.
        rivals = [words(name) for name in QUERY_LABELS if words(name).strip() not in own]
        # "in this picture" is about the image.
        rivals = [rival for rival in rivals if rival.strip() != "picture"]
        for said in drawn(one):
            heard = words(said)
            assert any(name in heard for name in called), said
            assert not any(rival in heard for rival in rivals), said
            if kind in ("on", "both"):
                assert f" {one.other} " in heard, said
            colors = {color for color in COLORS if f" {color} " in heard}
            assert colors == ({one.color} if kind == "color" else set()), said


def test_needs_are_told_in_words_of_that_need_alone() -> None:
    for label in LABELS:
        one = query("need", label)
        rng = np.random.default_rng(1)
        plain = {w for _ in range(3000) for w in words(sentence_of(rng, one)).split()}
        for said in drawn(one):
            assert set(words(said).split()) <= plain, said


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"stranger"}))
def test_questions_differ_and_repeat_with_the_seed(kind: str) -> None:
    one = query(kind, "potted plant")
    assert drawn(one) == drawn(one)
    assert len(set(drawn(one))) > (4 if kind == "relation" else DRAWS / 3)
