"""Finished artifacts below a folder, and what of them is no longer as it was written."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data.artifacts.record import (
    CHECKSUM,
    METADATA,
    Listed,
    files_of,
    listed_files,
    metadata_text,
    read_metadata,
    sha256_of,
    size_of,
)
from data.artifacts.remote import Place
from data.artifacts.store import fingerprint
from data.artifacts.versions import VERSIONS

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


def place_of(folder: Place) -> tuple[str, str]:
    """Stage and scene of an artifact's folder, by where it lies; "" where there is none."""
    parts = folder.parts
    for index in range(len(parts) - 1, -1, -1):
        if parts[index] in VERSIONS:
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
    stage, scene = place_of(folder)
    found: dict[Path, Finding] = {}
    for path in files_of(folder):
        parts = path.relative_to(folder).parts
        if path.relative_to(folder).as_posix() in files:
            continue
        if stage == ROOMS_STAGE and not scene and parts[0] == "data" and len(parts) > 2:
            lost = folder / "data" / parts[1] / METADATA
            found[lost] = Finding(lost, "missing")
        else:
            found[path] = Finding(path, "not listed in metadata.json", is_extra=True)
    return list(found.values())
