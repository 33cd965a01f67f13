"""Progress of long work, and tables and sizes as commands print them."""

from __future__ import annotations

import logging
import mmap
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence

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


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Rows as lines, columns aligned: the first ``left`` and the last to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell.ljust(width) if index < left or index == last else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def size(num_bytes: float) -> str:
    """Bytes in decimal units, to three digits or so."""
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes:.0f} B"
