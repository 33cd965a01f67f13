"""What a finished artifact's ``metadata.json`` says of its files, and whether they still are so.

The metadata holds each file's size and SHA-256, and under ``checksum`` that of its own other
content. Reading an artifact checks what is small (``require_complete``);
``data.artifacts.checks`` checks everything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data.artifacts.remote import Place, RemoteFolder
from data.errors import ArtifactError

METADATA = "metadata.json"
CHECKSUM = "checksum"
CHECKED_ON_READ = 64 * 2**20
"""Bytes of an artifact that are compared with their checksums when it is read."""


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: the same text for the same content."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class Listed(NamedTuple):
    """A file as the metadata lists it: bytes, 64 hex digits, and in a store its tag, or ""."""

    size: int
    sha256: str
    tag: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Listed:
        """One entry of the metadata's list; KeyError, TypeError or ValueError when damaged."""
        return cls(int(entry["bytes"]), str(entry.get("sha256")), str(entry.get("tag", "")))


def read_metadata(folder: Place) -> dict[str, Any] | None:
    """The metadata of a folder; None where there is none, or it is damaged.

    Metadata without a checksum of its own is an earlier version's, and taken as it is.
    """
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return parsed_metadata(text)


def parsed_metadata(text: str | bytes) -> dict[str, Any] | None:
    """The content of a metadata file; None where it is damaged."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    told = content.get(CHECKSUM)
    return content if told is None or told == content_checksum(content) else None


def content_checksum(content: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of a metadata's content but for the checksum itself."""
    others = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(canonical_json(others).encode()).hexdigest()


def listed_files(content: Mapping[str, Any]) -> dict[str, Listed] | None:
    """The artifact's files by relative path; None where the list is damaged."""
    files = content.get("files", {})
    try:
        return {str(name): Listed.of(entry) for name, entry in files.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def metadata_text(content: Mapping[str, Any]) -> str:
    """The metadata file of a content, byte by byte."""
    return json.dumps(content, indent=1) + "\n"


def size_of(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def require_complete(folder: Place, remedy: str) -> None:
    """Raise ArtifactError when ``folder`` is not a finished artifact, or as of ``check_files``."""
    if read_metadata(folder) is None:
        raise ArtifactError(str(folder), "a finished artifact (metadata.json)", "none", remedy)
    check_files(folder, remedy)


def check_files(folder: Place, remedy: str) -> None:
    """Compare a finished artifact's files with its metadata; of an unfinished one, nothing.

    Sizes are compared of all files, checksums of the smallest up to ``CHECKED_ON_READ`` bytes
    in all: large arrays are read in parts, and hashing them whole would take longer than that.
    What was compared is remembered for the process, until the file changes. Of an object store
    one listing tells sizes and tags; checksums are compared where a tag is not the one noted.

    Raises:
        ArtifactError: a file is missing, or not as it was written; the error names it.
    """
    left = CHECKED_ON_READ
    files = listed_files(read_metadata(folder) or {}) or {}
    again = f"Run: python -m pipeline verify {folder} --remove. Then: {remedy}"
    if isinstance(folder, RemoteFolder):
        _check_objects(folder, files, again)
        return
    for name, file in sorted(files.items(), key=lambda item: item[1].size):
        path = folder / name
        try:
            stat = path.stat()
        except OSError as error:
            raise ArtifactError(path, "the file as it was written", "none", again) from error
        if stat.st_size != file.size:
            found = f"{stat.st_size} bytes"
            raise ArtifactError(path, f"the {file.size} bytes written", found, again)
        left -= file.size
        if left >= 0 and _digest(path, stat.st_mtime_ns, stat.st_size) != file.sha256:
            expected = f"the content written (SHA-256 {file.sha256[:12]}...)"
            raise ArtifactError(path, expected, "other content: it was damaged since", again)


def _check_objects(folder: RemoteFolder, files: Mapping[str, Listed], again: str) -> None:
    stored = folder.files() if files else {}
    unsure: dict[str, int] = {}
    left = CHECKED_ON_READ
    for name, file in sorted(files.items(), key=lambda item: item[1].size):
        if name not in stored:
            raise ArtifactError(str(folder / name), "the object as it was written", "none", again)
        if stored[name].size != file.size:
            found = f"{stored[name].size} bytes"
            raise ArtifactError(str(folder / name), f"the {file.size} bytes written", found, again)
        if not file.tag or stored[name].tag != file.tag:
            left -= file.size
            unsure |= {name: file.size} if left >= 0 else {}
    for name, digest in folder.digests(unsure):
        if digest != files[name].sha256:
            expected = f"the content written (SHA-256 {files[name].sha256[:12]}...)"
            found = "other content: it was replaced since"
            raise ArtifactError(str(folder / name), expected, found, again)


@lru_cache(maxsize=2**14)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    """SHA-256 of a file; time and size are there to tell when to read it again."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """The artifact's files; hidden ones are locks, nested artifacts answer for themselves."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == METADATA:
            continue
        if path.is_file():
            yield path
        elif not (path / METADATA).exists():
            yield from files_of(path)
