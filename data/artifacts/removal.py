"""Removing artifacts so that a crash at any moment leaves whole ones or none.

A folder is renamed aside first, which is one step, and deleted then; what a crash left of the
deletion is found by its name and deleted the next time. Locks stay: whoever waits for a lock
file that was deleted under it would not keep out whoever makes a new one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from data.artifacts.failure import failure_path
from data.artifacts.record import METADATA
from data.artifacts.store import lock_path

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
