"""Sample queries about one picture for training a 2D teacher.

A query has targets if they cover at least ``VISIBLE_SHARE`` of the picture, is absent if no pixel
shows them, and is not sampled in between. For queries about places and sizes all objects of the
label are targets: choosing one of them needs 3D. A stranger is a query that no object of any label
answers. ``data.rooms.teacher_sentences`` gives queries their words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.snapshots import NOTHING, KnownObject
from data.rooms.textures import PALETTE
from data.types import Array

QUERY_LABELS = (*LABELS, *STRUCTURE)
COLORS = tuple(color for color in PALETTE if color != "beige")
VISIBLE_SHARE = 150 / 192**2
"""Share of a picture that a query's objects must cover to be its targets (0.4 %)."""

KINDS: Mapping[str, float] = {
    "name": 0.22,
    "need": 0.3,
    "color": 0.17,
    "on": 0.05,
    "all": 0.05,
    "everything": 0.02,
    "both": 0.04,
    "relation": 0.03,
    "stranger": 0.12,
}
PROMPTED = frozenset({"name", "need", "color", "all", "relation"})
"""Kinds of queries whose targets are decided by label and colour alone."""

UNKNOWN_NAME = "unknown thing"
"""Name of a stranger's target in an answer."""

_ABSENT_RATE = 0.45
_TRIES = 12


@dataclass(frozen=True)
class ViewQuery:
    """A query about a picture, before it has words.

    ``label`` is "" for a stranger; ``targets`` are the indices of the target objects, empty for an
    absent target; ``color`` is the queried colour or ""; ``other`` is the second label of a query
    that names two.
    """

    kind: str
    label: str
    targets: tuple[int, ...]
    color: str = ""
    other: str = ""

    @property
    def name(self) -> str:
        """Name of the target in an answer, such as "red chair"."""
        match self.kind:
            case "color":
                return f"{self.color} {self.label}"
            case "both":
                return f"{self.label} and the {self.other}"
            case "everything":
                return f"things on the {self.other}"
            case "stranger":
                return UNKNOWN_NAME
        return self.label


class PictureObjects:
    """The objects of one picture, from which queries are sampled.

    Small things, whose labels are not in ``QUERY_LABELS``, belong only to queries for everything
    on a support.

    ``object_ids`` (H, W) uint8 as in ``Snapshots``; ``label_weights`` are the relative rates at
    which visible labels are queried, to balance frequent labels.
    """

    def __init__(
        self, object_ids: Array, known: Sequence[KnownObject], label_weights: Mapping[str, float]
    ) -> None:
        self.known = known
        self.pixels = np.bincount(object_ids.ravel(), minlength=NOTHING + 1)[: len(known)]
        self.least = VISIBLE_SHARE * object_ids.size
        self.of_label: dict[str, list[int]] = {}
        for index, item in enumerate(known):
            if item.label in QUERY_LABELS:
                self.of_label.setdefault(item.label, []).append(index)
        cover = {label: self.pixels[rows].sum() for label, rows in self.of_label.items()}
        self.shown = [label for label, count in cover.items() if count >= self.least]
        self.absent = [x for x in QUERY_LABELS if cover.get(x, 0) == 0]
        weights = np.array([label_weights[label] for label in self.shown])
        self.weights = weights / weights.sum() if len(weights) else weights

    def seen(self, targets: Sequence[int]) -> tuple[int, ...] | None:
        """Return the targets with visible pixels; (): none is visible; None: too few pixels."""
        count = int(self.pixels[list(targets)].sum()) if targets else 0
        if count == 0:
            return ()
        if count < self.least:
            return None
        return tuple(int(t) for t in targets if self.pixels[t] > 0)

    def pick_shown(self, rng: np.random.Generator) -> str:
        """Draw a visible label."""
        return self.shown[int(rng.choice(len(self.shown), p=self.weights))]

    def pick_absent(self, rng: np.random.Generator) -> str:
        """Draw a label that is not visible; labels of the structure are drawn less often."""
        label = self.absent[int(rng.integers(len(self.absent)))]
        if label in STRUCTURE:
            label = self.absent[int(rng.integers(len(self.absent)))]
        return label


def sample_view_query(
    viewer: PictureObjects, rng: np.random.Generator, kinds: Mapping[str, float] = KINDS
) -> ViewQuery:
    """Sample a query of a random kind; its target is absent with probability ``_ABSENT_RATE``."""
    names, rates = list(kinds), np.array(list(kinds.values()))
    for _ in range(_TRIES):
        kind = names[int(rng.choice(len(names), p=rates / rates.sum()))]
        absent = rng.random() < _ABSENT_RATE
        query = _SAMPLERS[kind](viewer, rng, absent) if viewer.shown or absent else None
        if query is not None:
            return query
    label = viewer.pick_absent(rng)
    return ViewQuery("name", label, ())


def sample_name(viewer: PictureObjects, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Sample a query by name; None if the drawn label shows too few pixels."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None:
        return None
    return ViewQuery("name", label, targets)


def sample_need(viewer: PictureObjects, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Sample a query by use; None for a table beside a visible desk, or a desk beside a table."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    competing_label = {"table": "desk", "desk": "table"}.get(label, "")
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if (
        label in STRUCTURE
        or targets is None
        or viewer.pixels[viewer.of_label.get(competing_label, [])].sum()
    ):
        return None
    return ViewQuery("need", label, targets)


def sample_color(
    viewer: PictureObjects, rng: np.random.Generator, absent: bool
) -> ViewQuery | None:
    """Sample a query by colour and name, or by a colour that no visible object of the name has."""
    visible = [i for label in viewer.shown for i in viewer.of_label[label] if viewer.pixels[i] > 0]
    named = [i for i in visible if viewer.known[i].label not in STRUCTURE]
    if not absent:
        named = [i for i in named if viewer.known[i].color]
    if not named:
        return None
    item = viewer.known[named[int(rng.integers(len(named)))]]
    same_label = [i for i in named if viewer.known[i].label == item.label]
    color = item.color
    if absent:
        taken_colors = {name for i in same_label for name in viewer.known[i].all_colors}
        free_colors = [name for name in COLORS if name not in taken_colors]
        if not free_colors or not all(viewer.known[i].all_colors for i in same_label):
            return None
        color = free_colors[int(rng.integers(len(free_colors)))]
    candidates = [i for i in viewer.of_label[item.label] if color in viewer.known[i].all_colors]
    targets = viewer.seen(candidates)
    if targets is None or any(viewer.known[i].color != color for i in targets):
        return None
    return ViewQuery("color", item.label, targets, color)


def sample_on(viewer: PictureObjects, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Sample a query for objects of a label on a visible support."""
    known = viewer.known
    hosted = [i for rows in viewer.of_label.values() for i in rows if known[i].host >= 0]
    if not hosted:
        return None
    item = viewer.known[hosted[int(rng.integers(len(hosted)))]]
    host = viewer.known[item.host].label
    if viewer.pixels[viewer.of_label[host]].sum() < viewer.least:
        return None
    rows = [i for i in viewer.of_label[item.label] if viewer.known[i].host >= 0]
    on_host = [i for i in rows if viewer.known[viewer.known[i].host].label == host]
    targets = viewer.seen(on_host)
    if targets is None:
        return None
    return ViewQuery("on", item.label, targets, other=host)


def sample_all(viewer: PictureObjects, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Sample a query for all objects of a label."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None or label in STRUCTURE:
        return None
    return ViewQuery("all", label, targets)


def sample_everything(
    viewer: PictureObjects, rng: np.random.Generator, absent: bool
) -> ViewQuery | None:
    """Sample a query for all objects on a visible support."""
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
    labels = [viewer.known[i].label for i in targets or () if viewer.known[i].label in QUERY_LABELS]
    if not targets or not labels:
        return None
    return ViewQuery("everything", labels[0], targets, other=host)


def sample_both(viewer: PictureObjects, rng: np.random.Generator, absent: bool) -> ViewQuery | None:
    """Sample a query for the objects of two visible labels."""
    if not viewer.shown:
        return None
    first, second = viewer.pick_shown(rng), viewer.pick_shown(rng)
    if first == second or first in STRUCTURE or second in STRUCTURE:
        return None
    targets = viewer.seen([*viewer.of_label[first], *viewer.of_label[second]])
    if not targets:
        return None
    return ViewQuery("both", first, targets, other=second)


def sample_relation(
    viewer: PictureObjects, rng: np.random.Generator, absent: bool
) -> ViewQuery | None:
    """Sample a query by place or size; all objects of the label are targets."""
    label = viewer.pick_absent(rng) if absent else viewer.pick_shown(rng)
    targets = viewer.seen(viewer.of_label.get(label, ()))
    if targets is None or label in STRUCTURE:
        return None
    anchor = LABELS[int(rng.integers(len(LABELS)))]
    return ViewQuery("relation", label, targets, other=anchor)


def sample_stranger(
    viewer: PictureObjects, rng: np.random.Generator, absent: bool
) -> ViewQuery | None:
    """Return a query that no object of any label answers."""
    return ViewQuery("stranger", "", ())


QuerySampler = Callable[[PictureObjects, np.random.Generator, bool], ViewQuery | None]
_SAMPLERS: dict[str, QuerySampler] = {
    "name": sample_name,
    "need": sample_need,
    "color": sample_color,
    "on": sample_on,
    "all": sample_all,
    "everything": sample_everything,
    "both": sample_both,
    "relation": sample_relation,
    "stranger": sample_stranger,
}
