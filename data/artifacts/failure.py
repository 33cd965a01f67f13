"""What stopped the last attempt at an artifact: a small file beside its folder, for ``status``.

It is there from the failure until somebody tries again; a process that is killed leaves none.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from data.errors import UserError


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
