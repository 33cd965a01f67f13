"""Which room a sentence speaks of, and what is wanted there; English, by its form alone.

"In the bedroom, where is the lamp?" speaks of the bedroom and wants "where is the lamp?". Known
kinds of rooms (``room_words.yaml``) are found by signs; other words about a room ("the room where
people cook") are themselves what is looked for. No model and no label has a say here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import NamedTuple

import yaml

RULES = 1
"""Version of what this module makes of a sentence; it enters fingerprints."""

_FRONT = re.compile(r"^(?:in|inside|within|from|of)\s+(?P<room>[^,:]+)[,:]\s*(?P<wanted>.+)$", re.I)
_CLAUSE = re.compile(r"^(?P<room>where\s[^,:?]+)[,:]\s*(?P<wanted>.+)$", re.I)
_BACK = re.compile(
    r"^(?P<wanted>.+?),?\s+(?:in|inside|of|from)\s+(?P<room>(?:the|a|an|my|our|your)\s[^,?.!]+)"
    r"(?P<end>[?.!]?)$",
    re.I,
)
_ARTICLE = re.compile(r"^(?:the|a|an|my|our|your|this|that)\s+", re.I)
_DESCRIBED = re.compile(
    r"^(?:room|place|one|part)\s+(?:(?:with|that has|containing|for)\s+(?P<thing>.+)"
    r"|(?:where|in which)\s+(?P<clause>.+)|to\s+(?P<use>.+))$",
    re.I,
)
_SOMEBODY = re.compile(
    r"^(?:people|one|somebody|someone|guests|visitors|i|we|you|they)\s+(?:can\s+|could\s+)?", re.I
)


class RoomQuery(NamedTuple):
    """The parts of a sentence over several rooms.

    ``room`` are its words about the room, "" where there are none, ``wanted`` the rest, and
    ``signs`` what to look for in each room in order to find the one that is meant.
    """

    room: str
    wanted: str
    signs: tuple[str, ...]


def read_room_query(text: str, more: Mapping[str, Sequence[str]] | None = None) -> RoomQuery:
    """The parts of a sentence; ``more`` are further kinds of rooms, signs by name.

    A room is named at the start ("in the office, the lamp", "where people sleep, the lamp") or,
    where it is of a known kind or called a room, at the end ("the lamp in the office"). A sentence
    without either speaks of no room.
    """
    text = " ".join(text.split())
    kinds = _kinds() | {name.lower(): tuple(signs) for name, signs in (more or {}).items()}
    for form in (_FRONT, _CLAUSE):
        found = form.match(text)
        if found:
            room = found["room"].strip()
            return RoomQuery(room, found["wanted"].strip(), _signs(room, kinds))
    found = _BACK.match(text)
    if found:
        bare = _ARTICLE.sub("", found["room"]).lower()
        if bare in kinds or _DESCRIBED.match(bare):
            wanted = found["wanted"].strip() + found["end"]
            return RoomQuery(found["room"].strip(), wanted, _signs(found["room"], kinds))
    return RoomQuery("", text, ())


def _signs(room: str, kinds: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    bare = _ARTICLE.sub("", room)
    if bare.lower() in kinds:
        return kinds[bare.lower()]
    described = _DESCRIBED.match(bare)
    if described and described["thing"]:
        return (described["thing"],)
    use = described["use"] if described else None
    if use:
        return (f"where can I {use}?",)
    clause = described["clause"] if described else None
    if clause is None and bare.lower().startswith("where "):
        clause = bare[len("where ") :]
    if clause is not None:
        return (_question(clause),)
    return (room,)


def _question(clause: str) -> str:
    """A question about what is done in a room: "people sleep" is "where can I sleep?"."""
    done, somebody = _SOMEBODY.subn("", clause)
    return f"where can I {done}?" if somebody else f"where {clause}?"


def table_digest() -> str:
    """SHA-256 of the table of kinds."""
    return hashlib.sha256(_table().encode()).hexdigest()


def _table() -> str:
    return resources.files("data").joinpath("room_words.yaml").read_text(encoding="utf-8")


@cache
def _kinds() -> dict[str, tuple[str, ...]]:
    """Signs by each name of a kind."""
    table = yaml.safe_load(_table())
    return {
        name: tuple(kind["signs"])
        for label, kind in table.items()
        for name in (label, *kind["names"])
    }
