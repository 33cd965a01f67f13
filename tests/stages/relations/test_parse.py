"""Sentences and the trees that a person reads in them, written by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.relation_trees import in_words, tree_from_json, tree_to_json
from data.rooms.teacher_sentences import load_exam
from data.rooms.wordings import NEEDS
from stages.relations.parse import parse, singular

READ = {
    "the lamp on the nightstand": "lamp on(nightstand)",
    "find the lamp that is on the desk": "lamp on(desk)",
    "which lamp has been put on the nightstand?": "lamp on(nightstand)",
    "Could you please show me the black chair closest to the door?": "black chair closest(door)",
    "of all the bookshelves, the one with the longest distance to the bed": (
        "bookshelf farthest(bed)"
    ),
    "of all the windows, the one whose top is highest above the floor": "[tallest 1] window",
    "the largest picture": "[largest 1] picture",
    "find the bookshelf that reaches highest": "[tallest 1] bookshelf",
    "which wall takes up the most space?": "[largest 1] wall",
    "the book on the table next to the sofa": "book on(table near(sofa))",
    "the chair that is next to the desk and under the window": "chair near(desk) under(window)",
    "the chair next to the desk that is in front of the window": "chair near(desk) front(window)",
    "the chair between the desk and the bookshelf": "chair between(desk, bookshelf)",
    "the trash bin between the two windows": "trash bin between(window x2)",
    "second window from the left": "[left 2] window",
    "the third largest picture": "[largest 3] picture",
    "the second chair from the left when you are facing the whiteboard": (
        "[left 2] chair facing(whiteboard)"
    ),
    "facing the desk, the chair on the left of it": "chair left(desk) facing(desk)",
    "when you face the sofa, the lamp to the right of the sofa": "lamp right(sofa) facing(sofa)",
    "the two chairs at the table": "chair x2 near(table)",
    "the chairs at the table": "chair xall near(table)",
    "both pillows on the bed": "pillow x2 on(bed)",
    "the chair that is not at the desk": "chair not near(desk)",
    "the chair that isn't next to the window": "chair not near(window)",
    "the trash bin in the corner": "trash bin corner()",
    "the wardrobe in the corner of the room": "wardrobe corner()",
    "the picture above the bed": "picture above(bed)",
    "the nightstand to the right of the bed": "nightstand right(bed)",
    "the pillow on the bed closest to the door": "pillow on(bed closest(door))",
    "the bookshelf standing against the wall": "bookshelf against(wall)",
    "the leftmost window": "[left 1] window",
    "the box inside the wardrobe": "box inside(wardrobe)",
}
PLAIN = (
    "the brown table",
    "find both the sofa and the lamp",
    "everything on the desk",
    "something to put under my head",
    "the one next to the door",
    "",
    "on",
    "on the on the on",
    "where are clothes kept behind doors?",
)


@pytest.mark.parametrize("sentence", READ)
def test_sentences_are_read_as_a_person_does(sentence: str) -> None:
    tree = parse(sentence)
    assert tree is not None and in_words(tree) == READ[sentence]
    assert tree_from_json(tree_to_json(tree), "here") == tree


@pytest.mark.parametrize("sentence", PLAIN)
def test_what_relates_nothing_by_name_has_no_tree(sentence: str) -> None:
    assert parse(sentence) is None


def test_needs_and_remarks_are_left_alone() -> None:
    """One need names a relation; words of a place in others are no relation of things."""
    said = [text for need in NEEDS for text in (*need.wording.train, *need.wording.held_out)]
    read = {text: parse(text) for text in said}
    assert {text for text, tree in read.items() if tree} == {"the artwork on the wall"}
    exam = load_exam("exam")
    for group in ("no search", "letters"):
        assert not [text for text in exam.nothing[group] if parse(text)]


@given(st.text(max_size=60) | st.lists(st.sampled_from(
    "the chair on under table next to between and not second from left when facing of it".split()
), max_size=14).map(" ".join))  # fmt: skip
def test_any_text_is_read_or_left_alone(text: str) -> None:
    tree = parse(text)
    assert tree is None or (tree.relates and tree.heads())


@pytest.mark.parametrize(
    ("many", "one"),
    [
        ("chairs", "chair"),
        ("bookshelves", "bookshelf"),
        ("boxes", "box"),
        ("glass", "glass"),
        ("curtains", "curtains"),
        ("potted plants", "potted plant"),
        ("batteries", "battery"),
        ("bus", "bus"),
    ],
)
def test_singulars(many: str, one: str) -> None:
    assert singular(many) == one and singular(one) == one


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"head": ""}, "head"),
        ({"head": "a", "relations": [{"name": "near"}]}, "near takes 1 anchors, not 0"),
        ({"head": "a", "relations": [{"name": "besides", "anchors": []}]}, "name"),
        ({"head": "a", "rank": {"by": "left", "place": 0}}, "place"),
        (["a"], "the tree"),
        ({"head": "a", "colour": "red"}, "colour"),
    ],
)
def test_wrong_trees_are_told(content: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tree_from_json(content, "trees.json")
