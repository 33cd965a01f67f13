"""Who writes an artifact: a small file in its folder while it is being written.

It tells ``status`` where a stage runs, and keeps a process whose lock was lost with a network disk
from sealing what another host writes meanwhile.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import ArtifactError

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
