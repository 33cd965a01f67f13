"""Answers in words: what is left of a teacher's sentence, exact match and token F1 by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.evaluation.answer_questions import answer_phrase, exact_match, token_f1, words


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("It is the red chair, [SEG].", "the red chair"),
        ("It is the red chair, not in this view.", "none"),
        ("Sure, it is [SEG].", ""),
        ("Sure, [SEG] .", ""),
        ("It is [SEG].", ""),
        ("Yes. The answer is a cup of tea [SEG].</s>", "a cup of tea"),
        ("There is no such object in this view.", "none"),
        ("A pan could stand on the stove.", "A pan could stand on the stove"),
        ("They are the pillows, [SEG] and [SEG].", "the pillows, and"),
        ("", ""),
    ],
)
def test_what_is_left_of_a_sentence(text: str, phrase: str) -> None:
    assert answer_phrase(text) == phrase


def test_words_are_those_of_squad() -> None:
    assert words("The Wall-Clock, an  old one!") == ["wallclock", "old", "one"]
    assert exact_match("The lamp.", ["bed", "a LAMP"])
    assert not exact_match("red lamp", ["lamp"]) and not exact_match("lamp", [])


def test_f1_counts_shared_words_and_takes_the_best_answer() -> None:
    # "red lamp" and "lamp" share one of 2 + 1 words: 2 * 1 / 3.
    assert token_f1("the red lamp", ["lamp"]) == pytest.approx(2 / 3)
    assert token_f1("lamp lamp", ["lamp"]) == pytest.approx(2 / 3)
    assert token_f1("red lamp", ["bed", "red lamp"]) == 1
    assert token_f1("", ["lamp"]) == token_f1("lamp", []) == 0
    assert token_f1("the", ["a"]) == 1


TEXTS = st.lists(st.sampled_from("red lamp bed old a".split()), max_size=5).map(" ".join)


@given(TEXTS, TEXTS)
def test_f1_is_precision_and_recall_counted_word_by_word(one: str, other: str) -> None:
    left, right = words(one), words(other)
    taken = list(right)
    shared = 0
    for word in left:
        if word in taken:
            taken.remove(word)
            shared += 1
    expected = float(left == right)
    if shared:
        precision, recall = shared / len(left), shared / len(right)
        expected = 2 * precision * recall / (precision + recall)
    assert token_f1(one, [other]) == pytest.approx(expected)
    assert token_f1(one, [other]) == token_f1(other, [one])
