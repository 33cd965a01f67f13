"""Progress of long work: a bar on a terminal, a line every half minute in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

_LOG_EVERY_SECONDS = 30.0

Show = Callable[[int, int], None]


def reporter(title: str, alone: bool = False) -> Show:
    """A ``progress(done, total)`` callback for a stage.

    ``alone`` says that no other worker writes to the terminal meanwhile, so a bar is safe.
    """
    if alone and sys.stderr.isatty():
        return _bar(title)
    return _lines(title)


def _bar(title: str) -> Callable[[int, int], None]:
    bar = tqdm(desc=title, unit="step", dynamic_ncols=True)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def _lines(title: str) -> Callable[[int, int], None]:
    logger = logging.getLogger("luigi-interface.progress")
    start = last = time.monotonic()
    first_done: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal last, first_done
        if first_done is None:
            first_done = done - 1
        now = time.monotonic()
        if now - last < _LOG_EVERY_SECONDS or done >= total:
            return
        last = now
        left = (now - start) / max(1, done - first_done) * (total - done)
        logger.info("%s: %d/%d, about %d s left", title, done, total, round(left))

    return show
