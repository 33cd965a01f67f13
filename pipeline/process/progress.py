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
    """Progress of a task in shared memory, written by its process and read by the worker.

    It holds two integers in anonymous shared memory, so neither side waits for the other. A process
    killed during a write leaves at worst one old number.
    """

    _NUMBERS = struct.Struct("=qq")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._NUMBERS.size)

    def write(self, done: int, total: int) -> None:
        """Store the number of finished steps and of all steps."""
        self._NUMBERS.pack_into(self._memory, 0, done, total)

    def read(self) -> tuple[int, int]:
        """The numbers stored last; (0, 0) before the first."""
        done, total = self._NUMBERS.unpack_from(self._memory)
        return int(done), int(total)


_slot: Slot | None = None


def report_to(slot: Slot | None) -> None:
    """Make reporters of this process, and of processes forked from it, write to ``slot``."""
    global _slot
    _slot = slot


def reporter(title: str, alone: bool = False) -> Show:
    """A callback (done, total) that shows a stage's progress.

    ``alone`` says that no other process writes to the terminal at the same time, so that a bar can
    be drawn where the worker draws none.
    """
    if _slot is not None:
        return _both(_slot.write, _lines(title))
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
        seconds_left = (now - start) / max(1, done - first_done) * (total - done)
        logger.info("%s: %d/%d, about %d s left", title, done, total, round(seconds_left))

    return show


_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def table(rows: Sequence[Sequence[str]], left: int = 1) -> Iterator[str]:
    """Rows as aligned lines: the first ``left`` columns and the last to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    for row in rows:
        cells = [
            cell.ljust(width) if index < left or index == last else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()


def size(num_bytes: float) -> str:
    """Bytes as a text in decimal units with about three digits."""
    for unit, name in _UNITS:
        if num_bytes >= unit:
            return f"{num_bytes / unit:.3g} {name}"
    return f"{num_bytes:.0f} B"
