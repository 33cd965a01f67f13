"""Find damaged artifacts and artifacts that no kept result needs, and remove artifacts.

A result is kept while a pointer file (``latest*.json``) names it, and for some time after it was
made. The inputs of kept results are followed by fingerprint through all scene sets below one
output folder, because a student may come from another set.

Removal first renames a folder, which is atomic, and then deletes it; a folder that a crash left
renamed is recognised by its name and deleted by the next removal. Lock files are never deleted:
a process that waits for a deleted lock file would not exclude a process that creates a new one.
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
    METADATA,
    WRITER_FILE,
    ListedFile,
    files_of,
    last_error_path,
    listed_files,
    metadata_text,
    read_metadata,
    sha256_of,
    size_of,
)
from data.artifacts.object_store import RemoteFolder, StoragePath
from data.artifacts.store import fingerprint, lock_path
from data.errors import DataError

ARTIFACT_NAME = re.compile(r"[0-9a-f]{12}")
ROOMS_STAGE = "generate_rooms"
_NEEDED = {"stage", "fingerprint", "schema_version", "config", "inputs", "files"}
_NOTED = {"packages", "host", "wall_seconds", "peak_memory_mb", "finished", CHECKSUM}


class Finding(NamedTuple):
    """A file of a finished artifact that differs from what was written.

    ``what`` describes the difference; ``is_extra`` marks a file that the metadata does not list.
    """

    path: StoragePath
    what: str
    is_extra: bool = False


class Artifacts(NamedTuple):
    """Finished and unfinished artifact folders; a folder comes before the folders inside it."""

    finished: tuple[Path, ...]
    unfinished: tuple[Path, ...]


def artifacts_below(start: Path) -> Artifacts:
    """List the artifacts at and below a folder.

    A folder with a metadata file is finished; a folder that only has an artifact's name is
    unfinished. A folder inside a finished artifact belongs to that artifact.
    """
    finished: list[Path] = []
    unfinished_candidates: list[Path] = []
    for path_text, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folder = Path(path_text)
        if METADATA in files:
            finished.append(folder)
        elif ARTIFACT_NAME.fullmatch(folder.name):
            unfinished_candidates.append(folder)
    outer_folders = {up for path in (*finished, *unfinished_candidates) for up in path.parents}
    finished_folders = set(finished)
    unfinished = [
        path
        for path in unfinished_candidates
        if path not in outer_folders and finished_folders.isdisjoint(path.parents)
    ]
    return Artifacts(tuple(finished), tuple(unfinished))


def stage_and_scene_of(folder: StoragePath, stages: Collection[str]) -> tuple[str, str]:
    """Tell the stage and the scene of an artifact from its path; "" for an unknown one.

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


def num_files(folder: StoragePath) -> int:
    """Count the files that ``check_artifact`` compares."""
    return len(listed_files(read_metadata(folder) or {}) or {})


def check_artifact(folder: Path, step: Callable[[], None]) -> list[Finding]:
    """Compare all files of a finished artifact with its metadata; check the metadata itself.

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
        problem = _check_file(folder / name, file)
        if problem:
            findings.append(Finding(folder / name, problem))
        step()
    return findings + _unlisted(folder, files)


def check_metadata(folder: StoragePath, content: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the contradictions in an artifact's metadata and between it and the folder's name."""
    path = folder / METADATA
    names = set(content)
    if not _NEEDED <= names <= _NEEDED | _NOTED:
        wrong_names = ", ".join(sorted((_NEEDED - names) | (names - _NEEDED - _NOTED)))
        yield Finding(path, f"damaged: entries missing or unknown ({wrong_names})")
        return
    try:
        identity = (
            content["stage"],
            content["schema_version"],
            content["config"],
            content["inputs"],
        )
        digest = fingerprint(*identity)
    except (TypeError, ValueError):
        digest = ""
    is_named = not ARTIFACT_NAME.fullmatch(folder.name) or digest[:12] == folder.name
    if digest != content["fingerprint"] or not is_named:
        yield Finding(path, "damaged: its fingerprint is not that of its config and inputs")
    elif CHECKSUM in content and path.read_bytes() != metadata_text(content).encode():
        yield Finding(path, "damaged: not byte by byte as it was written")


def _check_file(path: Path, file: ListedFile) -> str:
    problem = size_difference(size_of(path), file)
    if problem:
        return problem
    try:
        digest = sha256_of(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    if digest != file.sha256:
        return f"damaged: SHA-256 {digest[:12]}..., {file.sha256[:12]}... was written"
    return ""


def size_difference(size: int, file: ListedFile) -> str:
    """Describe how a file's size in bytes (-1: no file) differs from the listed one, "" if not."""
    if size < 0:
        return "missing"
    return f"damaged: {size} bytes, {file.size} were written" if size != file.size else ""


def _unlisted(folder: Path, files: Mapping[str, ListedFile]) -> list[Finding]:
    """List the files that the metadata does not list; a room without metadata is one finding."""
    holds_rooms = folder.parent.name == ROOMS_STAGE
    findings: dict[Path, Finding] = {}
    for path in files_of(folder):
        parts = path.relative_to(folder).parts
        if path.relative_to(folder).as_posix() in files:
            continue
        if holds_rooms and parts[0] == "data" and len(parts) > 2:
            room_metadata = folder / "data" / parts[1] / METADATA
            findings[room_metadata] = Finding(room_metadata, "missing")
        else:
            findings[path] = Finding(path, "not listed in metadata.json", is_extra=True)
    return list(findings.values())


class RemoteArtifacts(NamedTuple):
    """Finished and unfinished artifact folders of an object store, by name."""

    finished: tuple[RemoteFolder, ...]
    unfinished: tuple[RemoteFolder, ...]


def remote_artifacts_below(start: RemoteFolder) -> RemoteArtifacts:
    """List the artifacts at and below a folder of an object store, as ``artifacts_below`` does."""
    finished: dict[str, None] = {}
    artifact_urls: dict[str, None] = {}
    depth = len(start.parts)
    for name in start.files():
        parts = (*start.parts, *name.split("/"))
        folders = [i for i in range(depth, len(parts)) if ARTIFACT_NAME.fullmatch(parts[i - 1])]
        if folders:
            artifact_urls["/".join(parts[: folders[0]])] = None
        if parts[-1] == METADATA:
            finished["/".join(parts[:-1])] = None
    unfinished = (url for url in artifact_urls if url not in finished)
    return RemoteArtifacts(tuple(map(RemoteFolder, finished)), tuple(map(RemoteFolder, unfinished)))


def check_remote_artifact(folder: RemoteFolder, step: Callable[[], None]) -> list[Finding]:
    """Read all objects of a finished artifact and compare them with its metadata.

    ``step`` is called after every object.
    """
    content = read_metadata(folder)
    files = listed_files(content) if content is not None else None
    if content is None or files is None:
        return [Finding(folder / METADATA, "damaged: not the content that was written")]
    findings = list(check_metadata(folder, content))
    stored = folder.files()
    intact_sizes = {}
    for name, file in files.items():
        problem = size_difference(stored[name].size if name in stored else -1, file)
        if problem:
            findings.append(Finding(folder / name, problem))
            step()
        else:
            intact_sizes[name] = file.size
    for name, digest in folder.digests(intact_sizes):
        if digest != files[name].sha256:
            written = f"{files[name].sha256[:12]}... was written"
            findings.append(Finding(folder / name, f"damaged: SHA-256 {digest[:12]}..., {written}"))
        step()
    unlisted_names = (name for name in stored if name not in {*files, METADATA, WRITER_FILE})
    extra = (
        Finding(folder / n, "not listed in metadata.json", is_extra=True) for n in unlisted_names
    )
    return [*findings, *extra]


@dataclass(frozen=True)
class StoredArtifact:
    """A finished or unfinished artifact on disk.

    ``names`` holds its fingerprint and, for generated rooms, the fingerprint of each room.
    ``inputs`` holds the fingerprints of its inputs. ``time`` (seconds since 1970) is when it was
    finished or, if unfinished, when one of its files last changed.
    """

    folder: Path
    stage: str
    names: frozenset[str]
    inputs: frozenset[str]
    time: float
    is_finished: bool


def stored_artifacts(set_folder: Path, stages: Collection[str]) -> Iterator[StoredArtifact]:
    """Yield the artifacts of a scene set below the folders named ``stages``.

    Rooms that were generated together are one artifact. Folders that the store did not name,
    such as a user's, are passed over.
    """
    for stage in stages:
        for folder in _visible(set_folder / stage):
            versions = [path for path in _visible(folder) if ARTIFACT_NAME.fullmatch(path.name)]
            if (folder / METADATA).exists():
                yield _stored(folder, stage)
            elif versions:
                yield from (_stored(path, stage) for path in versions)
            elif ARTIFACT_NAME.fullmatch(folder.name):
                yield _stored(folder, stage)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    entries = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in entries if path.is_dir() and not path.is_symlink())


def _stored(folder: Path, stage: str) -> StoredArtifact:
    content = read_metadata(folder)
    contents = [content] if content else []
    names = set()
    if stage == ROOMS_STAGE:
        rooms = _visible(folder / "data")
        contents += [metadata for room in rooms if (metadata := read_metadata(room))]
        names = {_room_name(content, room.name) for room in rooms} if content else set()
    names |= {str(metadata.get("fingerprint")) for metadata in contents}
    inputs = {
        str(value) for metadata in contents for value in dict(metadata.get("inputs", {})).values()
    }
    times = [_finished(metadata, folder) for metadata in contents]
    time = max(times) if content else _changed(folder)
    return StoredArtifact(
        folder, stage, frozenset(names), frozenset(inputs), time, content is not None
    )


def _room_name(index: Mapping[str, Any], scene_id: str) -> str:
    """Compute a room's fingerprint, which works also where its metadata is damaged."""
    identity = (index["stage"], index["schema_version"], index["config"])
    return fingerprint(*identity, {"room": scene_id})


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
    """Read the fingerprints of the results of all runs, by pointer file (``latest*.json``).

    Raises:
        DataError: a pointer file cannot be read.
    """
    pointers = [*output_root.glob("*/latest*.json"), *output_root.glob("*/*/latest*.json")]
    results = {}
    for path in sorted(pointers):
        try:
            results[path] = str(json.loads(path.read_text(encoding="utf-8"))["report"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            remedy = "Run the task that made it, such as RunAll, again, or delete the file."
            found = f"{type(error).__name__}: {error}"
            raise DataError(path, "a pointer to results", found, remedy) from error
    return results


def reachable_artifacts(
    artifacts: Iterable[StoredArtifact], named: Iterable[str], since: float
) -> set[Path]:
    """Find the folders of the artifacts to keep.

    These are the artifacts with a fingerprint in ``named``, those finished or changed at
    ``since`` (seconds since 1970) or later, and all artifacts that these were made from.
    """
    all_artifacts = list(artifacts)
    by_name: dict[str, list[StoredArtifact]] = {}
    for artifact in all_artifacts:
        for name in artifact.names:
            by_name.setdefault(name, []).append(artifact)
    reached = {artifact.folder: artifact for name in named for artifact in by_name.get(name, ())}
    reached |= {artifact.folder: artifact for artifact in all_artifacts if artifact.time >= since}
    queue = list(reached.values())
    while queue:
        needed = {artifact for name in queue.pop().inputs for artifact in by_name.get(name, ())}
        added = [artifact for artifact in needed if artifact.folder not in reached]
        reached |= {artifact.folder: artifact for artifact in added}
        queue += added
    return set(reached)


_ASIDE = ".removed"


def locks_of(folder: Path) -> list[Path]:
    """List the lock files of an artifact and of the artifacts inside it."""
    return [lock_path(folder), *sorted(folder.glob("*/.*.lock"))]


def is_locked(folder: Path) -> bool:
    """Whether a process is writing the artifact or one inside it; creates no file."""
    return any(_is_held(path) for path in locks_of(folder) if path.exists())


def _is_held(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def remove(folder: Path) -> bool:
    """Delete an artifact; return False and delete nothing while a process is writing it.

    An outer artifact, such as the set of generated rooms around a room, becomes unfinished.
    """
    outer_folders = [
        outer_folder for outer_folder in folder.parents[:2] if (outer_folder / METADATA).exists()
    ]
    locks = [*map(lock_path, outer_folders), *locks_of(folder)]
    with ExitStack() as stack:
        try:
            for path in locks:
                stack.enter_context(FileLock(path, timeout=0))
        except Timeout:
            return False
        for outer_folder in outer_folders:
            (outer_folder / METADATA).unlink()
        aside = folder.with_name(f".{folder.name}{_ASIDE}")
        if aside.exists():
            shutil.rmtree(aside)
        os.rename(folder, aside)
        last_error_path(folder).unlink(missing_ok=True)
    shutil.rmtree(aside)
    return True


def leftovers(start: Path) -> Iterator[Path]:
    """Yield the folders at and below ``start`` that an interrupted removal left renamed."""
    for path_text, folders, _ in os.walk(start):
        removed_names = [name for name in folders if name.startswith(".") and name.endswith(_ASIDE)]
        yield from (Path(path_text) / name for name in sorted(removed_names))
        folders[:] = [name for name in folders if not name.startswith(".")]
