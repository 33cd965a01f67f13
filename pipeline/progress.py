"""Progress of long work: told to whoever shows it, else a bar on a terminal or lines in a log.

A task that Luigi forked tells the process that forked it, through two numbers in memory that
both share, and shows nothing itself but lines in its log.
"""

from __future__ import annotations

import logging
import mmap
import struct
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

LOG_EVERY_SECONDS = 30.0
LOGGER = "luigi-interface.progress"

Show = Callable[[int, int], None]


class Slot:
    """How far a task is, written by its process and read by its parent.

    Two numbers in anonymous shared memory: nothing can block, and a process that is killed while
    it writes leaves at worst one of them old.
    """

    _NUMBERS = struct.Struct("=qq")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._NUMBERS.size)

    def write(self, done: int, total: int) -> None:
        """Say how much is done, of how much."""
        self._NUMBERS.pack_into(self._memory, 0, done, total)

    def read(self) -> tuple[int, int]:
        """What was said last; (0, 0) before."""
        done, total = self._NUMBERS.unpack_from(self._memory)
        return int(done), int(total)


_told: Slot | None = None


def tell(slot: Slot | None) -> None:
    """From now on reporters of this process, and of those forked from it, write to ``slot``."""
    global _told
    _told = slot


def reporter(title: str, alone: bool = False) -> Show:
    """A ``progress(done, total)`` callback for a stage.

    ``alone`` says that no other worker writes to the terminal meanwhile, so a bar is safe where
    no parent shows one.
    """
    if _told is not None:
        return _both(_told.write, _lines(title))
    if alone and sys.stderr.isatty():
        return _bar(title)
    return _lines(title)


def _both(first: Show, second: Show) -> Show:
    def show(done: int, total: int) -> None:
        first(done, total)
        second(done, total)

    return show


def _bar(title: str) -> Show:
    bar = tqdm(desc=title, unit="step", dynamic_ncols=True)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def _lines(title: str) -> Show:
    logger = logging.getLogger(LOGGER)
    start = last = time.monotonic()
    first_done: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal last, first_done
        if first_done is None:
            first_done = done - 1
        now = time.monotonic()
        if now - last < LOG_EVERY_SECONDS or done >= total:
            return
        last = now
        left = (now - start) / max(1, done - first_done) * (total - done)
        logger.info("%s: %d/%d, about %d s left", title, done, total, round(left))

    return show
