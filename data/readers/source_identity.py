"""Hash a scene's source files for fingerprints: by content, or by size and time of change."""

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
    """Hash files and folders below ``base``: SHA-256, 64 hex digits.

    Small files and the files ``hashed`` are hashed by content, other files by size and time of
    change, and folders by the names, sizes and times of their entries. A missing file or folder
    is hashed as "missing" and raises no error, so that a run can be planned without it; reading
    the scene raises the error.
    """
    always = set(hashed)
    parts = {str(path.relative_to(base)): _file_identity(path, path in always) for path in files}
    for folder in folders:
        digest = hashlib.sha256("\n".join(_listing(folder)).encode()).hexdigest()
        parts[f"{folder.relative_to(base)}/"] = digest
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def _file_identity(path: Path, always_hash: bool) -> str:
    """Return a file's content hash if it is small or ``always_hash``, else its size and time."""
    try:
        status = path.stat()
        if always_hash or status.st_size <= _SMALL_FILE:
            return _content_hash(path, status.st_size, status.st_mtime_ns)
        return f"{status.st_size}:{status.st_mtime_ns}"
    except OSError:
        return "missing"


@functools.lru_cache(maxsize=100_000)
def _content_hash(path: Path, size: int, mtime_ns: int) -> str:
    """SHA-256 of a file, cached for the process by path, size and time of change."""
    return sha256_of(path)


def _listing(folder: Path) -> Iterator[str]:
    """Yield name, size and time of every entry of a folder, sorted; "missing" if it is missing."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            status = entry.stat()
            yield f"{entry.name}:{status.st_size}:{status.st_mtime_ns}"
    except OSError:
        yield "missing"
