"""How far an artifact is, without waiting for whoever is at it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.artifacts.metadata import HOLDER, read_failure
from data.artifacts.store import METADATA, lock_path
from data.errors import ArtifactError
from pipeline.graph import Unit
from pipeline.tables import duration

StateName = Literal["done", "running", "failed", "partial", "damaged", "missing"]
STATES: Sequence[StateName] = ("done", "running", "failed", "partial", "damaged", "missing")


@dataclass(frozen=True)
class State:
    """Of an artifact: its name, views (done, of how many) for a teacher's, who is at it.

    ``error`` is the first line of what stopped the last attempt, and on which host and when.
    """

    name: StateName
    views: tuple[int, int] | None = None
    holder: str = ""
    error: str = ""

    @property
    def cell(self) -> str:
        """The state as short as a table wants it."""
        if self.views is not None and self.name in ("running", "failed", "partial"):
            return f"{self.name} {self.views[0]}/{self.views[1]}"
        return "-" if self.name == "missing" else self.name


def state_of(unit: Unit) -> State:
    """The state of one artifact of a run."""
    if unit.is_done:
        return State("done")
    folder = unit.key.folder
    views = views_done(folder) if unit.key.stage == "run_teacher" else None
    if is_held(folder):
        return State("running", views, _holder(folder))
    failure = read_failure(folder)
    if failure is not None:
        age = duration(max(0.0, time.time() - failure.time))
        return State("failed", views, error=f"{failure.error} (on {failure.host}, {age} ago)")
    if (folder / METADATA).exists():
        return State("damaged")
    return State("partial", views) if folder.is_dir() else State("missing")


def is_held(folder: Path) -> bool:
    """Whether a process holds an artifact's lock, on any host where locks reach that far."""
    try:
        handle = os.open(lock_path(folder), os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared and given back at once: a writer that comes meanwhile tries again and gets it.
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _holder(folder: Path) -> str:
    """Host, process and age of a run, as far as the run has told them yet."""
    try:
        told = json.loads((folder / HOLDER).read_text())
        age = max(0.0, time.time() - float(told["started"]))
        return f"on {told['host']}, process {told['pid']}, for {duration(age)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "about to start"


def views_done(folder: Path) -> tuple[int, int] | None:
    """Views of a teacher cache that are answered, and how many there are; None before the first.

    A view is one file (``data.artifacts.teacher``), and Zarr renames it when it is whole.
    """
    views = folder / "teacher.zarr" / "views"
    try:
        (total,) = json.loads((views / "zarr.json").read_text())["shape"]
        names = [path.name for path in (views / "c").iterdir()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        remedy = "Remove the folder and run RunTeacher again."
        raise ArtifactError(views / "zarr.json", "an array's layout", found, remedy) from error
    return sum(name.isdecimal() for name in names), int(total)
