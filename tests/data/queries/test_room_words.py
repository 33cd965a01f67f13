"""Which room a sentence speaks of: by hand, and for any text at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.queries.hierarchical_search import read_room_query

BEDROOM = ("the bed", "the pillow", "the nightstand")


@pytest.mark.parametrize(
    ("text", "room", "wanted", "signs"),
    [
        ("in the bedroom, where is the lamp?", "the bedroom", "where is the lamp?", BEDROOM),
        ("In the  Bedroom: the red lamp", "the Bedroom", "the red lamp", BEDROOM),
        ("the lamp in the bedroom", "the bedroom", "the lamp", BEDROOM),
        ("Where is the lamp in the bedroom?", "the bedroom", "Where is the lamp?", BEDROOM),
        (
            "in the room where people sleep, the lamp",
            "the room where people sleep",
            "the lamp",
            ("where can I sleep?",),
        ),
        ("where one can cook, the bin", "where one can cook", "the bin", ("where can I cook?",)),
        (
            "the chair in the room with the sofa",
            "the room with the sofa",
            "the chair",
            ("the sofa",),
        ),
        (
            "in the place to cook, a pan",
            "the place to cook",
            "a pan",
            ("where can I cook?",),
        ),
        ("in the room for guests, a bed", "the room for guests", "a bed", ("guests",)),
        ("in the orangery, a chair", "the orangery", "a chair", ("the orangery",)),
    ],
)
def test_the_room_is_split_from_what_is_wanted(
    text: str, room: str, wanted: str, signs: tuple[str, ...]
) -> None:
    assert read_room_query(text) == (room, wanted, signs)


@pytest.mark.parametrize(
    "text",
    [
        "where is the lamp?",
        "the milk in the refrigerator",  # No kind of room, and not called a room.
        "the lamp on the nightstand",
        "I am tired, where can I sleep?",
    ],
)
def test_a_sentence_about_no_room_stays_whole(text: str) -> None:
    assert read_room_query(text) == ("", text, ())


def test_further_kinds_may_be_named() -> None:
    told = {"orangery": ["the lemon tree"]}
    assert read_room_query("the chair in the orangery", told).signs == ("the lemon tree",)
    assert read_room_query("the chair in the orangery").room == ""


@given(st.text(max_size=60))
def test_any_text_is_read_and_something_is_wanted_of_it(text: str) -> None:
    found = read_room_query(text)
    blank = not text.split()
    assert bool(found.wanted) != blank
    assert bool(found.room) == bool(found.signs)
    for part in (found.room, found.wanted):
        assert all(word.strip("?.!,") in text for word in part.split())
