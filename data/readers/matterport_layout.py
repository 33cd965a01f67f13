"""Define the paths of Matterport3D's files, and read its ``.house`` files.

    <root>/v1/scans/<house>/region_segmentations/   region<k>.ply  region<k>.fsegs.json
                                                    region<k>.semseg.json
    <root>/v1/scans/<house>/house_segmentations/    <house>.house
    <root>/v1/scans/<house>/undistorted_camera_parameters/   <house>.conf
    <root>/v1/scans/<house>/undistorted_color_images/        <panorama>_i<camera>_<yaw>.jpg
    <root>/splits/<name>.txt    one scene id (or one house, for all of its regions) per line

A scene is one region (room) of a house: ``<house>_region<k>``. The user may give ``<root>``,
``<root>/v1`` or ``<root>/v1/scans``. The downloaded archives contain ``<house>/<kind>/``, so the
folders ``<house>/<house>/<kind>`` and ``<house>/<kind>/<house>/<kind>`` are searched as well.

Lines of a ``.house`` file begin with a letter. The lines read are ``R region level 0 0 label
...`` (a region and its type, one character) and ``P name panorama region 0 x y z ...`` (a
panorama and its region; portals are P lines too, but their name is a number).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import DataError
from data.jsonio import read_text
from data.readers.scannetpp_layout import check_id, read_scene_list
from data.readers.source_identity import identity_of

SCENE_REMEDY = "Download and unpack this file again with Matterport3D's download script."
_SCENE = re.compile(r"([0-9a-zA-Z]+)_region([0-9]{1,4})")
_REGION = re.compile(r"region([0-9]{1,4})")


def split_root(root: Path) -> tuple[Path, Path]:
    """Return (folder of houses, dataset root) for any form of root; DataError if it is missing."""
    if not root.is_dir():
        remedy = "Set the data folder of the scene set to Matterport3D's root."
        raise DataError(root, "Matterport3D's root folder", "no such folder", remedy)
    return _split(root)


def _split(root: Path) -> tuple[Path, Path]:
    if (root / "v1" / "scans").is_dir():
        return root / "v1" / "scans", root
    if (root / "scans").is_dir():
        return root / "scans", root.parent
    return root, root.parent.parent


def read_split(root: Path, split_name: str) -> list[str]:
    """Read the scene ids of ``splits/<split_name>.txt``, in order; a house means all its regions.

    Raises:
        DataError: missing or empty file, an id twice, an id with other characters than letters,
            digits and underscores, or a house without regions.
    """
    houses, base = split_root(root)
    path = base / "splits" / f"{check_id(split_name, root, 'a split')}.txt"
    scenes: list[str] = []
    for name in read_scene_list(path):
        scenes += [name] if _SCENE.fullmatch(name) else regions_of(houses, name)
    repeated = sorted({scene_id for scene_id in scenes if scenes.count(scene_id) > 1})
    if repeated:
        remedy = "Give a house or its regions, not both."
        raise DataError(path, "each scene id once", f"{repeated[:5]} twice", remedy)
    return scenes


def regions_of(houses: Path, house: str) -> list[str]:
    """List the scene ids of a house's regions with a mesh, by number; DataError for none."""
    folder = _folder(houses, house, "region_segmentations")
    matches = [_REGION.fullmatch(path.stem) for path in folder.glob("region*.ply")]
    numbers = sorted(int(match[1]) for match in matches if match)
    if not numbers:
        raise DataError(folder, f"regions of house {house} (region<k>.ply)", "none", SCENE_REMEDY)
    return [f"{house}_region{number}" for number in numbers]


def _folder(houses: Path, house: str, kind: str) -> Path:
    plain = houses / house / kind
    choices = (plain / house / kind, plain, houses / house / house / kind)
    return next((path for path in choices if path.is_dir()), plain)


@dataclass(frozen=True)
class RegionPaths:
    """Paths of the files of one region and of its house."""

    houses: Path
    house: str
    region: int

    @classmethod
    def find(cls, root: Path, scene_id: str) -> RegionPaths:
        """Make the paths of a scene; DataError for a missing house or a malformed id."""
        match = _SCENE.fullmatch(scene_id)
        if match is None:
            expected = "a scene id <house>_region<k>"
            raise DataError(root, expected, repr(scene_id[:80]), "Correct the id.")
        paths = cls(split_root(root)[0], match[1], int(match[2]))
        folder = paths.houses / paths.house
        if not folder.is_dir():
            remedy = "Download the house, or take it out of the split."
            raise DataError(folder, "a folder of a house", "no such folder", remedy)
        return paths

    def _region_file(self, ending: str) -> Path:
        folder = _folder(self.houses, self.house, "region_segmentations")
        return folder / f"region{self.region}{ending}"

    @property
    def mesh(self) -> Path:
        """Coloured triangle mesh of the region."""
        return self._region_file(".ply")

    @property
    def segments(self) -> Path:
        """Segment id of every face of ``mesh``."""
        return self._region_file(".fsegs.json")

    @property
    def annotation(self) -> Path:
        """Annotated groups of segments."""
        return self._region_file(".semseg.json")

    @property
    def house_file(self) -> Path:
        """Regions of the house, their types and their panoramas."""
        return _folder(self.houses, self.house, "house_segmentations") / f"{self.house}.house"

    @property
    def cameras(self) -> Path:
        """Intrinsics and poses of the undistorted images."""
        kind = "undistorted_camera_parameters"
        return _folder(self.houses, self.house, kind) / f"{self.house}.conf"

    @property
    def images(self) -> Path:
        """Folder of the house's undistorted images."""
        return _folder(self.houses, self.house, "undistorted_color_images")

    @property
    def calibration(self) -> Path:
        """Folder of the distorted images' intrinsics; may be missing."""
        return _folder(self.houses, self.house, "matterport_camera_intrinsics")

    def files(self) -> tuple[Path, ...]:
        """Return every file that the reader opens, without images."""
        return (self.mesh, self.segments, self.annotation, self.house_file, self.cameras)


def scene_identity(root: Path, scene_id: str, camera: str) -> str:
    """Hash a scene's source files for fingerprints: SHA-256, 64 hex digits.

    The hash covers the annotation's content, and name, size and time of the house's images
    (``source_identity.identity_of``). ``camera`` is ignored. A missing file raises no error.
    """
    match = _SCENE.fullmatch(scene_id)
    house, region = (match[1], int(match[2])) if match else (scene_id, 0)
    paths = RegionPaths(_split(root)[0], house, region)
    return identity_of(paths.houses, paths.files(), (paths.annotation,), (paths.images,))


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
    """A house: the room type of each region, and the names of the panoramas in each region."""

    room_types: Mapping[int, str]
    panoramas: Mapping[int, tuple[str, ...]]


def read_room_type(root: Path, scene_id: str) -> str:
    """Read a scene's room type, such as "bedroom"; raises DataError as ``read_house`` does."""
    paths = RegionPaths.find(root, scene_id)
    types = read_house(paths.house_file).room_types
    if paths.region not in types:
        expected = f"an R line of region {paths.region}"
        raise DataError(paths.house_file, expected, f"{len(types)} others", SCENE_REMEDY)
    return types[paths.region]


def read_house(path: Path) -> House:
    """Read the regions and panoramas of a house.

    Raises:
        DataError: the file is missing or damaged, has no region, has a region twice or a room
            type that is not in ``ROOM_TYPES``, or a panorama's region does not exist.
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
                raise _wrong(path, number, "a new region and a known room type", line)
            room_types[region] = ROOM_TYPES[fields[5]]
        elif _PANORAMA.fullmatch(fields[1]):
            # Panoramas outside all regions have -1.
            region = -1 if fields[3] == "-1" else _whole(fields[3], path, number, line)
            panoramas.setdefault(region, []).append(fields[1])
    if not room_types:
        raise DataError(path, "R lines, one a region", "none", SCENE_REMEDY)
    unknown_regions = sorted(set(panoramas) - set(room_types) - {-1})
    if unknown_regions:
        expected = "panoramas in regions of the house"
        raise DataError(path, expected, f"one in region {unknown_regions[0]}", SCENE_REMEDY)
    return House(room_types, {region: tuple(names) for region, names in panoramas.items()})


def _whole(text: str, path: Path, number: int, line: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise _wrong(path, number, "a region's number", line)
    return int(text)


def _wrong(path: Path, number: int, expected: str, line: str) -> DataError:
    return DataError(path, f"{expected} in line {number}", repr(line[:100]), SCENE_REMEDY)
