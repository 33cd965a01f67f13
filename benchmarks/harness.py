"""Fair comparisons: verify equal answers, then time paired, interleaved repeats in one process.

Both sides are functions that yield their answer in parts (one per view, or one in all), so that
neither side has to hold the whole answer. A wrong answer raises ``WrongAnswer``; a slow answer is
reported in a row.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

Side = Callable[[], Iterable[Any]]
Check = Callable[[Any, Any], None]
_PROC = Path("/proc/self")
_MISSING = object()


class WrongAnswer(Exception):
    """This project and the reference disagree."""


@dataclass(frozen=True)
class Row:
    """One measured quantity; ``ratio`` = ``reference`` / ``ours``, so larger is better.

    ``target`` is the ratio to reach, None for a row without a target. Where the name contains
    "limit", ``reference`` is that limit and not a measurement.
    """

    name: str
    ratio: float
    target: float | None
    ours: float
    reference: float
    unit: str
    repeats: int


@dataclass(frozen=True)
class Scale:
    """Sizes of the inputs; image sizes in pixels, ``mask_size`` (height, width) in cells."""

    points: int
    faces: int
    views: int
    height: int
    width: int
    train_points: int
    queries: int
    mask_size: tuple[int, int]
    eval_points: int
    eval_queries: int
    growth_points: int
    growth_views: int
    growth_queries: int
    growth_scenes: int


SCALES = {
    "full": Scale(
        points=1_000_000,
        faces=1_000_000,
        views=50,
        height=1168,
        width=1752,
        train_points=300_000,
        queries=20,
        mask_size=(171, 256),
        eval_points=300_000,
        eval_queries=1000,
        growth_points=1_000_000,
        growth_views=30,
        growth_queries=40,
        growth_scenes=1000,
    ),
    "quick": Scale(
        points=100_000,
        faces=100_000,
        views=4,
        height=584,
        width=876,
        train_points=50_000,
        queries=8,
        mask_size=(171, 256),
        eval_points=100_000,
        eval_queries=50,
        growth_points=10_000,
        growth_views=4,
        growth_queries=6,
        growth_scenes=20,
    ),
    "tiny": Scale(
        points=3_000,
        faces=4_000,
        views=2,
        height=96,
        width=144,
        train_points=2_000,
        queries=4,
        mask_size=(18, 27),
        eval_points=2_000,
        eval_queries=6,
        growth_points=3_000,
        growth_views=3,
        growth_queries=3,
        growth_scenes=3,
    ),
}


def row(
    name: str, ours: float, reference: float, unit: str, target: float | None, repeats: int
) -> Row:
    """Make a row of two values in ``unit``."""
    return Row(name, reference / ours, target, ours, reference, unit, repeats)


def verify(name: str, ours: Side, reference: Side, check: Check) -> None:
    """Raise WrongAnswer unless ``check`` accepts every part of both answers."""
    try:
        with _closing(ours()) as all_mine, _closing(reference()) as all_theirs:
            for mine, theirs in zip_longest(all_mine, all_theirs, fillvalue=_MISSING):
                same_length = mine is not _MISSING and theirs is not _MISSING
                require(same_length, "answers of different length")
                check(mine, theirs)
    except WrongAnswer as error:
        raise WrongAnswer(f"{name}: {error}") from error


@contextmanager
def _closing(parts: Iterable[Any]) -> Iterator[Iterable[Any]]:
    """Close a generator that is not exhausted, which restores settings that it changed."""
    try:
        yield parts
    finally:
        if isinstance(parts, Generator):
            parts.close()


def require(agrees: bool, difference: str) -> None:
    """Raise WrongAnswer with ``difference`` unless ``agrees``."""
    if not agrees:
        raise WrongAnswer(difference)


def seconds(ours: Side, reference: Side, repeats: int) -> tuple[float, float]:
    """Return the median wall times of both sides; the order within pairs alternates."""
    times: dict[int, list[float]] = {0: [], 1: []}
    for repeat in range(repeats):
        for side in (0, 1) if repeat % 2 == 0 else (1, 0):
            times[side].append(_elapsed((ours, reference)[side]))
    return statistics.median(times[0]), statistics.median(times[1])


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of a function after a warm-up run; 0 repeats time that run."""
    times = []
    for _ in range(repeats + 1):
        gc.collect()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:] or times)


def compare(
    name: str, ours: Side, reference: Side, check: Check, target: float | None, repeats: int
) -> list[Row]:
    """Verify, then time: one row in seconds, or none when ``repeats`` is 0."""
    verify(name, ours, reference, check)
    if repeats == 0:
        return []
    return [row(f"{name}: time", *seconds(ours, reference, repeats), "s", target, repeats)]


def _elapsed(side: Side) -> float:
    gc.collect()
    start = time.perf_counter()
    _consume(side)
    return time.perf_counter() - start


def _consume(side: Side) -> None:
    deque(side(), maxlen=0)


def peak_megabytes(side: Side) -> float:
    """Return the peak memory of a run above the memory before it, in MB (1e6 bytes).

    The kernel's high-water mark of resident memory is used, which includes memory of compiled
    code; where that mark cannot be reset, tracemalloc is used, which does not.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # Freed memory kept by malloc would hide a peak.
        (_PROC / "clear_refs").write_text("5")
    except (OSError, AttributeError):
        return _traced_megabytes(side)
    before = _resident("VmRSS")
    _consume(side)
    return max(_resident("VmHWM") - before, 1) * 1024 / 1e6


def _resident(field: str) -> int:
    for line in (_PROC / "status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1])
    raise OSError(f"no {field} in {_PROC / 'status'}")


def _traced_megabytes(side: Side) -> float:
    tracemalloc.start()
    try:
        _consume(side)
        return max(tracemalloc.get_traced_memory()[1], 1024) / 1e6
    finally:
        tracemalloc.stop()


def amount(number: int) -> str:
    """Write a count in short form: 1000000 is "1 M", 300000 "300 k"."""
    for size, letter in ((10**6, " M"), (10**3, " k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)
