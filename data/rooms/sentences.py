"""How questions about one picture are put to words when LISA-nano is trained.

Beside the wordings of the demo's training rooms there is a larger corpus, ``phrases.yaml``:
other names, things to do, situations and descriptions per label. Its author did not see the
wordings kept for validation rooms, and none of those is used here: they measure what was
learnt of the language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.view_queries import ViewQuery
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural

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
    """What is said of one label: other ``names``, ``verbs``, ``situations``, ``descriptions``."""

    names: tuple[str, ...]
    verbs: tuple[str, ...]
    situations: tuple[str, ...]
    descriptions: tuple[str, ...]


@cache
def load_phrases() -> Mapping[str, Phrases]:
    """The corpus, with the needs of the demo's training rooms among the situations."""
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
    """Any of the words, all alike."""
    return words[int(rng.integers(len(words)))]


def any_name(rng: np.random.Generator, label: str) -> str:
    """The label itself, or now and then another name of it."""
    if label in STRUCTURE or rng.random() < 0.65:
        return label
    return pick(rng, load_phrases()[label].names)


def say(rng: np.random.Generator, query: ViewQuery) -> str:
    """One of the many ways to ask a query."""
    label = query.label
    match query.kind:
        case "need":
            return say_need(rng, label)
        case "name":
            return pick(rng, NAME_FRAMES).format(name=any_name(rng, label))
        case "color":
            return pick(rng, COLOR_FRAMES).format(name=any_name(rng, label), color=query.color)
        case "on":
            return pick(rng, ON_FRAMES).format(name=label, host=query.other)
    return _fill(query, pick(rng, _demo_wording(rng, query).train))


def say_as_demo(rng: np.random.Generator, query: ViewQuery, held_out: bool) -> str:
    """As the demo asks: in its training rooms' words, or in those kept for validation rooms."""
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
    """A demo wording with its slots filled."""
    return frame.format(
        name=query.label,
        names=plural(query.label),
        color=query.color,
        host=query.other,
        other=query.other,
        anchor=query.other,
        count="two",
    )


def say_need(rng: np.random.Generator, label: str) -> str:
    """A question that implies the label without naming it."""
    phrases = load_phrases()[label]
    kind = rng.random()
    if kind < 0.35:
        return pick(rng, VERB_FRAMES).format(verb=pick(rng, phrases.verbs))
    if kind < 0.8:
        return f"{pick(rng, phrases.situations)} {pick(rng, AFTER_SITUATION)}".strip()
    return pick(rng, DESCRIPTION_FRAMES).format(words=pick(rng, phrases.descriptions))
