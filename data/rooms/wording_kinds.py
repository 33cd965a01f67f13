"""Reads from a generated query's words how it was put: its kind, and whether they were held out.

Queries carry no such mark, and rooms made long ago are told apart all the same. Every template
of ``data.rooms.wordings`` becomes a pattern whose slots take the catalog's names and colours.
"""

from __future__ import annotations

import re
from functools import cache
from string import Formatter
from typing import NamedTuple

from data.rooms.catalog import LABELS
from data.rooms.model import PLAIN_COLORS, QUIET_COLORS
from data.rooms.wordings import MULTIPLE, NEEDS, REFERRING, SPATIAL, Wording, plural

COLOR = "color"


class Put(NamedTuple):
    """Which wording a query is of ("name", "color", "need", ...), and whether it is held out."""

    kind: str
    held_out: bool


def how_put(text: str) -> Put | None:
    """How a generated query was put; None for words of no template.

    >>> how_put("highlight the red chair, please")
    Put(kind='color', held_out=True)
    """
    for pattern, put in _patterns():
        if pattern.fullmatch(text):
            return put
    return None


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], Put], ...]:
    """Templates that take a colour come before those that do not."""
    wordings: list[tuple[str, Wording]] = [(COLOR, REFERRING[COLOR])]
    for table in (REFERRING, SPATIAL, MULTIPLE):
        wordings += [(kind, wording) for kind, wording in table.items() if kind != COLOR]
    wordings += [("need", need.wording) for need in NEEDS]
    return tuple(
        (_pattern(template), Put(kind, held_out))
        for kind, wording in wordings
        for templates, held_out in ((wording.train, False), (wording.held_out, True))
        for template in templates
    )


def _pattern(template: str) -> re.Pattern[str]:
    parts = []
    for literal, slot, _, _ in Formatter().parse(template):
        parts.append(re.escape(literal))
        if slot is not None:
            parts.append(f"(?:{'|'.join(_fillers(slot))})")
    return re.compile("".join(parts))


def _fillers(slot: str) -> list[str]:
    names = [re.escape(label) for label in LABELS]
    match slot:
        case "color":
            return [*PLAIN_COLORS, *QUIET_COLORS]
        case "names":
            return [re.escape(plural(label)) for label in LABELS]
        case "count":
            return ["two", "three", "four", "five", "six"]
    return names
