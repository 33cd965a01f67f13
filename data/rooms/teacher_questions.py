"""Sample queries about one picture for training a 2D teacher: their objects and their sentences.

A query has targets if they cover at least ``VISIBLE_SHARE`` of the picture, is absent if no pixel
shows them, and is not sampled in between. For queries about places and sizes all objects of the
label are targets: choosing one of them needs 3D.

Sentences come from the wordings of the demo's training rooms and from a larger corpus,
``phrases.yaml``: other names, activities, situations and descriptions for each label. The corpus
was written without the held-out wordings of validation rooms, and those are not used here,
because they measure generalisation.

A language model that is trained on fixed frames memorises them and fails on other sentences.
``loose_sentence`` therefore puts names, colours and supports between random words, and cuts, mixes
and thins phrases, so that only the words that describe the target are informative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.snapshots import NOTHING, KnownObject
from data.rooms.textures import PALETTE
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural
from data.types import Array

QUERY_LABELS = (*LABELS, *STRUCTURE)
COLORS = tuple(color for color in PALETTE if color != "beige")
VISIBLE_SHARE = 150 / 192**2
"""Share of a picture that a query's objects must cover to be its targets (0.4 %)."""

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
"""Kinds of queries whose targets are decided by label and colour alone."""

_ABSENT_RATE = 0.45
_TRIES = 12


@dataclass(frozen=True)
class ViewQuery:
    """A query about a picture, before it has words.

    ``targets`` are the indices of the target objects, empty for an absent target; ``color`` is
    the queried colour or ""; ``other`` is the second label of a query that names two.
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
        return self.label


class PictureObjects:
    """The objects of one picture, from which queries are sampled.

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
    hosted = [i for i, item in enumerate(viewer.known) if item.host >= 0]
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
    if not targets:
        return None
    return ViewQuery("everything", viewer.known[targets[0]].label, targets, other=host)


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
}


NAME_FRAMES = (
    *REFERRING["name"].train, "{name}", "a {name}", "show me the {name}", "is there a {name} here?",
    "can you see the {name}?", "segment the {name} in this picture", "mark the {name}",
    "which part of the image is the {name}?", "can you find the {name}?", "locate the {name}",
    "I need the {name}", "where did they put the {name}?", "look for a {name}, please",
    "point to the {name}", "please show where the {name} is", "do you see any {name}?",
    "what is the {name} in this image?", "I would like to see the {name}",
)  # fmt: skip
COLOR_FRAMES = (
    *REFERRING["color"].train, "a {color} {name}", "where is the {color} {name}?",
    "show me the {color} {name}", "please segment the {color} {name}", "the {color} one, a {name}",
    "is there a {name} in {color}?", "which {name} is {color}?", "mark the {name} painted {color}",
    "the {name}, I mean the {color} one", "can you see a {color} {name} here?",
    "segment the {name} of {color} colour", "locate the {color} {name}, please",
)  # fmt: skip
ON_FRAMES = (
    *REFERRING["on"].train, "show me the {name} that stands on the {host}",
    "segment the {name} on the {host}", "the {name} lying on the {host}",
    "what {name} is there on the {host}?", "where is the {name} on the {host}?",
)  # fmt: skip
VERB_FRAMES = (
    "where can I {verb}?", "I want to {verb}", "what would I use to {verb}?",
    "what helps me {verb}?", "which object helps to {verb}?", "where could somebody {verb}?",
    "I would like to {verb}, where?",
    "is there anything here to {verb}?", "how can I {verb}?", "a thing to {verb}",
    "what do people use to {verb}?", "my friend wants to {verb}, what should she use?",
    "where do I go if I need to {verb}?", "find something to {verb}", "we have to {verb}",
)  # fmt: skip
DESCRIPTION_FRAMES = (
    "{words}", "find {words}", "where is {words}?", "show me {words}", "segment {words}",
    "I need {words}", "can you see {words}?", "which part of the picture is {words}?",
)  # fmt: skip
AFTER_SITUATION = ("", "", "", "what should I use?", "which object is meant?", "where should I go?")


@dataclass(frozen=True)
class Phrases:
    """The phrases of one label: other ``names``, ``verbs``, ``situations``, ``descriptions``."""

    names: tuple[str, ...]
    verbs: tuple[str, ...]
    situations: tuple[str, ...]
    descriptions: tuple[str, ...]


@cache
def load_phrases() -> Mapping[str, Phrases]:
    """Load the corpus by label; the needs of the demo's training rooms join the situations."""
    text = resources.files("data.rooms").joinpath("phrases.yaml").read_text(encoding="utf-8")
    tables = yaml.safe_load(text)
    needs = {need.labels[0]: need.wording.train for need in NEEDS}
    return {
        label: Phrases(
            tuple(tables["names"][label]),
            tuple(tables["verbs"][label]),
            (*tables["situations"][label], *needs[label]),
            tuple(tables["descriptions"][label]),
        )
        for label in LABELS
    }


def pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Draw one of the words uniformly."""
    return words[int(rng.integers(len(words)))]


def any_name(rng: np.random.Generator, label: str) -> str:
    """Draw a name of a label: mostly the label itself, sometimes another name."""
    if label in STRUCTURE or rng.random() < 0.65:
        return label
    return pick(rng, load_phrases()[label].names)


def sentence_of(rng: np.random.Generator, query: ViewQuery) -> str:
    """Draw a sentence for a query."""
    label = query.label
    match query.kind:
        case "need":
            return need_sentence(rng, label)
        case "name":
            return pick(rng, NAME_FRAMES).format(name=any_name(rng, label))
        case "color":
            return pick(rng, COLOR_FRAMES).format(name=any_name(rng, label), color=query.color)
        case "on":
            return pick(rng, ON_FRAMES).format(name=label, host=query.other)
    return _fill(query, pick(rng, _demo_wording(rng, query).train))


def demo_sentence(rng: np.random.Generator, query: ViewQuery, held_out: bool) -> str:
    """Draw a sentence of the demo: a training wording or, with ``held_out``, a validation one."""
    wording = _demo_wording(rng, query)
    return _fill(query, pick(rng, wording.held_out if held_out else wording.train))


def _demo_wording(rng: np.random.Generator, query: ViewQuery) -> Wording:
    match query.kind:
        case "need":
            return next(need.wording for need in NEEDS if need.labels[0] == query.label)
        case "name" | "color" | "on":
            return REFERRING[query.kind]
        case "relation":
            return SPATIAL[pick(rng, tuple(SPATIAL))]
    return MULTIPLE[{"all": "all", "everything": "on", "both": "and"}[query.kind]]


def _fill(query: ViewQuery, frame: str) -> str:
    """Fill the slots of a demo wording."""
    return frame.format(
        name=query.label,
        names=plural(query.label),
        color=query.color,
        host=query.other,
        other=query.other,
        anchor=query.other,
        count="two",
    )


def need_sentence(rng: np.random.Generator, label: str) -> str:
    """Draw a sentence that implies the label without naming it."""
    phrases = load_phrases()[label]
    kind = rng.random()
    if kind < 0.35:
        return pick(rng, VERB_FRAMES).format(verb=pick(rng, phrases.verbs))
    if kind < 0.8:
        return f"{pick(rng, phrases.situations)} {pick(rng, AFTER_SITUATION)}".strip()
    return pick(rng, DESCRIPTION_FRAMES).format(words=pick(rng, phrases.descriptions))


_MOST_WORDS = 6
_INVENTED = 0.15
_KEPT = 0.8
_LOOSE = 0.6


def loose_sentence(rng: np.random.Generator, query: ViewQuery) -> str:
    """Draw a sentence as ``sentence_of`` does, or mix its key words with random words."""
    if rng.random() >= _LOOSE:
        return sentence_of(rng, query)
    if query.kind == "need":
        return _mixed_need(rng, query.label)
    core = _core(rng, query)
    if core is None:
        return sentence_of(rng, query)
    end = pick(rng, ("", "?", ".", ", please", "!"))
    return " ".join([*_filler(rng), core, *_filler(rng)]) + end


def _mixed_need(rng: np.random.Generator, label: str) -> str:
    """Join the start of a label's phrase and the end of another, and leave out some words."""
    first, second = (need_sentence(rng, label).split() for _ in range(2))
    if rng.random() < 0.5:
        words = (
            first[: int(rng.integers(1, len(first) + 1))] + second[int(rng.integers(len(second))) :]
        )
    else:
        words = first
    kept_words = [word for word in words if rng.random() < _KEPT]
    return " ".join(kept_words if len(kept_words) > 3 else first)


def _core(rng: np.random.Generator, query: ViewQuery) -> str | None:
    article = pick(rng, ("the ", "the ", "a ", "that ", ""))
    match query.kind:
        case "name":
            return article + any_name(rng, query.label)
        case "color":
            name = any_name(rng, query.label)
            if rng.random() < 0.6:
                return f"{article}{query.color} {name}"
            between = " ".join(_filler(rng)[:3])
            return f"{article}{name} {between} {query.color}".replace("  ", " ")
        case "on":
            between = " ".join(_filler(rng)[:2])
            return f"{article}{query.label} {between} on the {query.other}".replace("  ", " ")
        case "all":
            return pick(rng, ("all ", "every one of the ", "all the ")) + plural(query.label)
        case "everything":
            return pick(rng, ("everything", "all things", "whatever is")) + f" on the {query.other}"
        case "both":
            word = pick(rng, ("and", "and", "plus", "together with", "and also"))
            return f"the {query.label} {word} the {query.other}"
    return None


def _filler(rng: np.random.Generator) -> list[str]:
    """Draw zero to six filler words: mostly words of questions, some invented."""
    count = int(rng.integers(_MOST_WORDS + 1))
    words = _plain_words()
    return [_invent(rng) if rng.random() < _INVENTED else pick(rng, words) for _ in range(count)]


def _invent(rng: np.random.Generator) -> str:
    """Invent a word from the start of a word and the end of another."""
    start, end = (pick(rng, _plain_words()) for _ in range(2))
    return start[: int(rng.integers(1, len(start) + 1))] + end[int(rng.integers(len(end))) :]


@cache
def _plain_words() -> tuple[str, ...]:
    """Return the words of all sentences that name no object, colour or place."""
    phrases = load_phrases()
    names = (*QUERY_LABELS, *(name for each in phrases.values() for name in each.names))
    excluded_texts = (*names, *(plural(name) for name in names), *COLORS, "on")
    excluded_words = {word for text in excluded_texts for word in text.split()}
    frames = (*NAME_FRAMES, *COLOR_FRAMES, *VERB_FRAMES)
    sentences = (text for each in phrases.values() for text in (*each.situations, *each.verbs))
    words = {word.strip("?,.!'") for text in (*frames, *sentences) for word in text.split()}
    return tuple(sorted(word for word in words - excluded_words if word and "{" not in word))
