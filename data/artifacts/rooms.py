"""Rooms artifact: ``rooms.json``, which room of its place each search was taken to mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.artifacts.store import require_complete, write_text_atomic
from data.artifacts.versions import VERSIONS
from data.errors import ArtifactError

SCHEMA_VERSION = VERSIONS["find_rooms"]
FILE = "rooms.json"
_REMEDY = "Run FindRooms again."


@dataclass(frozen=True)
class RoomChoice:
    """The scene that a source's answers chose for a search, "" where no room is likely at all.

    ``likely`` tells how likely each room was held, in [0, 1].
    """

    search_id: str
    source: str
    room: str
    likely: Mapping[str, float]


def write_rooms(folder: Path, choices: Sequence[RoomChoice]) -> None:
    """Write ``rooms.json`` into ``folder``."""
    rows = [asdict(choice) for choice in choices]
    text = json.dumps({"schema_version": SCHEMA_VERSION, "choices": rows}, indent=1) + "\n"
    write_text_atomic(folder / FILE, text)


def read_rooms(folder: Path) -> dict[tuple[str, str], RoomChoice]:
    """Choices by (search id, source); ArtifactError when the artifact cannot be read."""
    require_complete(folder, _REMEDY)
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        choices = [RoomChoice(**row) for row in content["choices"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(folder / FILE, "rooms of this schema", found, _REMEDY) from error
    return {(choice.search_id, choice.source): choice for choice in choices}
