"""Questions about one room, each true by geometry and free of ambiguity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.facts import Distances, Fact
from data.rooms.model import PLAIN_COLORS
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural

Slots = tuple[tuple[str, str], ...]
CLEAR_DISTANCE = 0.35
CLEAR_RATIO = 1.25
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
_SEEN_SHARE = 0.0006
_ANCHORS = 5


@dataclass(frozen=True)
class Question:
    """A query before it is worded: ``slots`` fill the wording's template."""

    task: str
    targets: tuple[int, ...]
    name: str
    wording: Wording
    slots: Slots = ()


class Inquirer:
    """Finds every question of each task that is true and clear in a room."""

    def __init__(self, facts: Sequence[Fact], num_pixels: int, rng: np.random.Generator) -> None:
        self.facts = {fact.object_id: fact for fact in facts}
        self.rng = rng
        self.by_label: dict[str, list[Fact]] = {}
        for fact in facts:
            self.by_label.setdefault(fact.label, []).append(fact)
        least = _SEEN_SHARE * num_pixels
        self._visible = {f.object_id for f in facts if (f.views >= least).sum() >= 2}

    def single(self, label: str) -> bool:
        """Whether the room has exactly one object of a label."""
        return len(self.by_label.get(label, ())) == 1

    def shown(self, targets: Sequence[int]) -> bool:
        """Whether every target is large enough in at least two views."""
        return all(target in self._visible for target in targets)

    def referring(self) -> Iterator[Question]:
        """One object by its name, by name and colour, or by what it is on."""
        for label, facts in self.by_label.items():
            for fact in facts:
                slots = (("name", label),)
                if len(facts) == 1:
                    yield Question("referring", (fact.object_id,), label, REFERRING["name"], slots)
                same = [f for f in facts if fact.color in f.all_colors]
                if fact.color and len(same) == 1 and label not in STRUCTURE:
                    more = (*slots, ("color", fact.color))
                    yield Question("referring", (fact.object_id,), label, REFERRING["color"], more)
                if fact.host:
                    host = self.facts[fact.host].label
                    there = [f for f in facts if f.host and self.facts[f.host].label == host]
                    if len(there) == 1 and self.single(host):
                        more = (*slots, ("host", host))
                        yield Question("referring", (fact.object_id,), label, REFERRING["on"], more)

    def implicit(self) -> Iterator[Question]:
        """All objects that meet a need."""
        for need in NEEDS:
            found = [f for label in need.labels for f in self.by_label.get(label, ())]
            if found and not any(label in self.by_label for label in need.barred):
                ids = tuple(sorted(f.object_id for f in found))
                yield Question("implicit", ids, found[0].label, need.wording)

    def spatial(self) -> Iterator[Question]:
        """One of several like things, by its distance to something or by its size."""
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
        """All of a kind, all that is on something, or two named things."""
        for label, facts in self.by_label.items():
            count = _NUMBERS.get(len(facts))
            if count:
                ids = tuple(sorted(f.object_id for f in facts))
                slots: Slots = (("name", label), ("names", plural(label)), ("count", count))
                yield Question("multiple", ids, label, MULTIPLE["all"], slots)
        for host in self.facts.values():
            items = [f for f in self.facts.values() if f.host == host.object_id]
            if len(items) >= 2 and self.single(host.label):
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
        """Things the room does not have: a kind, a need, or a colour of a kind it has."""
        for label in LABELS:
            facts = self.by_label.get(label, [])
            if not facts:
                slots: Slots = (("name", label),)
                yield Question("absent", (), label, REFERRING["name"], slots)
                color = PLAIN_COLORS[int(self.rng.integers(len(PLAIN_COLORS)))]
                more = (*slots, ("color", color))
                yield Question("absent", (), label, REFERRING["color"], more)
                continue
            taken = {color for fact in facts for color in fact.all_colors}
            free = [color for color in PLAIN_COLORS if color not in taken]
            if free and all(fact.color for fact in facts):
                color = free[int(self.rng.integers(len(free)))]
                slots = (("name", label), ("color", color))
                yield Question("absent", (), label, REFERRING["color"], slots)
        for need in NEEDS:
            if not any(label in self.by_label for label in (*need.labels, *need.barred)):
                yield Question("absent", (), need.labels[0], need.wording)

    def questions(self) -> Iterator[Question]:
        """What meets a need, to be answered in words; also needs that nothing meets."""
        for question in (*self.implicit(), *self.absent()):
            if any(question.wording is need.wording for need in NEEDS):
                yield replace(question, wording=_asking(question.wording))


def _asking(wording: Wording) -> Wording:
    """Those of its templates that are questions, where there are some."""
    train, held_out = (
        tuple(text for text in texts if text.endswith("?")) or texts
        for texts in (wording.train, wording.held_out)
    )
    return Wording(train, held_out)
