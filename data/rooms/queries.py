"""Sample unambiguous queries about a room from facts of its geometry, and write their records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.clutter import ALSO_MEETS, CLUTTER_LABELS
from data.rooms.room import Room
from data.rooms.scan import RoomScan
from data.rooms.shapes import PLAIN_COLORS
from data.rooms.wordings import (
    MULTIPLE,
    NEEDS,
    REFERRING,
    ROOM_WORDS,
    SPATIAL,
    Need,
    Wording,
    plural,
)
from data.types import Array

_MAIN_SHARE = 0.6
_MINOR_SHARE = 0.12


@dataclass(frozen=True, eq=False)
class Fact:
    """One annotated object of a room.

    ``color`` is its unambiguous colour or ""; ``all_colors`` are all colours that people might
    call it; ``points`` (n, 3) are its vertices in the world; ``volume`` (cubic metres) is that of
    its box; ``bottom`` and ``top`` (metres) are its lowest and highest point above the floor;
    ``host`` is the object id of the object it stands on (0: none); ``views`` (number of views,)
    int counts its pixels in each view; ``is_held`` tells whether the scan holds enough of it to
    ask for it.
    """

    object_id: int
    label: str
    color: str
    all_colors: frozenset[str]
    points: Array
    volume: float
    bottom: float
    top: float
    host: int
    views: Array
    is_held: bool = True


def color_name(rgb: Array) -> str:
    """Name a colour (3,) in 0..255; "" where people would not agree on a name."""
    r, g, b = (float(v) / 255 for v in rgb)
    value, least = max(r, g, b), min(r, g, b)
    chroma = value - least
    if value < 0.19:
        return "black"
    saturation = chroma / value
    if saturation < 0.13:
        return "white" if value > 0.7 else "grey" if 0.27 < value < 0.6 else ""
    if value == r:
        hue = 60 * ((g - b) / chroma) % 360
    elif value == g:
        hue = 60 * ((b - r) / chroma) + 120
    else:
        hue = 60 * ((r - g) / chroma) + 240
    if 322 < hue < 350 and 0.28 < saturation < 0.6 and value > 0.5:
        return "pink"
    if saturation < 0.42:
        return ""
    if 17 < hue < 36 and value < 0.46:
        return "brown"
    if value < 0.28:
        return ""
    bands = (
        ("red", 351, 371),
        ("orange", 24, 36),
        ("yellow", 44, 62),
        ("green", 95, 165),
        ("blue", 208, 240),
        ("purple", 262, 300),
    )
    for name, low, high in bands:
        if low <= hue <= high or low <= hue + 360 <= high:
            return name if name != "orange" or value > 0.58 else ""
    return ""


def gather_facts(room: Room, scan: RoomScan, pixels: Sequence[Array]) -> list[Fact]:
    """Gather the facts of all objects, in file order.

    ``pixels[v][k]`` is the number of pixels of object k in view v.
    """
    object_id = {group.index: group.object_id for group in scan.groups}
    counts = np.stack(list(pixels))
    floor = float(room.from_room[2, 3])
    facts = []
    for group in scan.groups:
        item = room.objects[group.index]
        if len(group.vertex_ids) == 0:
            continue
        own = scan.owners == group.index
        main, all_colors = nominal_colors(room, group.index)
        seen_color = color_name(np.median(scan.colors[own], axis=0))
        points = scan.vertices[group.vertex_ids].astype(np.float64)
        facts.append(
            Fact(
                group.object_id,
                group.label,
                main if main == seen_color else "",
                frozenset({*all_colors, seen_color} - {""}),
                points,
                float(np.prod(group.lengths)),
                float(points[:, 2].min()) - floor,
                float(points[:, 2].max()) - floor,
                object_id.get(item.support, 0),
                counts[:, group.index],
            )
        )
    return facts


def nominal_colors(room: Room, index: int) -> tuple[str, set[str]]:
    """Return the colour of most of an object's surface ("" if none), and all prominent colours."""
    mesh = room.mesh
    textures = mesh.vertex_textures[mesh.vertex_objects == index]
    share: dict[str, float] = {}
    for texture, count in zip(*np.unique(textures, return_counts=True)):
        name = room.textures.textures[texture].color
        share[name] = share.get(name, 0.0) + count / len(textures)
    if not share:
        return "", set()
    main = max(sorted(share), key=lambda name: share[name])
    prominent = {name for name, part in share.items() if part > _MINOR_SHARE}
    return (main if share[main] >= _MAIN_SHARE else ""), prominent


class Distances:
    """Computes smallest distances between the points of objects; keeps one k-d tree per object."""

    def __init__(self) -> None:
        self._trees: dict[int, cKDTree] = {}

    def between(self, first: Fact, second: Fact) -> float:
        """Return the smallest distance (metres) between the points of two objects."""
        few, many = sorted((first, second), key=lambda fact: len(fact.points))
        if many.object_id not in self._trees:
            self._trees[many.object_id] = cKDTree(many.points)
        tree = self._trees[many.object_id]
        bound = float(tree.query(few.points[::40])[0].min())
        return min(bound, float(tree.query(few.points, distance_upper_bound=bound)[0].min()))


Slots = tuple[tuple[str, str], ...]
CLEAR_DISTANCE = 0.35
CLEAR_RATIO = 1.25
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_SEEN_SHARE = 0.0006
_ANCHORS = 5


@dataclass(frozen=True)
class Question:
    """A query before it has words: ``slots`` (name, value) fill a template of ``wording``."""

    task: str
    targets: tuple[int, ...]
    name: str
    wording: Wording
    slots: Slots = ()


class QuestionFinder:
    """Finds, for each task, every query that is true and unambiguous in a room.

    Small things (``data.rooms.clutter``) are never asked for. What they might be an answer to, too,
    is not asked in a room that has them.
    """

    def __init__(self, facts: Sequence[Fact], num_pixels: int, rng: np.random.Generator) -> None:
        small = [fact for fact in facts if fact.label in CLUTTER_LABELS]
        self._littered = {fact.host for fact in small}
        self._met = {label for fact in small for label in ALSO_MEETS.get(fact.label, ())}
        asked = [fact for fact in facts if fact.label not in CLUTTER_LABELS]
        self.facts = {fact.object_id: fact for fact in asked}
        self.rng = rng
        self.by_label: dict[str, list[Fact]] = {}
        for fact in asked:
            self.by_label.setdefault(fact.label, []).append(fact)
        least = _SEEN_SHARE * num_pixels
        self._visible = {f.object_id for f in asked if f.is_held and (f.views >= least).sum() >= 2}

    def single(self, label: str) -> bool:
        """Whether the room has exactly one object of a label."""
        return len(self.by_label.get(label, ())) == 1

    def shown(self, targets: Sequence[int]) -> bool:
        """Whether the scan holds every target, and two views at least show enough pixels of it."""
        return all(target in self._visible for target in targets)

    def referring(self) -> Iterator[Question]:
        """Yield queries for one object: by name, by name and colour, or by its support."""
        for label, facts in self.by_label.items():
            for fact in facts:
                slots = (("name", label),)
                if len(facts) == 1:
                    yield Question("referring", (fact.object_id,), label, REFERRING["name"], slots)
                same_color = [f for f in facts if fact.color in f.all_colors]
                if fact.color and len(same_color) == 1 and label not in STRUCTURE:
                    more_slots = (*slots, ("color", fact.color))
                    yield Question(
                        "referring", (fact.object_id,), label, REFERRING["color"], more_slots
                    )
                if fact.host:
                    host = self.facts[fact.host].label
                    same_host = [f for f in facts if f.host and self.facts[f.host].label == host]
                    if len(same_host) == 1 and self.single(host):
                        more_slots = (*slots, ("host", host))
                        yield Question(
                            "referring", (fact.object_id,), label, REFERRING["on"], more_slots
                        )

    def implicit(self) -> Iterator[Question]:
        """Yield queries for all objects that meet a need."""
        for need in self._needs():
            meeting = [f for label in need.labels for f in self.by_label.get(label, ())]
            if meeting and not any(label in self.by_label for label in need.barred):
                ids = tuple(sorted(f.object_id for f in meeting))
                yield Question("implicit", ids, meeting[0].label, need.wording)

    def _needs(self) -> Iterator[Need]:
        """Yield the needs that no small thing of the room might meet."""
        yield from (need for need in NEEDS if not self._met.intersection(need.labels))

    def spatial(self) -> Iterator[Question]:
        """Yield queries for one of several objects of a label: by distance to another, or size."""
        anchors = [facts[0] for label, facts in self.by_label.items() if self.single(label)]
        anchors = [a for a in anchors if a.label not in STRUCTURE and self.shown([a.object_id])]
        chosen = self.rng.permutation(len(anchors))[:_ANCHORS]
        distances = Distances()
        for label, facts in self.by_label.items():
            if len(facts) < 2 or label in ("floor", "ceiling"):
                continue
            for anchor in (anchors[int(i)] for i in chosen):
                gaps = [distances.between(fact, anchor) for fact in facts]
                yield from self._extreme(facts, gaps, anchor)
            if label == "wall":
                continue
            standing = all(fact.bottom < 0.2 for fact in facts)
            slots = (("name", label), ("names", plural(label)))
            for kind, sizes in (
                ("largest", [f.volume for f in facts]),
                ("tallest", [f.top for f in facts]),
            ):
                order = np.argsort(sizes)[::-1]
                best, second = sizes[order[0]], sizes[order[1]]
                clear = best > 1.4 * second if kind == "largest" else best > second + 0.15
                if clear and (kind == "largest" or standing):
                    target = facts[int(order[0])].object_id
                    yield Question("spatial", (target,), label, SPATIAL[kind], slots)

    def _extreme(
        self, facts: Sequence[Fact], gaps: Sequence[float], anchor: Fact
    ) -> Iterator[Question]:
        label = facts[0].label
        order = np.argsort(gaps)
        slots = (("name", label), ("names", plural(label)), ("anchor", anchor.label))
        first, second, third, last = (gaps[int(order[i])] for i in (0, 1, -2, -1))
        if second > first + CLEAR_DISTANCE and second > CLEAR_RATIO * first:
            target = facts[int(order[0])].object_id
            yield Question("spatial", (target,), label, SPATIAL["closest"], slots)
        if last > third + CLEAR_DISTANCE and last > CLEAR_RATIO * third:
            target = facts[int(order[-1])].object_id
            yield Question("spatial", (target,), label, SPATIAL["farthest"], slots)

    def multiple(self) -> Iterator[Question]:
        """Yield queries for all objects of a label, all objects on a support, or two labels."""
        for label, facts in self.by_label.items():
            count = _NUMBERS.get(len(facts))
            if count:
                ids = tuple(sorted(f.object_id for f in facts))
                slots: Slots = (("name", label), ("names", plural(label)), ("count", count))
                yield Question("multiple", ids, label, MULTIPLE["all"], slots)
        for host in self.facts.values():
            items = [f for f in self.facts.values() if f.host == host.object_id]
            is_whole = len(items) >= 2 and host.object_id not in self._littered
            if is_whole and self.single(host.label):
                ids = tuple(sorted(f.object_id for f in items))
                slots = (("host", host.label),)
                yield Question("multiple", ids, items[0].label, MULTIPLE["on"], slots)
        lone = [label for label in self.by_label if self.single(label) and label not in STRUCTURE]
        for position, label in enumerate(lone):
            other = lone[(position + 1) % len(lone)]
            if other != label and position % 3 == 0:
                ids = tuple(sorted(self.by_label[k][0].object_id for k in (label, other)))
                slots = (("name", label), ("other", other))
                yield Question("multiple", ids, label, MULTIPLE["and"], slots)

    def absent(self) -> Iterator[Question]:
        """Yield queries for absent objects: an absent label, need, or colour of a present label."""
        for label in LABELS:
            facts = self.by_label.get(label, [])
            if not facts:
                slots: Slots = (("name", label),)
                yield Question("absent", (), label, REFERRING["name"], slots)
                color = PLAIN_COLORS[int(self.rng.integers(len(PLAIN_COLORS)))]
                more_slots = (*slots, ("color", color))
                yield Question("absent", (), label, REFERRING["color"], more_slots)
                continue
            taken_colors = {color for fact in facts for color in fact.all_colors}
            free_colors = [color for color in PLAIN_COLORS if color not in taken_colors]
            if free_colors and all(fact.color for fact in facts):
                color = free_colors[int(self.rng.integers(len(free_colors)))]
                slots = (("name", label), ("color", color))
                yield Question("absent", (), label, REFERRING["color"], slots)
        for need in self._needs():
            if not any(label in self.by_label for label in (*need.labels, *need.barred)):
                yield Question("absent", (), need.labels[0], need.wording)

    def questions(self) -> Iterator[Question]:
        """Yield questions about needs that are answered in words, met and unmet needs alike."""
        for question in (*self.implicit(), *self.absent()):
            if any(question.wording is need.wording for need in NEEDS):
                yield replace(question, wording=_only_questions(question.wording))


def _only_questions(wording: Wording) -> Wording:
    """Keep the templates that are questions; keep all of them if none is."""
    train, held_out = (
        tuple(text for text in texts if text.endswith("?")) or texts
        for texts in (wording.train, wording.held_out)
    )
    return Wording(train, held_out)


TASKS = ("referring", "implicit", "spatial", "multiple", "absent")
RECORDS_PER_TASK = {"referring": 4, "implicit": 4, "spatial": 3, "multiple": 2, "absent": 3}
NO_ANSWER = "none"
"""The correct answer in words to a question that no object answers."""
_HELD_OUT_RATE = 0.5


def sample_records(
    scene_id: str,
    split: str,
    facts: Sequence[Fact],
    view_names: Sequence[str],
    num_pixels: int,
    seed: Sequence[int],
    times: int = 1,
    extra: ExtraRecords | None = None,
) -> list[dict[str, object]]:
    """Sample a room's query records, in Instruct3D's format plus ``task``, for all five tasks.

    ``object_id`` holds ``objectId`` numbers; ``image`` names the view with the most pixels of the
    targets. Held-out wordings are used only in validation rooms. ``times`` multiplies the number
    of records, as far as the room has different queries. ``extra`` adds questions with
    ``answers``, and searches.
    """
    rng = np.random.default_rng([*seed, 5])
    finder = QuestionFinder(facts, num_pixels, rng)
    kinds: dict[str, Callable[[], Iterator[Question]]] = {
        "referring": finder.referring,
        "implicit": finder.implicit,
        "spatial": finder.spatial,
        "multiple": finder.multiple,
        "absent": finder.absent,
    }
    writer = _Writer(scene_id, split == "val", finder, view_names, rng)
    records: list[dict[str, object]] = []
    for task in TASKS:
        questions = [q for q in kinds[task]() if finder.shown(q.targets)]
        for question in _varied(questions, times * RECORDS_PER_TASK[task], rng):
            records.append(writer.record(question, task))
    if extra is not None:
        records += _extra_records(extra, finder, writer, rng)
    return records


@dataclass(frozen=True)
class ExtraRecords:
    """Numbers of further records: ``questions`` with answers, and ``searches``, in a ``kind``.

    ``kind`` is the kind of the room, which searches name.
    """

    kind: str
    questions: int
    searches: int


class _Writer:
    """Turns questions into records; half of those of validation rooms get held-out wordings."""

    def __init__(
        self,
        scene_id: str,
        is_val: bool,
        finder: QuestionFinder,
        view_names: Sequence[str],
        rng: np.random.Generator,
    ) -> None:
        self._scene_id, self._is_val, self._finder = scene_id, is_val, finder
        self._view_names, self._rng = view_names, rng

    def words(self, wording: Wording) -> str:
        """Draw one of a wording's templates."""
        words = wording.train
        if self._is_val and self._rng.random() < _HELD_OUT_RATE:
            words = wording.held_out
        return words[int(self._rng.integers(len(words)))]

    def record(self, question: Question, task: str) -> dict[str, object]:
        """Make a question's record; ``image`` is the view with the most pixels of its targets."""
        text = self.words(question.wording).format(**dict(question.slots))
        facts, targets = self._finder.facts, question.targets
        pixels = sum((facts[t].views for t in targets), np.zeros(1))
        any_view = self._rng.integers
        view = int(np.argmax(pixels)) if targets else int(any_view(len(self._view_names)))
        return {
            "scene_id": self._scene_id,
            "object_id": list(targets),
            "object_name": question.name,
            "image": self._view_names[view],
            "description": text,
            "task": task,
        }


def _extra_records(
    extra: ExtraRecords, finder: QuestionFinder, writer: _Writer, rng: np.random.Generator
) -> Iterator[dict[str, object]]:
    questions = [q for q in finder.questions() if finder.shown(q.targets)]
    for question in _varied(questions, extra.questions, rng):
        answer = question.name if question.targets else NO_ANSWER
        yield {**writer.record(question, "qa"), "answers": [answer]}
    search_questions = [
        q for q in (*finder.referring(), *finder.implicit()) if finder.shown(q.targets)
    ]
    for question in _varied(search_questions, extra.searches, rng):
        record = writer.record(question, "search")
        room = writer.words(ROOM_WORDS[extra.kind])
        yield {**record, "description": f"in {room}, {record['description']}"}


def _varied(questions: list[Question], count: int, rng: np.random.Generator) -> list[Question]:
    """Draw ``count`` questions at random, preferring names and wordings not yet drawn."""
    remaining = [questions[int(i)] for i in rng.permutation(len(questions))]
    chosen: list[Question] = []
    while remaining and len(chosen) < count:
        repetition = [
            2 * sum(q.name == c.name for c in chosen)
            + sum(q.wording == c.wording for c in chosen)
            + (q.name in STRUCTURE)
            for q in remaining
        ]
        chosen.append(remaining.pop(int(np.argmin(repetition))))
    return chosen
