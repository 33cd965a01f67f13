"""Which artifacts the results that are kept were made from: all others may go.

Results are kept where a pointer (``latest*.json``) names them, and for some time after they were
made. Inputs are followed by fingerprint, through all scene sets below one output folder, as a
student may come from another set.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from data.artifacts.checks import ARTIFACT_NAME, ROOMS_STAGE
from data.artifacts.record import METADATA, read_metadata
from data.artifacts.store import fingerprint
from data.artifacts.versions import VERSIONS
from data.errors import DataError


@dataclass(frozen=True)
class Stored:
    """An artifact on disk, finished or not.

    ``names`` are the fingerprints that it is known by: its own, and of generated rooms also each
    room's. ``inputs`` are those it was made from; ``time`` is when it was finished, of an
    unfinished one when a file in it last changed, in seconds since 1970.
    """

    folder: Path
    stage: str
    names: frozenset[str]
    inputs: frozenset[str]
    time: float
    is_finished: bool


def stored_in(set_folder: Path) -> Iterator[Stored]:
    """A scene set's artifacts; rooms that were generated together are one of them.

    Folders that the store would not have made, such as a user's own, are none.
    """
    for stage in VERSIONS:
        for folder in _visible(set_folder / stage):
            below = [path for path in _visible(folder) if ARTIFACT_NAME.fullmatch(path.name)]
            if (folder / METADATA).exists():
                yield _stored(folder, stage)
            elif below:
                yield from (_stored(path, stage) for path in below)
            elif ARTIFACT_NAME.fullmatch(folder.name):
                yield _stored(folder, stage)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def _stored(folder: Path, stage: str) -> Stored:
    content = read_metadata(folder)
    contents = [content] if content else []
    names = set()
    if stage == ROOMS_STAGE:
        rooms = _visible(folder / "data")
        contents += [found for room in rooms if (found := read_metadata(room))]
        names = {_room_name(content, room.name) for room in rooms} if content else set()
    names |= {str(found.get("fingerprint")) for found in contents}
    inputs = {str(value) for found in contents for value in dict(found.get("inputs", {})).values()}
    times = [_finished(found, folder) for found in contents]
    time = max(times) if content else _changed(folder)
    return Stored(folder, stage, frozenset(names), frozenset(inputs), time, content is not None)


def _room_name(index: Mapping[str, Any], scene_id: str) -> str:
    """A room's fingerprint, also of one whose own metadata is damaged."""
    told = (index["stage"], index["schema_version"], index["config"])
    return fingerprint(*told, {"room": scene_id})


def _finished(content: Mapping[str, Any], folder: Path) -> float:
    try:
        return datetime.strptime(str(content.get("finished")), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        return _changed(folder)


def _changed(folder: Path) -> float:
    places = [place for place, _, _ in os.walk(folder)]
    files = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return max(os.lstat(path).st_mtime for path in (*places, *files))


def named_results(output_root: Path) -> dict[Path, str]:
    """Fingerprints of the results that runs left, by pointer file.

    Raises:
        DataError: a pointer cannot be read, so that nobody knows what it names.
    """
    pointers = [*output_root.glob("*/latest*.json"), *output_root.glob("*/*/latest*.json")]
    named = {}
    for path in sorted(pointers):
        try:
            named[path] = str(json.loads(path.read_text(encoding="utf-8"))["report"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Run again what it was made by, such as RunAll, or delete it."
            found = f"{type(error).__name__}: {error}"
            raise DataError(path, "a pointer to results", found, remedy) from error
    return named


def kept(everything: Iterable[Stored], named: Iterable[str], since: float) -> set[Path]:
    """Folders of the artifacts to keep.

    Those named, those finished or worked on at ``since`` (seconds since 1970) or later, and all
    that these were made from.
    """
    stored = list(everything)
    by_name: dict[str, list[Stored]] = {}
    for one in stored:
        for name in one.names:
            by_name.setdefault(name, []).append(one)
    reached = {one.folder: one for name in named for one in by_name.get(name, ())}
    reached |= {one.folder: one for one in stored if one.time >= since}
    waiting = list(reached.values())
    while waiting:
        needed = {one for name in waiting.pop().inputs for one in by_name.get(name, ())}
        fresh = [one for one in needed if one.folder not in reached]
        reached |= {one.folder: one for one in fresh}
        waiting += fresh
    return set(reached)
