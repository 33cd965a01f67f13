"""Trees solved in rooms of boxes, where a person sees what is meant."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.queries.relation_trees import as_asked
from data.types import Array
from stages.configs import RelationsConfig
from stages.relations.by_words import Asking, Told, explained, resolve
from stages.relations.instances import RoomSpace, turn_of
from stages.relations.parse import parse, parse_all
from stages.relations.solve import Answer, Solution, solve
from tests.support.worlds.boxes import Box, BoxRoom

# x from 0 to 5, y from 0 to 4. The bed stands at the wall y = 4, the desk at the wall y = 0.
THINGS: dict[str, list[Box]] = {
    "bed": [(1.5, 2.0, 0, 1.6, 2.0, 0.5)],
    "nightstand": [(0.9, 3.55, 0, 0.45, 0.45, 0.5), (3.3, 3.55, 0, 0.45, 0.45, 0.5)],
    "lamp": [(1.0, 3.65, 0.5, 0.25, 0.25, 0.4), (4.0, 0.1, 0.75, 0.25, 0.25, 0.5)],
    "desk": [(3.2, 0.0, 0, 1.4, 0.7, 0.75)],
    "chair": [
        (3.6, 0.75, 0, 0.45, 0.45, 0.9),
        (0.4, 0.3, 0, 0.45, 0.45, 0.9),
        (0.05, 1.8, 0, 0.45, 0.45, 1.1),
    ],
    "picture": [(2.0, 3.96, 1.5, 0.6, 0.04, 0.5), (0.0, 0.9, 1.2, 0.04, 1.0, 0.8)],
    "trash bin": [(4.7, 3.7, 0, 0.28, 0.28, 0.35), (2.4, 0.3, 0, 0.28, 0.28, 0.35)],
    "box": [(3.8, 0.2, 0, 0.3, 0.3, 0.25), (2.2, 1.3, 0, 0.3, 0.3, 0.25)],
}
# What each sentence means, as places in the lists above; "wall" 0 is y = 0, 1 is x = 5, ...
MEANT: dict[str, tuple[str, tuple[int, ...]]] = {
    "the lamp on the nightstand": ("lamp", (0,)),
    "the lamp on the desk": ("lamp", (1,)),
    "the lamp that is not on the desk": ("lamp", (0,)),
    "the chair at the desk": ("chair", (0,)),
    "the chair closest to the desk": ("chair", (0,)),
    "the chair farthest from the desk": ("chair", (2,)),
    "the tallest chair": ("chair", (2,)),
    "the largest picture": ("picture", (1,)),
    "the smallest picture": ("picture", (0,)),
    "the picture above the bed": ("picture", (0,)),
    "the box under the desk": ("box", (0,)),
    "the box that isn't under the desk": ("box", (1,)),
    "the trash bin in the corner": ("trash bin", (0,)),
    "the trash bin between the desk and the chair": ("trash bin", (1,)),
    "the wall closest to the desk": ("wall", (0,)),
    "the wall farthest from the bed": ("wall", (0,)),
    "the chairs that are not at the desk": ("chair", (1, 2)),
    "the two chairs farthest from the desk": ("chair", (1, 2)),
    "the nightstand closest to the trash bin in the corner": ("nightstand", (1,)),
    "the lamp on the nightstand next to the bed": ("lamp", (0,)),
    # Who faces the bed looks along y, so right is along x.
    "when you face the bed, the nightstand to the right of the bed": ("nightstand", (1,)),
    "facing the bed, the nightstand on the left of it": ("nightstand", (0,)),
    # Who faces the desk looks against y: right is against x.
    "when facing the desk, the leftmost chair": ("chair", (0,)),
    "the second chair from the left when you are facing the bed": ("chair", (1,)),
    "the chair in front of the desk": ("chair", (0,)),
}


def solved(room: BoxRoom, sentence: str) -> Solution | None:
    tree = parse(sentence)
    if tree is None:
        return None
    answers = {head: room.answer(head) for head in tree.heads()}
    return solve(tree, answers, RoomSpace(room.scene))


@pytest.fixture(
    scope="module", params=[(0.0, (0, 0, 0)), (33.0, (20, -7, 1.5)), (200.0, (0, 9, 0))]
)
def room(request: pytest.FixtureRequest) -> BoxRoom:
    return BoxRoom(THINGS, *request.param)


@pytest.mark.parametrize("sentence", MEANT)
def test_what_is_meant_is_found(room: BoxRoom, sentence: str) -> None:
    head, places = MEANT[sentence]
    found = solved(room, sentence)
    assert found is not None
    wanted = [room.superpoints[head][place] for place in places]
    assert np.flatnonzero(found.mask).tolist() == wanted, [
        (c.score, c.relations) for c in found.candidates
    ]


def test_of_two_that_fit_alike_the_choice_is_not_clear(room: BoxRoom) -> None:
    found, clear = (
        solved(room, f"the picture {rest}") for rest in ("against the wall", "above the bed")
    )
    assert found is not None and clear is not None
    assert found.clarity == pytest.approx(0.5, abs=0.05) and clear.clarity > 0.9


def test_the_frame_of_a_room_is_that_of_its_walls(room: BoxRoom) -> None:
    space = RoomSpace(room.scene)
    assert sorted((space.high - space.low).tolist()) == pytest.approx([4, 5], abs=0.1)
    bed = space.instances("bed", room.answer("bed").mask, np.ones(room.count))[0]
    own = room.scene.cloud.points[room.scene.superpoint_ids == room.superpoints["bed"][0]]
    middle = (own.min(axis=0) + own.max(axis=0)) / 2
    assert np.allclose(space.in_scan(bed.centre)[2], middle[2], atol=0.05)
    assert np.allclose(space.in_scan(bed.centre)[:2], own[:, :2].mean(axis=0), atol=0.1)


def test_turns_lay_rectangles_along_the_axes() -> None:
    sides = np.array([(0, 0), (3, 0), (3, 1), (0, 1)], float)
    for degrees in (0, 17, 44, 46, 90, 133):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = sides @ np.array([[c, s], [-s, c]])
        laid = turned @ turn_of(turned)
        assert sorted(np.ptp(laid, axis=0).tolist()) == pytest.approx([1, 3], abs=1e-4)
    assert np.array_equal(turn_of(np.zeros((5, 2))), np.eye(2))


def test_walls_are_parted_by_planes_and_touching_parts_are_one_thing(room: BoxRoom) -> None:
    space = RoomSpace(room.scene)
    ones = np.ones(room.count)
    walls = space.instances("wall", room.answer("wall").mask, ones)
    assert sorted(len(each.superpoints) for each in walls) == [1, 1, 1, 1]
    # Asked as a thing that is no wall, what touches hangs together.
    assert len(space.instances("room divider", room.answer("wall").mask, ones)) == 1
    assert len(space.instances("chair", room.answer("chair").mask, ones)) == 3
    assert space.instances("chair", np.zeros(room.count, bool), ones) == []


def test_crumbs_and_doubtful_pieces_are_no_things(room: BoxRoom) -> None:
    space = RoomSpace(room.scene)
    mask = room.answer("bed").mask | room.answer("lamp").mask
    (bed,) = space.instances("bed", mask, np.ones(room.count))
    assert bed.superpoints.tolist() == room.superpoints["bed"]
    probs = np.ones(room.count)
    probs[room.superpoints["chair"][0]] = 0.2
    found = space.instances("chair", room.answer("chair").mask, probs)
    assert [each.superpoints[0] for each in found] == room.superpoints["chair"][:0:-1]


def test_a_phrase_without_an_answer_leaves_the_sentence_alone(room: BoxRoom) -> None:
    tree = parse("the lamp on the nightstand")
    assert tree is not None
    none = Answer(np.zeros(room.count, bool), np.zeros(room.count))
    answers = {"lamp": room.answer("lamp"), "nightstand": none}
    assert solve(tree, answers, RoomSpace(room.scene)) is None


def told(room: BoxRoom, asking: Asking) -> Told:
    """Answer sentences with both lamps, and phrases with what they name."""
    rows = [room.answer("lamp").probs] * asking.count
    rows += [room.answer(text.removeprefix("the ")).probs for text in asking.texts[asking.count :]]
    probs = 0.8 * np.stack(rows).astype(np.float32)
    certain = np.full((2, len(rows)), 0.5, np.float32)
    certain[:, asking.count :] = 0.9
    return Told(probs, np.full(len(rows), 0.5, np.float32), certain)


def test_sentences_by_words_are_resolved_or_left_as_they_are(room: BoxRoom) -> None:
    sentences = ["the lamp on the desk", "the lamp", "the lamp on the nightstand"]
    asking = Asking.of(sentences, [parse(text) for text in sentences])
    assert asking.texts == (*sentences, "the lamp", "the desk", "the nightstand")
    space, given = RoomSpace(room.scene), told(room, asking)
    found, solutions = resolve(asking, given, space)
    masks = found.probs >= found.thresholds[:, None]
    first, second = room.superpoints["lamp"]
    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[second], [first, second], [first]]
    assert found.certain[0].tolist() == pytest.approx([0.9, 0.5, 0.9])
    assert solutions[1] is None and solutions[0] is not None
    assert found.certain[1, 0] == pytest.approx(0.9 * solutions[0].clarity)
    tree = asking.trees[0]
    assert tree is not None
    lines = explained(tree, solutions[0], space)
    assert lines[0] == "read as: lamp on(desk)" and lines[1].startswith("1. chosen: lamp at (")
    assert "on 0." in lines[1] or "on 1." in lines[1]
    off = Asking.of(sentences, parse_all(sentences, RelationsConfig(mode="off")))
    assert off.texts == tuple(sentences) and not off.relates


def test_a_refused_phrase_leaves_the_sentence_alone(room: BoxRoom) -> None:
    asking = Asking.of(["the lamp on the desk"], [parse("the lamp on the desk")])
    given = told(room, asking)
    limits = given.thresholds.copy()
    limits[asking.related().row_of("desk")] = 2
    found, (solution,) = resolve(asking, replace(given, thresholds=limits), RoomSpace(room.scene))
    assert solution is None
    assert np.array_equal(found.probs[0], given.probs[0])
    assert as_asked("desk") == "the desk"


def test_a_thing_has_no_relation_to_itself(room: BoxRoom) -> None:
    """The chair closest to a chair is none that it is compared with."""
    found = solved(room, "the chair closest to the chair")
    assert found is not None and len(found.candidates) == 3
    chosen: Array = np.flatnonzero(found.mask)
    assert len(chosen) == 1
