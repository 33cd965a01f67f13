"""One log file for each task: its messages, the output of libraries, and how it ended.

The file is ``<output>/<scene set>/logs/<stage>/[<scene>-]<fingerprint>.log``; each attempt appends
to it. Warnings and errors of the pipeline also go to the terminal.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO, TypeGuard

from data.artifacts.store import ArtifactKey
from pipeline.process import progress
from stages.report.html import duration

FOLDER = "logs"
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_LUIGI = "luigi-interface"


def log_path(root: Path, stage: str, name: str) -> Path:
    """Path of a task's log in a scene set's output folder ``root``."""
    return root / FOLDER / stage / f"{name}.log"


def artifact_log(key: ArtifactKey, scene: str | None) -> Path:
    """Log of the task that makes an artifact, of a scene or of the whole set."""
    root = next(up.parent for up in key.folder.parents if up.name == key.stage)
    name = key.fingerprint[:12]
    return log_path(root, key.stage, f"{scene}-{name}" if scene else name)


def outdated(root: Path, fingerprints: Collection[str], since: float) -> list[Path]:
    """Logs last written before ``since`` (seconds since 1970) that belong to none of the artifacts.

    ``fingerprints`` holds the first 12 digits of the artifacts' fingerprints, their folders' names.
    """
    logs = sorted((root / FOLDER).glob("*/*.log"))
    old_logs = [path for path in logs if path.stat().st_mtime < since]
    return [path for path in old_logs if path.stem.rpartition("-")[2] not in fingerprints]


@contextmanager
def kept(path: Path, title: str) -> Iterator[None]:
    """Append to the log at ``path`` all that this process prints and logs in the body.

    Output is redirected in a process that runs one task; a process that runs others too only logs.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        print(f"{_now()} {title} on {platform.node()}, process {os.getpid()}", file=log)
        is_own = multiprocessing.parent_process() is not None
        with _logged(log), _redirected(log) if is_own else contextlib.nullcontext():
            try:
                yield
            except BaseException as error:
                with contextlib.suppress(OSError):  # On a full disk the first error matters.
                    traceback.print_exception(error, file=log)
                    _end(log, f"{title} failed: {type(error).__name__}", began)
                raise
        _end(log, f"{title} done", began)


def _end(log: TextIO, outcome: str, began: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{_now()} {outcome} after {duration(time.monotonic() - began)}, {peak} MB\n", file=log)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


@contextmanager
def _logged(log: TextIO) -> Iterator[None]:
    """Write the pipeline's log messages to the file, too."""
    logger, handler = logging.getLogger(_LUIGI), logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@contextmanager
def _redirected(log: TextIO) -> Iterator[None]:
    """Redirect both standard streams to the file; log messages still reach the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    with open(os.dup(2), "w", buffering=1, encoding="utf-8") as terminal:
        handlers = logging.getLogger(_LUIGI).handlers
        shown = [(old, _moved(old, terminal)) for old in handlers if _is_shown(old)]
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(saved, 1):
                os.dup2(copy, number)
                os.close(copy)
            for handler, stream in shown:
                handler.removeFilter(_for_terminal)
                handler.setStream(stream)


def _is_shown(handler: logging.Handler) -> TypeGuard[logging.StreamHandler[TextIO]]:
    return isinstance(handler, logging.StreamHandler) and handler.stream is sys.stderr


def _moved(handler: logging.StreamHandler[TextIO], terminal: TextIO) -> TextIO:
    """Make a handler for standard error write to ``terminal``; returns its former stream."""
    handler.addFilter(_for_terminal)
    before = handler.setStream(terminal)
    return before if before is not None else sys.stderr


def _for_terminal(record: logging.LogRecord) -> bool:
    """Whether a message goes to the terminal; progress is shown by the worker instead."""
    return record.name != progress.LOGGER
