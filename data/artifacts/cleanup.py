"""Check and remove artifacts: damaged ones, and those that no kept result was made from.

Results are kept where a pointer (``latest*.json``) names them, and for some time after they were
made. Inputs are followed by fingerprint, through all scene sets below one output folder, as a
student may come from another set.

A folder is renamed aside first, which is one step, and deleted then; what a crash left of the
deletion is found by its name and deleted the next time. Locks stay: whoever waits for a lock
file that was deleted under it would not keep out whoever makes a new one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from data.artifacts.metadata import (
    CHECKSUM,
    HOLDER,
    METADATA,
    Listed,
    failure_path,
    files_of,
    listed_files,
    metadata_text,
    read_metadata,
    sha256_of,
    size_of,
)
from data.artifacts.object_store import Place, RemoteFolder
from data.artifacts.store import fingerprint, lock_path
from data.errors import DataError

ARTIFACT_NAME = re.compile(r"[0-9a-f]{12}")
ROOMS_STAGE = "generate_rooms"
_NEEDED = {"stage", "fingerprint", "schema_version", "config", "inputs", "files"}
_NOTED = {"packages", "host", "wall_seconds", "peak_memory_mb", "finished", CHECKSUM}


class Finding(NamedTuple):
    """A file of a finished artifact that is not as it was written, and in what way.

    ``is_extra`` says that the file is there though the metadata does not list it.
    """

    path: Place
    what: str
    is_extra: bool = False


class Artifacts(NamedTuple):
    """Artifact folders, outer ones before those that lie in them."""

    finished: tuple[Path, ...]
    unfinished: tuple[Path, ...]


def artifacts_below(start: Path) -> Artifacts:
    """Artifacts at and below a folder, by their metadata file or, unfinished, by their name.

    What a folder without metadata holds inside a finished artifact is that one's to answer for.
    """
    finished: list[Path] = []
    nameless: list[Path] = []
    for place, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(place)
        if METADATA in files:
            finished.append(folder)
        elif ARTIFACT_NAME.fullmatch(folder.name):
            nameless.append(folder)
    holders = {up for path in (*finished, *nameless) for up in path.parents}
    inside = set(finished)
    unfinished = [
        path for path in nameless if path not in holders and inside.isdisjoint(path.parents)
    ]
    return Artifacts(tuple(finished), tuple(unfinished))


def place_of(folder: Place, stages: Collection[str]) -> tuple[str, str]:
    """Stage and scene of an artifact's folder, by where it lies; "" where there is none.

    ``stages`` are the names of the folders that hold artifacts.
    """
    parts = folder.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in stages:
            below = parts[index + 1 :]
            is_room = parts[index] == ROOMS_STAGE and len(below) == 3
            scene = below[2] if is_room else below[0] if len(below) == 2 else ""
            return parts[index], scene
    return "", ""


def num_files(folder: Place) -> int:
    """How many files ``check_artifact`` will compare."""
    return len(listed_files(read_metadata(folder) or {}) or {})


def check_artifact(folder: Path, step: Callable[[], None]) -> list[Finding]:
    """Compare all files of a finished artifact with its metadata, and that with itself.

    ``step`` is called after every file.
    """
    content = read_metadata(folder)
    if content is None:
        return [Finding(folder / METADATA, "damaged: not the content that was written")]
    findings = list(check_metadata(folder, content))
    files = listed_files(content)
    if files is None:
        return [Finding(folder / METADATA, "damaged: its list of files cannot be read")]
    for name, file in files.items():
        what = _check_file(folder / name, file)
        if what:
            findings.append(Finding(folder / name, what))
        step()
    return findings + _unlisted(folder, files)


def check_metadata(folder: Place, content: Mapping[str, Any]) -> Iterator[Finding]:
    """What in an artifact's metadata contradicts itself, or the folder's name."""
    path = folder / METADATA
    names = set(content)
    if not _NEEDED <= names <= _NEEDED | _NOTED:
        odd = ", ".join(sorted((_NEEDED - names) | (names - _NEEDED - _NOTED)))
        yield Finding(path, f"damaged: entries missing or unknown ({odd})")
        return
    try:
        told = (content["stage"], content["schema_version"], content["config"], content["inputs"])
        digest = fingerprint(*told)
    except (TypeError, ValueError):
        digest = ""
    is_named = not ARTIFACT_NAME.fullmatch(folder.name) or digest[:12] == folder.name
    if digest != content["fingerprint"] or not is_named:
        yield Finding(path, "damaged: its fingerprint is not that of its config and inputs")
    elif CHECKSUM in content and path.read_bytes() != metadata_text(content).encode():
        yield Finding(path, "damaged: not byte by byte as it was written")


def _check_file(path: Path, file: Listed) -> str:
    what = differs(size_of(path), file)
    if what:
        return what
    try:
        digest = sha256_of(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if digest != file.sha256:
        return f"damaged: SHA-256 {digest[:12]}..., {file.sha256[:12]}... was written"
    return ""


def differs(size: int, file: Listed) -> str:
    """In what way a file of so many bytes, -1 for none, is not the one listed; "" if it may be."""
    if size < 0:
        return "missing"
    return f"damaged: {size} bytes, {file.size} were written" if size != file.size else ""


def _unlisted(folder: Path, files: Mapping[str, Listed]) -> list[Finding]:
    """Files that the metadata does not know; a room without metadata is one finding."""
    holds_rooms = folder.parent.name == ROOMS_STAGE
    found: dict[Path, Finding] = {}
    for path in files_of(folder):
        parts = path.relative_to(folder).parts
        if path.relative_to(folder).as_posix() in files:
            continue
        if holds_rooms and parts[0] == "data" and len(parts) > 2:
            lost = folder / "data" / parts[1] / METADATA
            found[lost] = Finding(lost, "missing")
        else:
            found[path] = Finding(path, "not listed in metadata.json", is_extra=True)
    return list(found.values())


class RemoteArtifacts(NamedTuple):
    """Folders of artifacts, in order."""

    finished: tuple[RemoteFolder, ...]
    unfinished: tuple[RemoteFolder, ...]


def objects_below(start: RemoteFolder) -> RemoteArtifacts:
    """Artifacts at and below a folder, by their metadata or, unfinished, by their name."""
    finished: dict[str, None] = {}
    named: dict[str, None] = {}
    depth = len(start.parts)
    for name in start.files():
        parts = (*start.parts, *name.split("/"))
        folders = [i for i in range(depth, len(parts)) if ARTIFACT_NAME.fullmatch(parts[i - 1])]
        if folders:
            named["/".join(parts[: folders[0]])] = None
        if parts[-1] == METADATA:
            finished["/".join(parts[:-1])] = None
    unfinished = (url for url in named if url not in finished)
    return RemoteArtifacts(tuple(map(RemoteFolder, finished)), tuple(map(RemoteFolder, unfinished)))


def check_objects(folder: RemoteFolder, step: Callable[[], None]) -> list[Finding]:
    """Compare all objects of a finished artifact with its metadata, reading each.

    ``step`` is called after every object.
    """
    content = read_metadata(folder)
    files = listed_files(content) if content is not None else None
    if content is None or files is None:
        return [Finding(folder / METADATA, "damaged: not the content that was written")]
    findings = list(check_metadata(folder, content))
    stored = folder.files()
    whole = {}
    for name, file in files.items():
        what = differs(stored[name].size if name in stored else -1, file)
        if what:
            findings.append(Finding(folder / name, what))
            step()
        else:
            whole[name] = file.size
    for name, digest in folder.digests(whole):
        if digest != files[name].sha256:
            written = f"{files[name].sha256[:12]}... was written"
            findings.append(Finding(folder / name, f"damaged: SHA-256 {digest[:12]}..., {written}"))
        step()
    others = (name for name in stored if name not in {*files, METADATA, HOLDER})
    extra = (Finding(folder / n, "not listed in metadata.json", is_extra=True) for n in others)
    return [*findings, *extra]


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


def stored_in(set_folder: Path, stages: Collection[str]) -> Iterator[Stored]:
    """A scene set's artifacts below the folders named ``stages``.

    Rooms that were generated together are one artifact. Folders that the store would not have
    made, such as a user's own, are none.
    """
    for stage in stages:
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


_ASIDE = ".removed"


def locks_of(folder: Path) -> list[Path]:
    """Locks under which an artifact is written, with those of artifacts inside it."""
    return [lock_path(folder), *sorted(folder.glob("*/.*.lock"))]


def is_locked(folder: Path) -> bool:
    """Whether a process is making the artifact, or one inside it; creates no file."""
    return any(_is_held(path) for path in locks_of(folder) if path.exists())


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def remove(folder: Path) -> bool:
    """Delete an artifact; False, and nothing done, when a process is making it.

    An artifact that holds this one, as generated rooms do, is then no longer a finished one.
    """
    outer = [up for up in folder.parents[:2] if (up / METADATA).exists()]
    locks = [*map(lock_path, outer), *locks_of(folder)]
    with ExitStack() as held:
        try:
            for path in locks:
                held.enter_context(FileLock(path, timeout=0))
        except Timeout:
            return False
        for up in outer:
            (up / METADATA).unlink()
        aside = folder.with_name(f".{folder.name}{_ASIDE}")
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(folder, aside)
        failure_path(folder).unlink(missing_ok=True)
    shutil.rmtree(aside)
    return True


def leftovers(start: Path) -> Iterator[Path]:
    """What interrupted deletions left at and below a folder."""
    for place, folders, _ in os.walk(start):
        left = [name for name in folders if name.startswith(".") and name.endswith(_ASIDE)]
        yield from (Path(place) / name for name in sorted(left))
        folders[:] = [name for name in folders if not name.startswith(".")]
