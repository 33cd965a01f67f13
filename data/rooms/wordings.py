"""Define the wordings of generated queries, and recognise the wording of a query.

``train`` wordings occur in every split, ``held_out`` wordings only in validation rooms. Queries
do not store their wording: it is recognised by matching the text with a pattern for each
template, whose slots accept the catalog's names and colours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import NamedTuple

from data.rooms.catalog import LABELS
from data.rooms.shapes import PLAIN_COLORS, QUIET_COLORS


@dataclass(frozen=True)
class Wording:
    """The templates of one kind of query, for ``str.format``."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """A need that objects of ``labels`` meet; not used in rooms with an object of ``barred``."""

    labels: tuple[str, ...]
    barred: tuple[str, ...]
    wording: Wording


REFERRING = {
    "name": Wording(
        ("the {name}", "find the {name}", "where is the {name}?", "please segment the {name}"),
        ("can you point out the {name} in this room?", "I am looking for the {name}"),
    ),
    "color": Wording(
        ("the {color} {name}", "find the {color} {name}", "the {name} that is {color}"),
        ("show me the {name} which is mostly {color}", "highlight the {color} {name}, please"),
    ),
    "on": Wording(
        ("the {name} on the {host}", "find the {name} that is on the {host}"),
        ("which {name} has been put on the {host}?", "the {name} resting on top of the {host}"),
    ),
}

SPATIAL = {
    "closest": Wording(
        ("the {name} closest to the {anchor}", "find the {name} nearest to the {anchor}"),
        ("of all the {names}, the one with the shortest distance to the {anchor}",),
    ),
    "farthest": Wording(
        ("the {name} farthest from the {anchor}", "find the {name} most distant from the {anchor}"),
        ("of all the {names}, the one with the longest distance to the {anchor}",),
    ),
    "largest": Wording(
        ("the largest {name}", "find the biggest {name}"),
        ("which {name} takes up the most space?",),
    ),
    "tallest": Wording(
        ("the tallest {name}", "find the {name} that reaches highest"),
        ("of all the {names}, the one whose top is highest above the floor",),
    ),
}

MULTIPLE = {
    "all": Wording(
        ("all the {names}", "find every {name} in the room", "the {count} {names}"),
        ("mark each and every {name}", "show me the whole set of {names}"),
    ),
    "on": Wording(
        ("everything on the {host}", "find all the things that stand on the {host}"),
        ("which items has somebody put on the {host}?",),
    ),
    "and": Wording(
        ("the {name} and the {other}", "find both the {name} and the {other}"),
        ("show me two things: the {name} as well as the {other}",),
    ),
}

NEEDS = (
    Need(("bed",), (), Wording(
        ("where can I sleep at night?", "what should I lie down on to go to bed?"),
        ("I am exhausted and need eight hours of rest under a blanket",))),
    Need(("pillow",), (), Wording(
        ("what can I rest my head on?", "something soft to put under my head"),
        ("my neck hurts, what should I put beneath it when I lie down?",))),
    Need(("sofa",), (), Wording(
        ("where can two friends sit side by side to watch a film?",
         "the soft seat made for several people"),
        ("upholstered seating on which guests can lounge together",))),
    Need(("chair",), (), Wording(
        ("a seat for one person", "what would one person sit on to work or eat?"),
        ("something with a backrest that I could pull up and sit on by myself",))),
    Need(("table",), ("desk",), Wording(
        ("where can we have dinner together?", "where should I serve the meal?"),
        ("the guests are hungry, where do I set the plates?",))),
    Need(("desk",), ("table",), Wording(
        ("where should I sit down to do my homework?", "the place to do paperwork"),
        ("I need a work surface with drawers to write a letter",))),
    Need(("lamp",), (), Wording(
        ("what can I switch on to read in the dark?", "something that I could turn on for light"),
        ("it is getting dim in here, which thing with a shade would help?",))),
    Need(("monitor",), (), Wording(
        ("what shows me the output of a computer?", "which device has a screen?"),
        ("I want to look at my spreadsheets, where do they appear?",))),
    Need(("bookshelf",), (), Wording(
        ("where are novels kept?", "where can I find something to read?"),
        ("I would like to borrow some literature, where should I look?",))),
    Need(("wall clock",), (), Wording(
        ("what tells me the time?", "how can I see whether I am late?"),
        ("is it noon yet? What should I look at?",))),
    Need(("trash bin",), (), Wording(
        ("where can I throw away this wrapper?", "where does garbage go?"),
        ("I have finished my apple, where do I drop the core?",))),
    Need(("potted plant",), (), Wording(
        ("what needs to be watered?", "which living thing needs soil?"),
        ("something green that grows and needs sunlight",))),
    Need(("toilet",), (), Wording(
        ("where can I relieve myself?", "which fixture has to be flushed after use?"),
        ("nature calls, where do I go?",))),
    Need(("sink",), (), Wording(
        ("where can I wash my hands?", "where should I rinse a cup?"),
        ("my fingers are sticky, where do I clean them?",))),
    Need(("bathtub",), (), Wording(
        ("where can I soak in warm water?", "where can I lie down and wash my whole body?"),
        ("after a long run I want to stretch out in foam and hot water",))),
    Need(("refrigerator",), (), Wording(
        ("where does the milk stay cold?", "where should I put food so that it keeps fresh?"),
        ("I fancy a chilled drink, where would one be?",))),
    Need(("door",), (), Wording(
        ("how do I leave the room?", "what do I open to go out into the hall?"),
        ("through what does a visitor enter?",))),
    Need(("window",), (), Wording(
        ("what lets daylight in?", "through what can I see the sky?"),
        ("where should I look to check whether it rains outside?",))),
    Need(("whiteboard",), (), Wording(
        ("where can I write with a marker for everyone to see?",
         "the surface for sketching ideas in a meeting"),
        ("I have to explain a diagram to the team, where do I draw it?",))),
    Need(("nightstand",), (), Wording(
        ("where do I put my glasses before I fall asleep?",
         "the small piece of furniture made to stand beside a bed"),
        ("which small furniture keeps an alarm within reach of a sleeper?",))),
    Need(("wardrobe",), (), Wording(
        ("where should I hang my coat?", "where are clothes kept behind doors?"),
        ("I need a clean shirt, what should I open?",))),
    Need(("picture",), (), Wording(
        ("which framed thing is there only for decoration?", "the artwork on the wall"),
        ("what would an art lover stop to look at?",))),
)  # fmt: skip


ROOM_WORDS: dict[str, Wording] = {
    "bedroom": Wording(
        ("the bedroom", "the room where people sleep"),
        ("the sleeping room", "the room with the bed"),
    ),
    "office": Wording(
        ("the office", "the room where people do paperwork"),
        ("the study", "the room with the whiteboard"),
    ),
    "living": Wording(
        ("the living room", "the room where two friends sit side by side"),
        ("the lounge", "the room with the sofa"),
    ),
    "service": Wording(
        ("the bathroom", "the room where people soak in warm water"),
        ("the washroom", "the room with the toilet"),
    ),
}
"""How searches name each kind of room: by a name, by its use, or by an object in it."""


def plural(name: str) -> str:
    """Return the English plural of a label."""
    if name.endswith("shelf"):
        return f"{name[:-1]}ves"
    return f"{name}s"


COLOR = "color"


class KnownWording(NamedTuple):
    """The wording of a query: its kind ("name", "color", "need", ...); whether it is held out."""

    kind: str
    held_out: bool


def recognise_wording(text: str) -> KnownWording | None:
    """Recognise the wording of a generated query; None for a text that matches no template.

    >>> recognise_wording("highlight the red chair, please")
    KnownWording(kind='color', held_out=True)
    """
    for pattern, put in _patterns():
        if pattern.fullmatch(text):
            return put
    return None


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], KnownWording], ...]:
    """Return the patterns of all templates; those with a colour come first."""
    wordings: list[tuple[str, Wording]] = [(COLOR, REFERRING[COLOR])]
    for table in (REFERRING, SPATIAL, MULTIPLE):
        wordings += [(kind, wording) for kind, wording in table.items() if kind != COLOR]
    wordings += [("need", need.wording) for need in NEEDS]
    return tuple(
        (_pattern(template), KnownWording(kind, held_out))
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
