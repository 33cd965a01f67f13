"""Give queries of ``data.rooms.teacher_questions`` their sentences.

Sentences come from the wordings of the demo's training rooms and from a larger corpus,
``phrases.yaml``: other names, activities, situations and descriptions for each label. The corpus
was written without the held-out wordings of validation rooms, and those are not used here,
because they measure generalisation. Strangers get names of other things, other needs, remarks that
are no search, negations, and invented words (``strangers.yaml``).

A language model that is trained on fixed frames memorises them and fails on other sentences.
``loose_sentence`` therefore puts names, colours and supports between random words, and cuts, mixes
and thins phrases, so that only the words that describe the target are informative.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from data.rooms.catalog import LABELS, STRUCTURE
from data.rooms.teacher_questions import COLORS, QUERY_LABELS, ViewQuery
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural

NAME_FRAMES = (
    *REFERRING["name"].train, "{name}", "a {name}", "show me the {name}", "is there a {name} here?",
    "can you see the {name}?", "segment the {name} in this picture", "mark the {name}",
    "which part of the image is the {name}?", "can you find the {name}?", "locate the {name}",
    "I need the {name}", "where did they put the {name}?", "look for a {name}, please",
    "point to the {name}", "please show where the {name} is", "do you see any {name}?",
    "what is the {name} in this image?", "I would like to see the {name}", "{name} please",
    "any {name} around?", "got a {name}?", "does this room have a {name}?", "select the {name}",
    "take me to the {name}", "which object is the {name}", "draw around the {name}",
    "hey, where's the {name}?", "I can't find my {name}", "{name} location", "outline the {name}",
    "pick out the {name}", "whereabouts is the {name}", "there should be a {name} in here, where?",
    "tell me where the {name} has gone", "do you know where the {name} is?",
)  # fmt: skip
COLOR_FRAMES = (
    *REFERRING["color"].train, "a {color} {name}", "where is the {color} {name}?",
    "show me the {color} {name}", "please segment the {color} {name}", "the {color} one, a {name}",
    "is there a {name} in {color}?", "which {name} is {color}?", "mark the {name} painted {color}",
    "the {name}, I mean the {color} one", "can you see a {color} {name} here?",
    "segment the {name} of {color} colour", "locate the {color} {name}, please",
    "{color} {name}", "any {color} {name} around?", "do you see the {name}? the {color} one",
    "a {name}, {color}", "I can't find the {color} {name}", "only the {color} {name}",
)  # fmt: skip
ON_FRAMES = (
    *REFERRING["on"].train, "show me the {name} that stands on the {host}",
    "segment the {name} on the {host}", "the {name} lying on the {host}",
    "what {name} is there on the {host}?", "where is the {name} on the {host}?",
)  # fmt: skip
ALL_FRAMES = (
    *MULTIPLE["all"].train, "every {name}", "all {names} please", "each {name} here", "the {names}",
    "select all {names}", "where are the {names}?", "are there any {names}?", "both {names}",
    "point at all of the {names}", "how many {names} are there? mark them",
)  # fmt: skip
EVERYTHING_FRAMES = (
    *MULTIPLE["on"].train, "everything that lies on the {host}", "what is on the {host}?",
    "the things on top of the {host}", "all objects on the {host}", "the stuff on the {host}",
    "whatever stands on the {host}", "I want to clear the {host}, what must go?",
)  # fmt: skip
BOTH_FRAMES = (
    *MULTIPLE["and"].train, "the {name} plus the {other}", "{name} and {other}",
    "mark the {name} and also the {other}", "where are the {name} and the {other}?",
    "I want the {name}, and the {other} too", "both the {name} and the {other}, please",
    "a {name} or a {other}", "the {name} together with the {other}",
)  # fmt: skip
RELATION_FRAMES = (
    *(text for wording in SPATIAL.values() for text in wording.train),
    "the {name} next to the {anchor}", "the {name} by the {anchor}", "the smallest {name}",
    "the {name} in the corner", "the {name} left of the {anchor}", "the {name} under the {anchor}",
    "the {name} to the right of the {anchor}", "the {name} that is not at the {anchor}",
    "the second {name} from the left", "the {name} against the wall", "the lowest {name}",
    "the {name} in front of the {anchor}", "the {name} behind the {anchor}",
    "the {name} between the {anchor} and the door", "the {name} far away from the {anchor}",
)  # fmt: skip
VERB_FRAMES = (
    "where can I {verb}?", "I want to {verb}", "what would I use to {verb}?",
    "what helps me {verb}?", "which object helps to {verb}?", "where could somebody {verb}?",
    "I would like to {verb}, where?",
    "is there anything here to {verb}?", "how can I {verb}?", "a thing to {verb}",
    "what do people use to {verb}?", "my friend wants to {verb}, what should she use?",
    "where do I go if I need to {verb}?", "find something to {verb}", "we have to {verb}",
    "{verb}", "I need to {verb}", "how do I {verb} in here?", "something to {verb} with",
    "what do I use when I {verb}?", "help me {verb}", "the children want to {verb}",
    "I have to {verb}, with what?", "what is there to {verb} with?", "time to {verb}",
)  # fmt: skip
NEGATIONS = (
    "not {it}", "anything but {it}", "everything except {it}", "no {name}", "I do not want {it}",
    "whatever is not {it}", "leave out {it}", "all but {it}", "do not show me {it}",
    "something other than {it}", "without {it}", "never mind {it}", "forget {it}", "skip {it}",
    "don't mark {it}", "no {name} at all", "I don't need {it}", "I am not after {it}",
    "I did not ask for {it}", "anything, only not {it}", "it must not be {it}", "it isn't {it}",
    "I'm not interested in {it}", "exclude {it}", "ignore {it}", "apart from {it}", "besides {it}",
    "show me what is no {name}", "one that isn't {it}", "don't look for {it}", "avoid {it}",
    "nothing like {it}", "let us not talk about {it}", "please no more {name}", "hide {it}",
    "the rest of the room without {it}", "I never want to see {it} again", "not {it}, never",
    "if it is {it}, leave it", "things that are different from {it}", "stop showing me {it}",
)  # fmt: skip
DESCRIPTION_FRAMES = (
    "{words}", "find {words}", "where is {words}?", "show me {words}", "segment {words}",
    "I need {words}", "can you see {words}?", "which part of the picture is {words}?",
)  # fmt: skip
OTHER_FRAMES = (
    *COLOR_FRAMES, *ON_FRAMES, *ALL_FRAMES, *EVERYTHING_FRAMES, *BOTH_FRAMES, *RELATION_FRAMES,
    *NEGATIONS,
)  # fmt: skip
AFTER_SITUATION = ("", "", "", "what should I use?", "which object is meant?", "where should I go?")


@dataclass(frozen=True)
class Phrases:
    """The phrases of one label: other ``names``, ``verbs``, ``situations``, ``descriptions``."""

    names: tuple[str, ...]
    verbs: tuple[str, ...]
    situations: tuple[str, ...]
    descriptions: tuple[str, ...]


@dataclass(frozen=True)
class Strangers:
    """Words of what no object of a room is.

    ``nouns`` are things, ``verbs``, ``actions`` (a verb with its object) and ``situations`` needs,
    ``chatter`` remarks that are no search.
    """

    nouns: tuple[str, ...]
    verbs: tuple[str, ...]
    actions: tuple[str, ...]
    situations: tuple[str, ...]
    chatter: tuple[str, ...]


@cache
def load_phrases() -> Mapping[str, Phrases]:
    """Load the corpus by label; the needs of the demo's training rooms join the situations."""
    tables = _load("phrases.yaml")
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


@cache
def load_strangers() -> Strangers:
    """Load the words of strangers."""
    tables = _load("strangers.yaml")
    actions = [f"{verb} {thing}" for verb, things in tables["actions"].items() for thing in things]
    parts = {**tables, "actions": actions}
    return Strangers(**{name: tuple(part) for name, part in parts.items()})


@dataclass(frozen=True)
class ExamSentences:
    """Sentences that are kept from all training: ``present`` by label, ``nothing`` by group.

    ``nothing`` are those to which no room has an answer.
    """

    present: Mapping[str, tuple[str, ...]]
    nothing: Mapping[str, tuple[str, ...]]


@cache
def load_exam(name: str = "exam") -> ExamSentences:
    """Load the sentences of the exam, or those on which settings are chosen ("tuning")."""
    tables = _load(f"{name}.yaml")
    parts = (
        {name: tuple(texts) for name, texts in tables[part].items()}
        for part in ("present", "nothing")
    )
    return ExamSentences(*parts)


def _load(name: str) -> Any:
    text = resources.files("data.rooms").joinpath(name).read_text(encoding="utf-8")
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Draw one of the words uniformly."""
    return words[int(rng.integers(len(words)))]


def any_name(rng: np.random.Generator, label: str) -> str:
    """Draw a name of a label: mostly the label itself, sometimes another name."""
    if label in STRUCTURE or rng.random() < 0.55:
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
        case "stranger":
            return stranger_sentence(rng)
    frames = {
        "on": ON_FRAMES,
        "all": ALL_FRAMES,
        "everything": EVERYTHING_FRAMES,
        "both": BOTH_FRAMES,
        "relation": RELATION_FRAMES,
    }
    return _fill(query, pick(rng, frames[query.kind]))


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


_ADORNED = 0.06
_STRANGERS = {
    "noun": 0.34,
    "verb": 0.1,
    "action": 0.12,
    "situation": 0.1,
    "chatter": 0.14,
    "negation": 0.1,
    "letters": 0.04,
    "invented": 0.08,
}
_LETTERS = "etaoinshrdlcumwfgypbvkjxqzasdfghjklqwertyuiop0123456789"
_COMPOUND = 0.1


def stranger_sentence(rng: np.random.Generator) -> str:
    """Draw a sentence that no object of any label answers."""
    words = load_strangers()
    kinds, rates = list(_STRANGERS), np.array(list(_STRANGERS.values()))
    match kinds[int(rng.choice(len(kinds), p=rates / rates.sum()))]:
        case "noun":
            return _about(rng, _stranger_noun(rng))
        case "verb":
            return pick(rng, VERB_FRAMES).format(verb=pick(rng, words.verbs))
        case "action":
            return pick(rng, VERB_FRAMES).format(verb=pick(rng, words.actions))
        case "situation":
            return f"{pick(rng, words.situations)} {pick(rng, AFTER_SITUATION)}".strip()
        case "chatter":
            return pick(rng, words.chatter)
        case "negation":
            return _negation(rng)
        case "letters":
            return " ".join(_letters(rng) for _ in range(int(rng.integers(1, 5))))
    return _about(rng, _invented_noun(rng))


def _negation(rng: np.random.Generator) -> str:
    """Draw a sentence that only says what is not wanted, by any name, now and then with colour."""
    name = any_name(rng, pick(rng, LABELS))
    if rng.random() < 0.15:
        name = f"{pick(rng, COLORS)} {name}"
    forms = f"the {name}", f"the {name}", f"a {name}", f"that {name}", plural(name)
    said = pick(rng, NEGATIONS).format(name=name, it=pick(rng, forms))
    start, end = pick(rng, ("", "", "", "please, ", "well, ", "just ")), pick(rng, ("", "", "."))
    return start + said + pick(rng, ("", "", "", ", please", " this time")) + end


def _about(rng: np.random.Generator, noun: str) -> str:
    """Draw a sentence that asks for a noun by name, colour or place."""
    kind = rng.random()
    if kind < 0.5:
        return pick(rng, NAME_FRAMES).format(name=noun)
    if kind < 0.8:
        return pick(rng, COLOR_FRAMES).format(name=noun, color=pick(rng, COLORS))
    if kind < 0.9:
        frame = pick(rng, (*ALL_FRAMES, *RELATION_FRAMES))
        return frame.format(name=noun, names=plural(noun), anchor=pick(rng, LABELS), count="two")
    return pick(rng, ON_FRAMES).format(name=noun, host=pick(rng, ("desk", "table", "nightstand")))


def _stranger_noun(rng: np.random.Generator) -> str:
    """Draw a noun; now and then a label stands before it, which does not tell the kind."""
    noun = pick(rng, load_strangers().nouns)
    return f"{pick(rng, LABELS)} {noun}" if rng.random() < _COMPOUND else noun


def _invented_noun(rng: np.random.Generator) -> str:
    """Invent a noun from parts of words, or from syllables and a label."""
    if rng.random() < 0.6:
        return _invent(rng)
    start = "".join(pick(rng, "bdfgklmnprstvz") + pick(rng, "aeiou") for _ in range(2))
    return start + pick(rng, ("", "r", "n", "x", "le", pick(rng, LABELS)))


def _letters(rng: np.random.Generator) -> str:
    return "".join(pick(rng, _LETTERS) for _ in range(int(rng.integers(2, 10))))


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


def _adorned_name(rng: np.random.Generator, label: str) -> str:
    """Draw a name, now and then behind that of another thing: the last noun tells the kind."""
    name = any_name(rng, label)
    return f"{pick(rng, load_strangers().nouns)} {name}" if rng.random() < _ADORNED else name


def _core(rng: np.random.Generator, query: ViewQuery) -> str | None:
    article = pick(rng, ("the ", "the ", "a ", "that ", ""))
    match query.kind:
        case "name":
            return article + _adorned_name(rng, query.label)
        case "color":
            name = _adorned_name(rng, query.label)
            if rng.random() < 0.6:
                return f"{article}{query.color} {name}"
            between = " ".join(_filler(rng)[:3])
            return f"{article}{name} {between} {query.color}".replace("  ", " ")
        case "on":
            between = " ".join(_filler(rng)[:2])
            return f"{article}{query.label} {between} on the {query.other}".replace("  ", " ")
        case "all":
            return pick(rng, ("all ", "every one of the ", "all the ", "the ")) + plural(
                query.label
            )
        case "everything":
            return pick(rng, ("everything", "all things", "whatever is")) + f" on the {query.other}"
        case "stranger":
            noun = _stranger_noun(rng) if rng.random() < 0.7 else _invented_noun(rng)
            return f"{article}{pick(rng, COLORS)} {noun}" if rng.random() < 0.3 else article + noun
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
