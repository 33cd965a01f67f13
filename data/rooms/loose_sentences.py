"""Questions put loosely: the words that matter among words that do not.

A language model learns the frames of ``sentences`` by heart and stumbles over any other. Here
names, colours and hosts stand between random words, and phrases are cut, mixed and thinned, so
that what is asked for must be told from the words that say it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from data.rooms import sentences
from data.rooms.view_queries import ASKED_LABELS, COLORS, ViewQuery
from data.rooms.wordings import plural

_MOST_WORDS = 6
_INVENTED = 0.15
_KEPT = 0.8
_LOOSE = 0.6


def say_loosely(rng: np.random.Generator, query: ViewQuery) -> str:
    """A question of ``sentences.say`` or, more often, its words among others."""
    if rng.random() >= _LOOSE:
        return sentences.say(rng, query)
    if query.kind == "need":
        return _mixed_need(rng, query.label)
    core = _core(rng, query)
    if core is None:
        return sentences.say(rng, query)
    end = sentences.pick(rng, ("", "?", ".", ", please", "!"))
    return " ".join([*_filler(rng), core, *_filler(rng)]) + end


def _mixed_need(rng: np.random.Generator, label: str) -> str:
    """The start of one phrase and the end of another on the same thing, some words left out."""
    one, two = (sentences.say_need(rng, label).split() for _ in range(2))
    if rng.random() < 0.5:
        words = one[: int(rng.integers(1, len(one) + 1))] + two[int(rng.integers(len(two))) :]
    else:
        words = one
    kept = [word for word in words if rng.random() < _KEPT]
    return " ".join(kept if len(kept) > 3 else one)


def _core(rng: np.random.Generator, query: ViewQuery) -> str | None:
    article = sentences.pick(rng, ("the ", "the ", "a ", "that ", ""))
    match query.kind:
        case "name":
            return article + sentences.any_name(rng, query.label)
        case "color":
            name = sentences.any_name(rng, query.label)
            if rng.random() < 0.6:
                return f"{article}{query.color} {name}"
            between = " ".join(_filler(rng)[:3])
            return f"{article}{name} {between} {query.color}".replace("  ", " ")
        case "on":
            between = " ".join(_filler(rng)[:2])
            return f"{article}{query.label} {between} on the {query.other}".replace("  ", " ")
        case "all":
            return sentences.pick(rng, ("all ", "every one of the ", "all the ")) + plural(
                query.label
            )
        case "everything":
            return (
                sentences.pick(rng, ("everything", "all things", "whatever is"))
                + f" on the {query.other}"
            )
        case "both":
            word = sentences.pick(rng, ("and", "and", "plus", "together with", "and also"))
            return f"the {query.label} {word} the {query.other}"
    return None


def _filler(rng: np.random.Generator) -> list[str]:
    """No word to six, most of them words of questions, some made up."""
    count = int(rng.integers(_MOST_WORDS + 1))
    words = _plain_words()
    return [
        _invent(rng) if rng.random() < _INVENTED else sentences.pick(rng, words)
        for _ in range(count)
    ]


def _invent(rng: np.random.Generator) -> str:
    """A word nobody has heard, from the start of one and the end of another."""
    start, end = (sentences.pick(rng, _plain_words()) for _ in range(2))
    return start[: int(rng.integers(1, len(start) + 1))] + end[int(rng.integers(len(end))) :]


@cache
def _plain_words() -> tuple[str, ...]:
    """Words of all questions but those that name a thing, a colour or a place."""
    phrases = sentences.load_phrases()
    names = (*ASKED_LABELS, *(name for each in phrases.values() for name in each.names))
    spoken = (*names, *(plural(name) for name in names), *COLORS, "on")
    taken = {word for text in spoken for word in text.split()}
    frames = (*sentences.NAME_FRAMES, *sentences.COLOR_FRAMES, *sentences.VERB_FRAMES)
    said = (text for each in phrases.values() for text in (*each.situations, *each.verbs))
    words = {word.strip("?,.!'") for text in (*frames, *said) for word in text.split()}
    return tuple(sorted(word for word in words - taken if word and "{" not in word))
