"""Questions about one picture with the objects that answer them, for training a 2D teacher.

A question counts as answered when its objects cover enough of the picture, as absent when not
a single pixel of them shows, and is not asked in between. Questions about places and sizes are
answered with all objects of the label: which one is meant is left to 3D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.snapshots import NOTHING, Known
from data.rooms.textures import PALETTE
from data.types import Array

ASKED_LABELS = (*LABELS, *STRUCTURE)
COLORS = tuple(color for color in PALETTE if color != "beige")
VISIBLE_SHARE = 150 / 192**2
"""Share of a picture that the objects must cover to count as shown (0.4 %)."""

KINDS: Mapping[str, float] = {
    "name": 0.26,
    "need": 0.34,
    "color": 0.2,
    "on": 0.06,
    "all": 0.05,
    "everything": 0.02,
    "both": 0.04,
    "relation": 0.03,
}
PROMPTED = frozenset({"name", "need", "color", "all", "relation"})
"""Kinds whose objects are told by label and colour alone."""

_ABSENT_RATE = 0.45
_TRIES = 12


@dataclass(frozen=True)
class ViewQuery:
    """What is asked, before it is put to words; ``data.rooms.sentences`` does that.

    ``targets`` are positions of the objects that answer, empty where none shows; ``color`` is
    the colour asked for or ""; ``other`` the second label of a question that names two.
    """

    kind: str
    label: str
    targets: tuple[int, ...]
    color: str = ""
    other: str = ""

    @property
    def name(self) -> str:
        """The answer's name for what is asked for, such as "red chair"."""
        match self.kind:
            case "color":
                return f"{self.color} {self.label}"
            case "both":
                return f"{self.label} and the {self.other}"
            case "everything":
                return f"things on the {self.other}"
        return self.label


class Viewer:
    """One picture with what is known of its objects, ready to be asked about.

    ``object_ids`` (H, W) uint8 as in ``Snapshots``; ``label_weights`` says how often each
    visible label is to be asked for, to make up for labels that are everywhere.
    """

    def __init__(
        self, object_ids: Array, known: Sequence[Known], label_weights: Mapping[str, float]
    ) -> None:
        self.known = known
        self.pixels = np.bincount(object_ids.ravel(), minlength=NOTHING + 1)[: len(known)]
        self.least = VISIBLE_SHARE * object_ids.size
        self.of_label: dict[str, list[int]] = {}
        for index, item in enumerate(known):
            self.of_label.setdefault(item.label, []).append(index)
        cover = {label: self.pixels[rows].sum() for label, rows in self.of_label.items()}
        self.shown = [label for label, count in cover.items() if count >= self.least]
        self.absent = [x for x in ASKED_LABELS if cover.get(x, 0) == 0]
        weights = np.array([label_weights[label] for label in self.shown])
        self.weights = weights / weights.sum() if len(weights) else weights

    def seen(self, targets: Sequence[int]) -> tuple[int, ...] | None:
        """The targets that show at all; () for none; None where too little shows to say."""
        count = int(self.pixels[list(targets)].sum()) if targets else 0
        if count == 0:
            return ()
        if count < self.least:
            return None
        return tuple(int(t) for t in targets if self.pixels[t] > 0)

    def pick_shown(self, rng: np.random.Generator) -> str:
        """A label in view."""
        return self.shown[int(rng.choice(len(self.shown), p=self.weights))]

    def pick_absent(self, rng: np.random.Generator) -> str:
        """A label out of view; parts of the structure seldom."""
        label = self.absent[int(rng.integers(len(self.absent)))]
        if label in STRUCTURE:
            label = self.absent[int(rng.integers(len(self.absent)))]
        return label


def ask_view(
    viewer: Viewer, rng: np.random.Generator, kinds: Mapping[str, float] = KINDS
) -> ViewQuery:
    """A random question of a random kind; absent things in a bit under half of the cases."""
    names, rates = list(kinds), np.array(list(kinds.values()))
    for _ in range(_TRIES):
        kind = names[int(rng.choice(len(names), p=rates / rates.sum()))]
        absent = rng.random() < _ABSENT_RATE
        query = _ASK[kind](viewer, rng, absent) if viewer.shown or absent else None
        if query is not None:
            return query
    label = viewer.pick_absent(rng)
    return ViewQuery("name", label, ())


def ask_name(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """By name."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None:
        return None
    return ViewQuery("name", label, targets)


def ask_need(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """By use; a table is not asked for where a desk would do as well, nor a desk for a table."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    rival = {"table": "desk", "desk": "table"}.get(label, "")
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if label in STRUCTURE or targets is None or viewer.pixels[viewer.of_label.get(rival, [])].sum():
        return None
    return ViewQuery("need", label, targets)


def ask_color(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """By colour and name, or by a colour that no such thing in view has."""
    visible = [i for label in viewer.shown for i in viewer.of_label[label] if viewer.pixels[i] > 0]
    named = [i for i in visible if viewer.known[i].label not in STRUCTURE]
    if not absent:
        named = [i for i in named if viewer.known[i].color]
    if not named:
        return None
    one = viewer.known[named[int(rng.integers(len(named)))]]
    same = [i for i in named if viewer.known[i].label == one.label]
    color = one.color
    if absent:
        taken = {name for i in same for name in viewer.known[i].all_colors}
        free = [name for name in COLORS if name not in taken]
        if not free or not all(viewer.known[i].all_colors for i in same):
            return None
        color = free[int(rng.integers(len(free)))]
    may_be = [i for i in viewer.of_label[one.label] if color in viewer.known[i].all_colors]
    targets = viewer.seen(may_be)
    if targets is None or any(viewer.known[i].color != color for i in targets):
        return None
    return ViewQuery("color", one.label, targets, color)


def ask_on(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """What stands on something in view."""
    hosted = [i for i, item in enumerate(viewer.known) if item.host >= 0]
    if not hosted:
        return None
    one = viewer.known[hosted[int(rng.integers(len(hosted)))]]
    host = viewer.known[one.host].label
    if viewer.pixels[viewer.of_label[host]].sum() < viewer.least:
        return None
    rows = [i for i in viewer.of_label[one.label] if viewer.known[i].host >= 0]
    there = [i for i in rows if viewer.known[viewer.known[i].host].label == host]
    targets = viewer.seen(there)
    if targets is None:
        return None
    return ViewQuery("on", one.label, targets, other=host)


def ask_all(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Every object of a label."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None or label in STRUCTURE:
        return None
    return ViewQuery("all", label, targets)


def ask_everything(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """All that stands on something in view."""
    hosts = sorted({viewer.known[k.host].label for k in viewer.known if k.host >= 0})
    hosts = [host for host in hosts if host in viewer.shown]
    if not hosts:
        return None
    host = hosts[int(rng.integers(len(hosts)))]
    on_it = [
        i
        for i, item in enumerate(viewer.known)
        if item.host >= 0 and viewer.known[item.host].label == host
    ]
    targets = viewer.seen(on_it)
    if not targets:
        return None
    return ViewQuery("everything", viewer.known[targets[0]].label, targets, other=host)


def ask_both(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Two labels, both in view."""
    if not viewer.shown:
        return None
    first, second = viewer.pick_shown(rng), viewer.pick_shown(rng)
    if first == second or first in STRUCTURE or second in STRUCTURE:
        return None
    targets = viewer.seen([*viewer.of_label[first], *viewer.of_label[second]])
    if not targets:
        return None
    return ViewQuery("both", first, targets, other=second)


def ask_relation(viewer: Viewer, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """By place or size: all objects of the label answer."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None or label in STRUCTURE:
        return None
    anchor = LABELS[int(rng.integers(len(LABELS)))]
    return ViewQuery("relation", label, targets, other=anchor)


Asker = Callable[[Viewer, np.random.Generator, bool], ViewQuery | None]
_ASK: dict[str, Asker] = {
    "name": ask_name,
    "need": ask_need,
    "color": ask_color,
    "on": ask_on,
    "all": ask_all,
    "everything": ask_everything,
    "both": ask_both,
    "relation": ask_relation,
}
