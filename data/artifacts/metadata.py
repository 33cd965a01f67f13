"""An artifact's ``metadata.json``, and the small files that name its writer and last error.

The metadata holds each file's size and SHA-256, and under ``checksum`` that of its own other
content. Reading an artifact checks what is small (``require_complete``);
``data.artifacts.cleanup`` checks everything.

It tells ``status`` where a stage runs, and keeps a process whose lock was lost with a network disk
from sealing what another host writes meanwhile.

It is there from the failure until somebody tries again; a process that is killed leaves none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from data.artifacts.object_store import Place, RemoteFolder
from data.errors import ArtifactError, UserError

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


HOLDER = ".holder.json"
"""In a folder that is being written: host, pid and start (seconds since 1970) of who writes it."""


def holder_text() -> str:
    """Of this process, what ``HOLDER`` holds."""
    told = {"host": platform.node(), "pid": os.getpid(), "started": round(time.time(), 3)}
    return json.dumps(told)


@contextmanager
def named(folder: Path) -> Iterator[None]:
    """Say who writes a folder; it counts only while the lock is held.

    Raises ArtifactError when the body ends well, but another process took the folder over.
    """
    path, text = folder / HOLDER, holder_text()
    path.write_text(text)
    try:
        yield
        _expect_held(folder, text)
    finally:
        if _text_of(path) == text:
            path.unlink(missing_ok=True)


def _expect_held(folder: Path, told: str) -> None:
    found = _text_of(folder / HOLDER)
    if found != told:
        raise ArtifactError(
            folder,
            f"to be written by {told}",
            f"{found or 'nobody'}, who took it over while this host seemed lost",
            "What the other writes is kept: run the command again",
        )


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


@dataclass(frozen=True)
class Failure:
    """The first line of an error, where it happened, and when (seconds since 1970)."""

    error: str
    host: str
    time: float


def failure_path(folder: Path) -> Path:
    """The file that tells of an artifact's failure."""
    return folder.with_name(f".{folder.name}.failed.json")


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Keep what stops the body; forget what stopped it before."""
    path = failure_path(folder)
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        failure = Failure(told(error), platform.node(), round(time.time(), 3))
        # On a full disk the error itself is what matters.
        with contextlib.suppress(OSError):
            aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            aside.write_text(json.dumps(asdict(failure)) + "\n", encoding="utf-8")
            os.replace(aside, path)
        raise


def told(error: BaseException) -> str:
    """An error on one line: the first of its message, with its kind where that says more."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def read_failure(folder: Path) -> Failure | None:
    """What stopped an artifact's last attempt; None where nothing is known to have."""
    try:
        return Failure(**json.loads(failure_path(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
