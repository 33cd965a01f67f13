"""Places: which scenes are rooms of one home, as hierarchical search needs to know."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.errors import DataError
from data.jsonio import read_json

_REGION = re.compile(r"(?P<house>.+)_region[0-9]+")
_REMEDY = 'Give a JSON object of scene ids by place, such as {"home_1": ["scene_a", "scene_b"]}.'

Places = Mapping[str, Sequence[str]]


def consecutive(scene_ids: Sequence[str], size: int) -> dict[str, tuple[str, ...]]:
    """Groups of ``size`` scenes that follow each other (the last may be smaller), by first id."""
    groups = (tuple(scene_ids[k : k + size]) for k in range(0, len(scene_ids), size))
    return {f"place_{rooms[0]}": rooms for rooms in groups}


def houses(scene_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Matterport3D's regions, ``<house>_region<N>``, by house; a scene of no house is no place."""
    found: dict[str, tuple[str, ...]] = {}
    for scene_id in scene_ids:
        region = _REGION.fullmatch(scene_id)
        if region:
            found[region["house"]] = (*found.get(region["house"], ()), scene_id)
    return found


def read_places(path: Path) -> dict[str, tuple[str, ...]]:
    """Scene ids by place from a JSON file.

    Raises DataError for a missing or damaged file, and for a scene that is of two places.
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
    """What the places have of these scenes; places without any are left out."""
    known = set(scene_ids)
    kept = {place: tuple(r for r in rooms if r in known) for place, rooms in places.items()}
    return {place: rooms for place, rooms in kept.items() if rooms}
