"""Words of sentences, and those that a model has never met."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.vocabulary import (
    WORDS_FILE,
    read_words,
    unmet_words,
    vocabulary,
    why_nothing,
    words_of,
)


def test_unmet_words_are_told_once_in_their_order() -> None:
    met = {"where", "is", "the", "lamp", "bus", "it's", "bookshelf"}
    text = "Where is the ZEBRA, the lamp's zebra? It's 2 buses & lamps - Ärger"
    assert unmet_words(text, met) == ("zebra", "ärger")
    assert unmet_words("12 + 7 = ?", met) == ()
    assert unmet_words("", met) == ()


@given(st.lists(st.text()))
def test_all_words_of_the_vocabulary_are_met(texts: list[str]) -> None:
    words = vocabulary(texts)
    assert words == sorted(set(words)) and all(word == word.lower() for word in words)
    assert all(unmet_words(text, words) == () for text in texts)
    assert {word for text in texts for word in unmet_words(text, ())} == set(words)


def test_words_are_read_from_a_folder_of_weights(tmp_path: Path) -> None:
    assert read_words(tmp_path) is None
    (tmp_path / WORDS_FILE).write_text("lamp\ntür\n", encoding="utf-8")
    assert read_words(tmp_path) == frozenset({"lamp", "tür"})
    (tmp_path / WORDS_FILE).write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="words.txt"):
        read_words(tmp_path)


def test_why_nothing_fits_in_words() -> None:
    assert why_nothing((), ()) == ""
    assert why_nothing(("zebra", "moon"), ()) == "words never met: zebra, moon"
    both = "words never met: zebra; this scan seems to hold: bed, chair"
    assert why_nothing(("zebra",), ("bed", "chair")) == both


def test_words_have_no_digits_or_signs() -> None:
    assert words_of("don't_go 3D-scans!") == ["don't", "go", "d", "scans"]
