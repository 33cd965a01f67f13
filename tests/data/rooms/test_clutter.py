"""Small things: where they lie, that they change no furniture, and that no query falls for them."""

from __future__ import annotations

import numpy as np
import pytest

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.clutter import ALSO_MEETS, CLUTTER_LABELS, SMALL_THINGS, scatter
from data.rooms.layout import Placed, furnish
from data.rooms.queries import Fact, QuestionFinder
from data.rooms.room import make_room
from data.rooms.shapes import Builder, overlap
from data.rooms.teacher_sentences import load_phrases
from data.rooms.wordings import NEEDS

SEED = (5, 1, 0)


def furnished(kind: str = "bedroom") -> tuple[tuple[float, float, float], list[Placed]]:
    return furnish(kind, np.random.default_rng([*SEED, 1]), 0.3)


@pytest.mark.parametrize("label", CLUTTER_LABELS)
def test_a_thing_stands_on_its_origin_and_is_small(label: str) -> None:
    for seed in range(5):
        builder = Builder(0.05, np.random.default_rng(seed))
        SMALL_THINGS[label].shape(builder)
        low, high = builder.model(label).low, builder.model(label).high
        assert 0 <= low[2] < 0.005 and 0.01 < high[2] < 0.45
        assert (high - low)[:2].max() < 0.5


def test_no_label_is_a_name_of_anything_that_is_asked_for() -> None:
    names = {name for phrases in load_phrases().values() for name in phrases.names}
    assert not set(CLUTTER_LABELS) & {*LABELS, *STRUCTURE, *names}
    needs = {label for need in NEEDS for label in need.labels}
    assert set(ALSO_MEETS) <= set(CLUTTER_LABELS)
    assert all(set(met) <= needs for met in ALSO_MEETS.values())


@pytest.mark.parametrize("kind", ["bedroom", "office", "service"])
def test_things_lie_on_something_and_apart_from_each_other(kind: str) -> None:
    size, furniture = furnished(kind)
    things = scatter(size, furniture, np.random.default_rng(2), 40, 0.3)
    assert 15 <= len(things) <= 60
    assert {thing.support >= 0 for thing in things} == {True, False}
    for number, thing in enumerate(things):
        corners = thing.body.corners()
        assert (corners >= 0).all() and (corners <= size[:2]).all()
        mates = [other for other in things[:number] if other.support == thing.support]
        if thing.support < 0:
            assert thing.z == 0
            mates += [piece for piece in furniture if piece.support < 0]
        else:
            host = furniture[thing.support]
            heights = [top.z for top in host.model.tops] + [host.model.high[2]]
            assert min(abs(thing.z - host.z - z) for z in heights) < 1e-9
            middle = np.array([thing.body.x]), np.array([thing.body.y])
            assert host.body.holds(*middle).all()
            mates += [piece for piece in furniture if piece.support == thing.support]
        assert not any(overlap(thing.body, mate.body) for mate in mates)


def test_no_things_where_none_are_asked_for_or_fit() -> None:
    size, furniture = furnished()
    assert scatter(size, furniture, np.random.default_rng(0), 0, 0.3) == []
    assert scatter((0.1, 0.1, 2.5), [], np.random.default_rng(0), 10, 0.3) == []


def test_clutter_changes_nothing_of_the_furniture() -> None:
    clean, cluttered = (make_room(SEED, "office", 0.3, clutter=count) for count in (0, 30))
    assert len(cluttered.objects) > len(clean.objects) + 10
    for one, other in zip(clean.objects, cluttered.objects):
        assert one.label == other.label and one.colors == other.colors
        assert np.array_equal(one.translation, other.translation)
        assert np.array_equal(one.low, other.low) and np.array_equal(one.high, other.high)
    small = cluttered.objects[len(clean.objects) :]
    assert {thing.label for thing in small} <= set(CLUTTER_LABELS)
    assert len(clean.placed) == len(cluttered.placed)
    assert np.array_equal(clean.from_room, cluttered.from_room)


def fact(object_id: int, label: str, host: int = 0, is_held: bool = True) -> Fact:
    points = np.array([[object_id, 0.0, 0.0]])
    seen = np.full(3, 1000)
    return Fact(object_id, label, "", frozenset(), points, 1.0, 0.0, 1.0, host, seen, is_held)


def finder(*facts: Fact) -> QuestionFinder:
    return QuestionFinder(facts, 10_000, np.random.default_rng(0))


def test_small_things_are_neither_asked_for_nor_forgotten() -> None:
    desk = [fact(1, "desk"), fact(2, "lamp", 1), fact(3, "monitor", 1)]
    tidy, littered = finder(*desk), finder(*desk, fact(4, "book", 1), fact(5, "cup"))
    assert any(q.slots == (("host", "desk"),) for q in tidy.multiple())
    for questions in (littered.referring(), littered.multiple(), littered.implicit()):
        for question in questions:
            assert not {4, 5} & set(question.targets)
            assert question.slots != (("host", "desk"),)
    named = {q.name for q in (*littered.absent(), *littered.implicit())}
    need = next(need for need in NEEDS if need.labels == ("bookshelf",))
    assert not any(q.wording is need.wording for q in littered.absent())
    assert any(q.wording is need.wording for q in tidy.absent())
    assert not named & set(CLUTTER_LABELS)


def test_what_the_scan_hardly_holds_is_neither_present_nor_absent() -> None:
    room = finder(fact(1, "sofa", is_held=False), fact(2, "chair"), fact(3, "chair", is_held=False))
    asked = [q for q in (*room.referring(), *room.implicit(), *room.multiple()) if q.targets]
    shown = [q for q in asked if room.shown(q.targets)]
    assert not any({1, 3} & set(q.targets) for q in shown)
    # Two chairs are in the room, so "the chair" would be ambiguous; the sofa is not absent.
    assert not any(q.targets == (2,) for q in shown)
    assert "sofa" not in {q.name for q in room.absent() if "color" not in dict(q.slots)}
