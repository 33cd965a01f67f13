"""Sentences to which no room has an answer name nothing that a room can hold."""

from __future__ import annotations

import numpy as np
import pytest

from data.rooms import teacher_sentences
from data.rooms.clutter import CLUTTER_LABELS
from data.rooms.teacher_questions import QUERY_LABELS, PictureObjects, sample_view_query
from data.rooms.teacher_sentences import (
    load_exam,
    load_phrases,
    load_strangers,
    loose_sentence,
    sentence_of,
    stranger_sentence,
)
from data.rooms.wordings import plural
from tests.data.rooms.test_sentences import HELD_OUT, words

NAMES = {*QUERY_LABELS, *(name for phrases in load_phrases().values() for name in phrases.names)}


def test_no_strange_noun_is_a_name_of_a_kind() -> None:
    nouns = load_strangers().nouns
    assert len(nouns) == len(set(nouns)) and all(noun == noun.lower().strip() for noun in nouns)
    known = {*NAMES, *map(plural, NAMES), *CLUTTER_LABELS}
    heads = [noun for noun in nouns if noun in known or any(noun.endswith(f" {n}") for n in known)]
    assert heads == []


def test_no_phrase_is_strange_and_known() -> None:
    strangers = load_strangers()
    for phrases in load_phrases().values():
        assert not set(phrases.verbs) & set(strangers.verbs)
        assert not set(phrases.situations) & set(strangers.situations)


def test_no_action_is_what_a_room_is_for() -> None:
    known = {verb for phrases in load_phrases().values() for verb in phrases.verbs}
    actions = load_strangers().actions
    assert len(actions) == len(set(actions)) > 500
    assert all(action == action.strip() and " " in action for action in actions)
    assert not known & set(actions)


def test_negations_name_a_kind_by_any_name_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(teacher_sentences, "_STRANGERS", {"negation": 1.0})
    rng = np.random.default_rng(5)
    drawn = [stranger_sentence(rng) for _ in range(300)]
    names = sorted({*NAMES, *map(plural, NAMES)}, key=len, reverse=True)
    named = [next((name for name in names if name in text), "") for text in drawn]
    assert all(named) and len(set(named)) > 60, "other names than labels, too"
    # The same words without the name are said of many kinds: the form refuses, not the thing.
    forms = {text.replace(name, "X") for text, name in zip(drawn, named, strict=True)}
    assert len(forms) < len(set(drawn))


def test_strange_sentences_are_sentences() -> None:
    rng = np.random.default_rng(3)
    drawn = [stranger_sentence(rng) for _ in range(2000)]
    assert len(set(drawn)) > 1000
    for said in drawn:
        assert said == said.strip() != "" and "{" not in said
        assert not HELD_OUT.search(words(said)), said


def test_a_stranger_has_no_target_and_words_of_its_own() -> None:
    empty = PictureObjects(np.zeros((10, 10), np.uint8), (), {})
    rng = np.random.default_rng(4)
    query = sample_view_query(empty, rng, {"stranger": 1.0})
    assert (query.kind, query.label, query.targets) == ("stranger", "", ())
    assert query.name == "unknown thing"
    assert all(sentence_of(rng, query) and loose_sentence(rng, query) for _ in range(50))


@pytest.mark.parametrize("name", ["exam", "tuning"])
def test_exam_and_tuning_are_kept_from_training(name: str) -> None:
    exam, strangers = load_exam(name), load_strangers()
    nothing = [text for texts in exam.nothing.values() for text in texts]
    assert len(nothing) == len(set(nothing)) >= 150
    assert not set(nothing) & {*strangers.chatter, *strangers.situations}
    assert set(exam.present) == set(load_phrases())
    for label, texts in exam.present.items():
        phrases = load_phrases()[label]
        assert not set(texts) & {*phrases.situations, *phrases.descriptions}
