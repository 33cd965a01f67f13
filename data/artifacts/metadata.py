"""Read and check an artifact's ``metadata.json``; record its writer and its last error.

The metadata holds each file's size and SHA-256, and under ``checksum`` the SHA-256 of its own
other content. Reading an artifact checks the small files (``check_files``);
``data.artifacts.cleanup`` checks all.

The writer file (``.holder.json``) lies in a folder while a process writes it. It tells ``status``
where a stage runs, and stops a process that lost its lock with a network disk from finishing a
folder that another host writes. The last error (``.<name>.failed.json``, beside the folder) is
kept until the next attempt starts; a killed process leaves none.
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

from data.artifacts.object_store import RemoteFolder, StoragePath
from data.errors import ArtifactError, UserError

METADATA = "metadata.json"
CHECKSUM = "checksum"
CHECKED_ON_READ = 64 * 2**20
"""Bytes of an artifact whose checksums are compared when it is read."""


def canonical_json(value: Any) -> str:
    """Write JSON with sorted keys and no spaces: equal content gives equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


class ListedFile(NamedTuple):
    """A file as the metadata lists it: size in bytes, SHA-256 (64 hex digits), and ETag.

    ``tag`` is the ETag of an object in an object store, "" for a file on disk.
    """

    size: int
    sha256: str
    tag: str = ""

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> ListedFile:
        """Parse one entry of the list; KeyError, TypeError or ValueError when it is damaged."""
        return cls(int(entry["bytes"]), str(entry.get("sha256")), str(entry.get("tag", "")))


def read_metadata(folder: StoragePath) -> dict[str, Any] | None:
    """Read the metadata of a folder; None where it is missing or damaged.

    Metadata without a checksum comes from an earlier version and is accepted.
    """
    try:
        text = (folder / METADATA).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return parsed_metadata(text)


def parsed_metadata(text: str | bytes) -> dict[str, Any] | None:
    """Parse a metadata file; None where it is damaged."""
    try:
        content = json.loads(text)
    except ValueError:
        return None
    if not isinstance(content, dict):
        return None
    checksum = content.get(CHECKSUM)
    return content if checksum is None or checksum == content_checksum(content) else None


def content_checksum(content: Mapping[str, Any]) -> str:
    """Compute the SHA-256 (64 hex digits) of metadata, without its entry ``checksum``."""
    others = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(canonical_json(others).encode()).hexdigest()


def listed_files(content: Mapping[str, Any]) -> dict[str, ListedFile] | None:
    """Parse the list of the artifact's files, by relative path; None where it is damaged."""
    files = content.get("files", {})
    try:
        return {str(name): ListedFile.of(entry) for name, entry in files.items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def metadata_text(content: Mapping[str, Any]) -> str:
    """Write metadata as the exact text of its file."""
    return json.dumps(content, indent=1) + "\n"


def size_of(path: Path) -> int:
    """Size of a file in bytes; -1 where there is no file."""
    try:
        return path.stat().st_size
    except OSError:
        return -1


def require_complete(folder: StoragePath, remedy: str) -> None:
    """Raise ArtifactError unless ``folder`` is a finished artifact that passes ``check_files``."""
    if read_metadata(folder) is None:
        raise ArtifactError(str(folder), "a finished artifact (metadata.json)", "none", remedy)
    check_files(folder, remedy)


def check_files(folder: StoragePath, remedy: str) -> None:
    """Compare a finished artifact's files with its metadata; an unfinished one is not checked.

    The sizes of all files are compared, and the checksums of the smallest files, up to
    ``CHECKED_ON_READ`` bytes in total: large arrays are read in parts, and hashing them whole
    would take longer than reading. A process hashes a file again only when it has changed. For
    an object store one listing gives sizes and ETags; a checksum is compared where the ETag
    differs from the one in the metadata.

    Raises:
        ArtifactError: a file is missing or differs from what was written; the error names it.
    """
    bytes_left = CHECKED_ON_READ
    files = listed_files(read_metadata(folder) or {}) or {}
    advice = f"Run: python -m pipeline verify {folder} --remove. Then: {remedy}"
    if isinstance(folder, RemoteFolder):
        _check_objects(folder, files, advice)
        return
    for name, file in sorted(files.items(), key=lambda item: item[1].size):
        path = folder / name
        try:
            stat = path.stat()
        except OSError as error:
            raise ArtifactError(path, "the file as it was written", "none", advice) from error
        if stat.st_size != file.size:
            found = f"{stat.st_size} bytes"
            raise ArtifactError(path, f"the {file.size} bytes written", found, advice)
        bytes_left -= file.size
        if bytes_left >= 0 and _digest(path, stat.st_mtime_ns, stat.st_size) != file.sha256:
            expected = f"the content written (SHA-256 {file.sha256[:12]}...)"
            raise ArtifactError(path, expected, "other content: the file was damaged", advice)


def _check_objects(folder: RemoteFolder, files: Mapping[str, ListedFile], advice: str) -> None:
    stored = folder.files() if files else {}
    unverified: dict[str, int] = {}
    bytes_left = CHECKED_ON_READ
    for name, file in sorted(files.items(), key=lambda item: item[1].size):
        if name not in stored:
            raise ArtifactError(str(folder / name), "the object as it was written", "none", advice)
        if stored[name].size != file.size:
            found = f"{stored[name].size} bytes"
            raise ArtifactError(str(folder / name), f"the {file.size} bytes written", found, advice)
        if not file.tag or stored[name].tag != file.tag:
            bytes_left -= file.size
            unverified |= {name: file.size} if bytes_left >= 0 else {}
    for name, digest in folder.digests(unverified):
        if digest != files[name].sha256:
            expected = f"the content written (SHA-256 {files[name].sha256[:12]}...)"
            found = "other content: the object was replaced"
            raise ArtifactError(str(folder / name), expected, found, advice)


@lru_cache(maxsize=2**14)
def _digest(path: Path, mtime_ns: int, size: int) -> str:
    """SHA-256 of a file, kept until the file's time or size changes."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Compute the SHA-256 (64 hex digits) of a file, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(folder: Path) -> Iterator[Path]:
    """Yield an artifact's files, without hidden files (locks) and nested artifacts."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name == METADATA:
            continue
        if path.is_file():
            yield path
        elif not (path / METADATA).exists():
            yield from files_of(path)


WRITER_FILE = ".holder.json"
"""The writer file: host, pid and start (seconds since 1970) of the process that writes a folder."""


def writer_text() -> str:
    """The writer file's content for this process."""
    entries = {"host": platform.node(), "pid": os.getpid(), "started": round(time.time(), 3)}
    return json.dumps(entries)


@contextmanager
def recording_writer(folder: Path) -> Iterator[None]:
    """Keep a writer file in ``folder`` while the body runs; the caller holds the folder's lock.

    Raises ArtifactError when the body succeeds but another process has taken the folder over.
    """
    path, text = folder / WRITER_FILE, writer_text()
    path.write_text(text)
    try:
        yield
        _expect_held(folder, text)
    finally:
        if _text_of(path) == text:
            path.unlink(missing_ok=True)


def _expect_held(folder: Path, expected: str) -> None:
    found = _text_of(folder / WRITER_FILE)
    if found != expected:
        raise ArtifactError(
            folder,
            f"the folder to be written by {expected}",
            f"{found or 'no writer'}: another process took it over while this host was offline",
            "The other process goes on writing it: run the command again",
        )


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None


@dataclass(frozen=True)
class LastError:
    """The last error of an artifact: its first line, the host, and the time (s since 1970)."""

    error: str
    host: str
    time: float


def last_error_path(folder: Path) -> Path:
    """Path of the file that records an artifact's last error."""
    return folder.with_name(f".{folder.name}.failed.json")


@contextmanager
def recording_error(folder: Path) -> Iterator[None]:
    """Record an error that the body raises as the folder's last error; delete an earlier record."""
    path = last_error_path(folder)
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        failure = LastError(error_line(error), platform.node(), round(time.time(), 3))
        # On a full disk the record cannot be written; the error itself is raised all the same.
        with contextlib.suppress(OSError):
            aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            aside.write_text(json.dumps(asdict(failure)) + "\n", encoding="utf-8")
            os.replace(aside, path)
        raise


def error_line(error: BaseException) -> str:
    """The first line of an error's message, after the error's class unless it is a UserError."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def read_last_error(folder: Path) -> LastError | None:
    """Read the last error of an artifact; None where none is recorded."""
    try:
        return LastError(**json.loads(last_error_path(folder).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
