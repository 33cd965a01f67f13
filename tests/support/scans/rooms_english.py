"""The queries' English, read back: written by hand, apart from the wordings it checks."""

from __future__ import annotations

import re

COLORS = "red|orange|yellow|green|blue|purple|pink|brown|white|grey|black"

# What a person would say each need is about, written down by hand from the wordings.
ANSWERS = {
    "bed": r"sleep at night|lie down on to go|eight hours",
    "pillow": r"rest my head|under my head|my neck",
    "sofa": r"side by side|several people|upholstered",
    "chair": r"seat for one|one person sit|backrest",
    "table": r"dinner|serve the meal|plates",
    "desk": r"homework|paperwork|write a letter",
    "lamp": r"read in the dark|turn on for light|getting dim",
    "monitor": r"output of a computer|has a screen|spreadsheets",
    "bookshelf": r"novels|something to read|literature",
    "wall clock": r"the time\?|late\?|noon",
    "trash bin": r"wrapper|garbage|apple",
    "potted plant": r"watered|soil|sunlight",
    "toilet": r"relieve|flushed|nature calls",
    "sink": r"wash my hands|rinse a cup|sticky",
    "bathtub": r"soak|whole body|foam",
    "refrigerator": r"milk|keeps fresh|chilled",
    "door": r"leave the room|out into the hall|visitor",
    "window": r"daylight|see the sky|rains",
    "whiteboard": r"marker|sketching|diagram",
    "nightstand": r"my glasses|stand beside a bed|sleeper",
    "wardrobe": r"my coat|clothes|clean shirt",
    "picture": r"only for decoration|artwork|art lover",
}
REFERRING_FORMS = (
    r"(?:the|find the|which) (?P<name>.+?) (?:that is on|on|has been put on|resting on top of)"
    r" the (?P<host>.+?)\??",
    r"the (?P<name>.+) that is (?P<color>\w+)",
    r"show me the (?P<name>.+) which is mostly (?P<color>\w+)",
    rf"(?:highlight |find )?the (?P<color>{COLORS}) (?P<name>.+?)(?:, please)?",
    r"can you point out the (?P<name>.+) in this room\?",
    r"(?:I am looking for|find|where is|please segment)? ?the (?P<name>.+?)\??",
)
SPATIAL_FORMS = (
    r"(?:the|find the) (?P<name>.+) (?P<near>closest|nearest) to the (?P<anchor>.+)",
    r"(?:the|find the) (?P<name>.+) (?P<far>farthest|most distant) from the (?P<anchor>.+)",
    r"of all the (?P<names>.+), the one with the (?P<near>shortest) distance to the (?P<anchor>.+)",
    r"of all the (?P<names>.+), the one with the (?P<far>longest) distance to the (?P<anchor>.+)",
    r"(?:the|find the) (?P<big>largest|biggest) (?P<name>.+)",
    r"which (?P<name>.+) takes up the (?P<big>most) space\?",
    r"the (?P<tall>tallest) (?P<name>.+)",
    r"find the (?P<name>.+) that reaches (?P<tall>highest)",
    r"of all the (?P<names>.+), the one whose top is (?P<tall>highest) above the floor",
)
MULTIPLE_FORMS = (
    r"(?:everything on|find all the things that stand on) the (?P<host>.+)",
    r"which items has somebody put on the (?P<host>.+)\?",
    r"find both the (?P<name>.+?) and the (?P<other>.+)",
    r"the (?P<name>.+?) and the (?P<other>.+)",
    r"show me two things: the (?P<name>.+?) as well as the (?P<other>.+)",
    r"find every (?P<name>.+) in the room",
    r"mark each and every (?P<name>.+)",
    r"(?:all the|show me the whole set of) (?P<names>.+)",
    r"the (?P<count>two|three|four|five|six) (?P<names>.+)",
)


def parse(forms: tuple[str, ...], text: str) -> dict[str, str]:
    for form in forms:
        match = re.fullmatch(form, text)
        if match:
            return match.groupdict()
    raise AssertionError(f"no form fits {text!r}")
