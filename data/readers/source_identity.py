"""What a scene's source files are, for fingerprints: content, or size and time of change."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.artifacts.store import canonical_json, sha256_of

_SMALL_FILE = 1 << 20


def identity_of(
    base: Path, files: Iterable[Path], hashed: Iterable[Path], folders: Iterable[Path]
) -> str:
    """SHA-256 (64 hex digits) of files and folders below ``base``.

    Small files and those ``hashed`` count with their content, others with size and time of
    change, folders with the names, sizes and times of what lies in them. What is missing counts
    as missing: this never raises for it, so that planning works; reading the scene will.
    """
    always = set(hashed)
    parts = {str(path.relative_to(base)): _file_identity(path, path in always) for path in files}
    for folder in folders:
        digest = hashlib.sha256("\n".join(_listing(folder)).encode()).hexdigest()
        parts[f"{folder.relative_to(base)}/"] = digest
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _file_identity(path: Path, always_hash: bool) -> str:
    """A file's content hash when it is small or ``always_hash``, else its size and time."""
    try:
        status = path.stat()
        if always_hash or status.st_size <= _SMALL_FILE:
            return _content_hash(path, status.st_size, status.st_mtime_ns)
        return f"{status.st_size}:{status.st_mtime_ns}"
    except OSError:
        return "missing"


@functools.lru_cache(maxsize=100_000)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, computed once a process; size and time are only the cache's key."""
    return sha256_of(path)


def _listing(folder: Path) -> Iterator[str]:
    """Name, size and time of every entry of a folder, by name; "missing" without one."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            status = entry.stat()
            yield f"{entry.name}:{status.st_size}:{status.st_mtime_ns}"
    except OSError:
        yield "missing"
