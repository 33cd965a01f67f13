"""Matterport3D's ``.house`` file: what kinds of rooms a house has, and what stands in them.

Lines begin with a letter. Used are ``R region level 0 0 label ...`` (a region and its kind, one
character) and ``P name panorama region 0 x y z ...`` (a panorama and the region it stands in;
portals are P lines too, told apart by their name being a number).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.jsonio import read_text
from data.readers.matterport_layout import SCENE_REMEDY, RegionPaths

ROOM_TYPES: Mapping[str, str] = {
    "a": "bathroom",
    "b": "bedroom",
    "c": "closet",
    "d": "dining room",
    "e": "entryway",
    "f": "familyroom",
    "g": "garage",
    "h": "hallway",
    "i": "library",
    "j": "laundryroom",
    "k": "kitchen",
    "l": "living room",
    "m": "meetingroom",
    "n": "lounge",
    "o": "office",
    "p": "porch",
    "r": "rec room",
    "s": "stairs",
    "t": "toilet",
    "u": "utilityroom",
    "v": "tv room",
    "w": "gym",
    "x": "outdoor area",
    "y": "balcony",
    "z": "other room",
    "B": "bar",
    "C": "classroom",
    "D": "dining booth",
    "S": "spa",
    "Z": "junk",
    "-": "no label",
}
_PANORAMA = re.compile(r"[0-9a-fA-F]{32}")
_MIN_FIELDS = {"R": 6, "P": 8}


@dataclass(frozen=True)
class House:
    """``room_types`` by region, and the ``panoramas`` (their names) that stand in each."""

    room_types: Mapping[int, str]
    panoramas: Mapping[int, tuple[str, ...]]


def read_room_type(root: Path, scene_id: str) -> str:
    """What kind of room a scene is ("bedroom"); DataError as of ``read_house``."""
    paths = RegionPaths.find(root, scene_id)
    types = read_house(paths.house_file).room_types
    if paths.region not in types:
        expected = f"an R line of region {paths.region}"
        raise DataError(paths.house_file, expected, f"{len(types)} others", SCENE_REMEDY)
    return types[paths.region]


def read_house(path: Path) -> House:
    """Regions and panoramas of a house.

    Raises:
        DataError: the file is missing or damaged, has no region, names one twice or has a kind
            of room that is not in ``ROOM_TYPES``; a panorama stands in a region there is not.
    """
    room_types: dict[int, str] = {}
    panoramas: dict[int, list[str]] = {}
    for number, line in enumerate(read_text(path, "a .house file", SCENE_REMEDY).splitlines(), 1):
        fields = line.split()
        if not fields or fields[0] not in _MIN_FIELDS:
            continue
        if len(fields) < _MIN_FIELDS[fields[0]]:
            raise _wrong(path, number, f"at least {_MIN_FIELDS[fields[0]]} fields", line)
        if fields[0] == "R":
            region = _whole(fields[1], path, number, line)
            if region in room_types or fields[5] not in ROOM_TYPES:
                raise _wrong(path, number, "a region once and a known kind of room", line)
            room_types[region] = ROOM_TYPES[fields[5]]
        elif _PANORAMA.fullmatch(fields[1]):
            # Panoramas of no region have -1.
            region = -1 if fields[3] == "-1" else _whole(fields[3], path, number, line)
            panoramas.setdefault(region, []).append(fields[1])
    if not room_types:
        raise DataError(path, "R lines, one a region", "none", SCENE_REMEDY)
    lost = sorted(set(panoramas) - set(room_types) - {-1})
    if lost:
        expected = "panoramas in regions of the house"
        raise DataError(path, expected, f"one in region {lost[0]}", SCENE_REMEDY)
    return House(room_types, {region: tuple(names) for region, names in panoramas.items()})


def _whole(text: str, path: Path, number: int, line: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise _wrong(path, number, "a region's number", line)
    return int(text)


def _wrong(path: Path, number: int, expected: str, line: str) -> DataError:
    return DataError(path, f"{expected} in line {number}", repr(line[:100]), SCENE_REMEDY)
