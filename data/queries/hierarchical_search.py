"""Parse sentences of hierarchical search, and make their queries in each room of a place.

A *place* is a group of scenes that are its rooms (in Matterport3D the regions of a house). A
search asks each room two kinds of queries: the wanted object, and signs of the meant room.
Choosing the room uses no labels; only the search's truth holds the correct room.

"In the bedroom, where is the lamp?" names the room "the bedroom" and wants "where is the lamp?".
A known kind of room has a list of signs (``room_words.yaml``); for any other description ("the
room where people cook") the description itself is the sign. Parsing uses no model and no labels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import yaml

from data.errors import DataError
from data.jsonio import read_json
from data.queries.prompts import ATOM_TASK
from data.types import Prompt, PromptTruth

SEARCH_TASK = "search"
SIGN_TASK = "sign"
EXTRA_TASKS = (SEARCH_TASK, SIGN_TASK, ATOM_TASK)
"""Tasks of prompts beside the queries, which have no truth of their own."""


@dataclass(frozen=True)
class Search:
    """One sentence that searches one place.

    ``number`` counts the place's searches. ``wanted`` describes the wanted object and ``signs``
    describe objects that identify the room; each is a query in all ``rooms`` (scene ids).
    ``room_words`` and ``signs`` are empty if the sentence names no room.
    """

    search_id: str
    place: str
    number: int
    rooms: tuple[str, ...]
    text: str
    room_words: str
    wanted: str
    signs: tuple[str, ...]

    def prompt_id(self, scene_id: str) -> str:
        """Return the prompt id of the wanted object's query in one room."""
        return f"{scene_id}_{SEARCH_TASK}_{self.number:04d}"


def search_prompts(searches: Sequence[Search], scene_id: str) -> list[Prompt]:
    """Return a room's queries for the searches of its place; [] for a scene without a place."""
    searches_here = [search for search in searches if scene_id in search.rooms]
    wanted_prompts = [
        Prompt(s.prompt_id(scene_id), scene_id, s.wanted, SEARCH_TASK) for s in searches_here
    ]
    signs = sign_ids(searches, scene_id)
    return wanted_prompts + [
        Prompt(name, scene_id, text, SIGN_TASK) for text, name in signs.items()
    ]


def sign_ids(searches: Sequence[Search], scene_id: str) -> dict[str, str]:
    """Return the prompt ids of a room's signs, by the sign's words; equal signs share an id."""
    searches_here = [search for search in searches if scene_id in search.rooms]
    texts = dict.fromkeys(text for search in searches_here for text in search.signs)
    return {text: f"{scene_id}_{SIGN_TASK}_{k:03d}" for k, text in enumerate(texts)}


def is_extra(prompt_id: str, scene_id: str) -> bool:
    """Whether a scene's prompt belongs to a search or is a phrase of a query's tree."""
    return any(prompt_id.startswith(f"{scene_id}_{task}_") for task in EXTRA_TASKS)


def truths_in_room(
    searches: Sequence[Search], truths: Mapping[str, PromptTruth], scene_id: str
) -> dict[str, PromptTruth]:
    """Return the truths of wanted objects in a room, by prompt id, for searches of this room.

    For the same words in other rooms there is no ground truth. ``truths`` holds, among others,
    the truths of searches by search id.
    """
    truths_here = {}
    for search in searches:
        truth = truths.get(search.search_id)
        if truth is not None and truth.scene_id == scene_id:
            prompt_id = search.prompt_id(scene_id)
            truths_here[prompt_id] = replace(truth, prompt_id=prompt_id)
    return truths_here


_REGION = re.compile(r"(?P<house>.+)_region[0-9]+")
_REMEDY = 'Give a JSON object of scene ids by place, such as {"home_1": ["scene_a", "scene_b"]}.'

Places = Mapping[str, Sequence[str]]


def consecutive(scene_ids: Sequence[str], size: int) -> dict[str, tuple[str, ...]]:
    """Group scenes into places of ``size`` consecutive scenes (the last may be smaller).

    A place is named ``place_<first scene id>``.
    """
    groups = (tuple(scene_ids[k : k + size]) for k in range(0, len(scene_ids), size))
    return {f"place_{rooms[0]}": rooms for rooms in groups}


def houses(scene_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Group Matterport3D's regions ``<house>_region<N>`` by house; other scenes are left out."""
    regions: dict[str, tuple[str, ...]] = {}
    for scene_id in scene_ids:
        region = _REGION.fullmatch(scene_id)
        if region:
            regions[region["house"]] = (*regions.get(region["house"], ()), scene_id)
    return regions


def read_places(path: Path) -> dict[str, tuple[str, ...]]:
    """Read scene ids by place from a JSON file.

    Raises DataError for a missing or damaged file, and for a scene in two places.
    """
    content = read_json(path, "a file of places", _REMEDY)
    fits = isinstance(content, dict) and all(
        isinstance(rooms, list) and rooms and all(isinstance(room, str) and room for room in rooms)
        for rooms in content.values()
    )
    if not fits:
        raise DataError(path, "lists of scene ids by place", type(content).__name__, _REMEDY)
    seen: set[str] = set()
    for place, rooms in content.items():
        twice = sorted({room for room in rooms if room in seen or rooms.count(room) > 1})
        if twice:
            raise DataError(path, f"each scene in one place, once ({place})", str(twice), _REMEDY)
        seen.update(rooms)
    return {place: tuple(rooms) for place, rooms in content.items()}


def within(places: Places, scene_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Restrict places to the given scenes; places without any of them are left out."""
    scene_set = set(scene_ids)
    restricted = {
        place: tuple(r for r in rooms if r in scene_set) for place, rooms in places.items()
    }
    return {place: rooms for place, rooms in restricted.items() if rooms}


RULES = 1
"""Version of the parsing rules; it enters fingerprints."""

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
    """The parts of a search sentence.

    ``room`` are the words about the room ("" if there are none), ``wanted`` is the rest, and
    ``signs`` describe objects that identify the meant room.
    """

    room: str
    wanted: str
    signs: tuple[str, ...]


def read_room_query(text: str, more: Mapping[str, Sequence[str]] | None = None) -> RoomQuery:
    """Split a sentence into its parts; ``more`` adds kinds of rooms: lists of signs by name.

    A room is named at the start ("in the office, the lamp", "where people sleep, the lamp") or,
    if it is of a known kind or described as a room, at the end ("the lamp in the office"). Any
    other sentence names no room.
    """
    text = " ".join(text.split())
    kinds = _kinds() | {name.lower(): tuple(signs) for name, signs in (more or {}).items()}
    for form in (_FRONT, _CLAUSE):
        match = form.match(text)
        if match:
            room = match["room"].strip()
            return RoomQuery(room, match["wanted"].strip(), _signs(room, kinds))
    match = _BACK.match(text)
    if match:
        room_name = _ARTICLE.sub("", match["room"]).lower()
        if room_name in kinds or _DESCRIBED.match(room_name):
            wanted = match["wanted"].strip() + match["end"]
            return RoomQuery(match["room"].strip(), wanted, _signs(match["room"], kinds))
    return RoomQuery("", text, ())


def _signs(room: str, kinds: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    room_name = _ARTICLE.sub("", room)
    if room_name.lower() in kinds:
        return kinds[room_name.lower()]
    described = _DESCRIBED.match(room_name)
    if described and described["thing"]:
        return (described["thing"],)
    use = described["use"] if described else None
    if use:
        return (f"where can I {use}?",)
    clause = described["clause"] if described else None
    if clause is None and room_name.lower().startswith("where "):
        clause = room_name[len("where ") :]
    if clause is not None:
        return (_question(clause),)
    return (room,)


def _question(clause: str) -> str:
    """Turn a clause about a room's use into a question: "people sleep" -> "where can I sleep?"."""
    done, somebody = _SOMEBODY.subn("", clause)
    return f"where can I {done}?" if somebody else f"where {clause}?"


def table_digest() -> str:
    """Return the SHA-256 (64 hex digits) of the table of room kinds."""
    return hashlib.sha256(_table().encode()).hexdigest()


def _table() -> str:
    return resources.files("data.queries").joinpath("room_words.yaml").read_text(encoding="utf-8")


@cache
def _kinds() -> dict[str, tuple[str, ...]]:
    """Load the signs of each kind of room, by each of its names."""
    table = yaml.safe_load(_table())
    return {
        name: tuple(kind["signs"])
        for label, kind in table.items()
        for name in (label, *kind["names"])
    }
