"""Questions on one picture: what is asked is true of its pixels, told by counting them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.snapshots import NOTHING, KnownObject
from data.rooms.teacher_questions import (
    COLORS,
    KINDS,
    QUERY_LABELS,
    VISIBLE_SHARE,
    PictureObjects,
    ViewQuery,
    sample_view_query,
)
from data.types import Array
from tests.support.worlds.nano_world import office

SIDE = 32
LEAST = 4  # 32 * 32 * 0.4 % is 4.0 pixels and something; so 5 show, 1 to 4 are in between.
EVEN = dict.fromkeys(QUERY_LABELS, 1.0)


def picture(pixels: list[int]) -> Array:
    """Object ids (SIDE, SIDE): each object with its number of pixels, else nothing."""
    flat = np.full(SIDE * SIDE, NOTHING, np.uint8)
    owners = np.repeat(np.arange(len(pixels)), pixels)
    flat[: len(owners)] = owners
    return flat.reshape(SIDE, SIDE)


def thing(label: str, color: str = "", more: tuple[str, ...] = (), host: int = -1) -> KnownObject:
    return KnownObject(label, color, tuple(sorted({*more, color} - {""})), host)


def ask_many(
    ids: Array, known: list[KnownObject], times: int = 400, seed: int = 0
) -> list[ViewQuery]:
    viewer, rng = PictureObjects(ids, known, EVEN), np.random.default_rng(seed)
    return [sample_view_query(viewer, rng) for _ in range(times)]


def could_answer(query: ViewQuery, known: list[KnownObject], index: int) -> bool:
    """Whether somebody might call this object an answer."""
    item = known[index]
    host = known[item.host].label if item.host >= 0 else ""
    match query.kind:
        case "color":
            return item.label == query.label and query.color in item.all_colors
        case "on":
            return item.label == query.label and host == query.other
        case "everything":
            return host == query.other
        case "both":
            return item.label in (query.label, query.other)
    return item.label == query.label


def check_true(query: ViewQuery, ids: Array, known: list[KnownObject]) -> None:
    """The law of all queries, from pixels alone."""
    count = [int((ids == index).sum()) for index in range(len(known))]
    least = VISIBLE_SHARE * ids.size

    def covered(label: str) -> int:
        return sum(count[i] for i, item in enumerate(known) if item.label == label)

    answers = [i for i in range(len(known)) if could_answer(query, known, i) and count[i]]
    assert sorted(query.targets) == answers
    assert not answers or sum(count[i] for i in answers) >= least
    if query.kind != "name":
        assert query.label not in STRUCTURE or query.kind in ("on", "everything")
    if query.kind == "color":
        assert query.color in COLORS
        assert {known[i].color for i in answers} <= {query.color}
        alike = [i for i, k in enumerate(known) if k.label == query.label and count[i]]
        assert alike and covered(query.label) >= least
        assert answers or all(known[i].all_colors for i in alike)
    if query.kind == "need":
        rival = {"table": "desk", "desk": "table"}.get(query.label, "")
        assert covered(rival) == 0
    if query.kind in ("on", "everything"):
        assert covered(query.other) >= least
    if query.kind == "both":
        assert query.label != query.other
        assert min(covered(query.label), covered(query.other)) >= least
    if query.kind in ("both", "everything"):
        assert answers


LABEL_POOL = ("table", "desk", "chair", "monitor", "wall", "lamp")
COLOR_POOL = ("red", "blue", "white", "")


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Array, list[KnownObject]]:
    """Pictures whose objects show a lot, hardly or not at all."""
    count = draw(st.integers(0, 9))
    known = []
    for index in range(count):
        host = draw(st.one_of(st.just(-1), st.integers(0, count - 1)))
        known.append(
            thing(
                draw(st.sampled_from(LABEL_POOL)),
                draw(st.sampled_from(COLOR_POOL)),
                tuple(draw(st.sets(st.sampled_from(COLOR_POOL[:3]), max_size=1))),
                -1 if host == index else host,
            )
        )
    return picture([draw(st.sampled_from((0, 0, 2, 3, 4, 5, 9, 60))) for _ in known]), known


@settings(max_examples=100)
@given(scenes(), st.integers(0, 10**6))
def test_whatever_is_asked_is_true(scene: tuple[Array, list[KnownObject]], seed: int) -> None:
    for query in ask_many(*scene, times=40, seed=seed):
        check_true(query, *scene)


def test_questions_on_a_real_room_are_true_and_of_every_kind() -> None:
    pictures = office()
    (known,) = pictures.rooms
    asked = []
    for ids in pictures.object_ids:
        for query in ask_many(ids, list(known), times=250):
            check_true(query, ids, list(known))
            asked.append(query)
    assert {query.kind for query in asked} == set(KINDS)
    absent = np.mean([not query.targets for query in asked])
    assert 0.3 < absent < 0.6


def test_a_picture_of_nothing_has_only_absent_things() -> None:
    known = [thing("table", "red"), thing("lamp", "blue", host=0)]
    for query in ask_many(picture([0, 0]), known):
        assert query.targets == ()
    for query in ask_many(picture([]), []):
        assert query.targets == () and query.kind in (
            "name",
            "need",
            "all",
            "relation",
            "stranger",
        )


def test_what_hardly_shows_is_not_asked_about() -> None:
    assert LEAST <= VISIBLE_SHARE * SIDE * SIDE < LEAST + 1
    known = [thing("bed", "red"), thing("lamp", "blue")]
    asked = ask_many(picture([200, LEAST]), known)
    assert all("lamp" != query.label and "lamp" not in query.name for query in asked)
    asked = ask_many(picture([200, LEAST + 1]), known)
    assert {query.targets for query in asked if query.label == "lamp"} >= {(1,)}


def test_parts_of_an_answer_count_together() -> None:
    # Three chairs of two pixels each show, though none would alone; the hidden one is no target.
    known = [thing("chair", "red") for _ in range(4)]
    named = [q for q in ask_many(picture([2, 2, 0, 2]), known) if q.kind in ("name", "all")]
    assert {q.targets for q in named if q.label == "chair"} == {(0, 1, 3)}


def test_a_colour_that_might_be_meant_otherwise_is_not_asked_for() -> None:
    # The second chair is white with red parts: "red chair" may mean either.
    known = [thing("chair", "red"), thing("chair", "white", ("red",))]
    asked = [q for q in ask_many(picture([50, 50]), known) if q.kind == "color"]
    assert {q.color for q in asked if q.targets} == {"white"}
    assert {q.color for q in asked if not q.targets} == set(COLORS) - {"red", "white"}
    out_of_view = [q for q in ask_many(picture([50, 0]), known) if q.kind == "color"]
    assert {(q.color, q.targets) for q in out_of_view if q.targets} == {("red", (0,))}
    assert {q.color for q in out_of_view if not q.targets} == set(COLORS) - {"red"}


def test_no_colour_is_called_absent_where_one_is_unclear() -> None:
    known = [thing("chair", "red"), thing("chair")]
    asked = [q for q in ask_many(picture([50, 50]), known) if q.kind == "color"]
    assert {(q.color, q.targets) for q in asked} == {("red", (0,))}


@pytest.mark.parametrize("label, rival", [("table", "desk"), ("desk", "table")])
def test_tables_and_desks_are_rivals_by_use_only(label: str, rival: str) -> None:
    known = [thing(label), thing(rival)]
    for pixels in ([50, 50], [50, 1], [0, 50]):
        asked = ask_many(picture(pixels), known, times=800)
        assert not [q for q in asked if q.kind == "need" and q.label == label]
        assert [q for q in asked if q.kind == "name" and q.label == label]
    alone = ask_many(picture([50, 0]), known, times=800)
    assert [q for q in alone if q.kind == "need" and q.label == label]


def test_what_stands_on_things_is_told_by_its_host() -> None:
    known = [thing("desk"), thing("table"), thing("lamp", host=0), thing("monitor", host=1)]
    asked = ask_many(picture([50, 50, 20, 30]), known, times=1500)
    on = {(q.label, q.other): q.targets for q in asked if q.kind == "on"}
    assert on == {("lamp", "desk"): (2,), ("monitor", "table"): (3,)}
    upon = {q.name: q.targets for q in asked if q.kind == "everything"}
    assert upon == {"things on the desk": (2,), "things on the table": (3,)}
    hidden = ask_many(picture([50, 3, 0, 30]), known, times=1500)
    on = {(q.label, q.other): q.targets for q in hidden if q.kind == "on"}
    assert on == {("lamp", "desk"): ()}


def test_rare_labels_are_asked_for_as_their_weights_say() -> None:
    known = [thing("bed"), thing("sofa")]
    weights = {**EVEN, "bed": 9.0}
    viewer, rng = PictureObjects(picture([50, 50]), known, weights), np.random.default_rng(1)
    picked = [viewer.pick_shown(rng) for _ in range(2000)]
    assert abs(picked.count("bed") / len(picked) - 0.9) < 0.03
    assert set(LABELS) - {"bed", "sofa"} <= set(viewer.absent)
