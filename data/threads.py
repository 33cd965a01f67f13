"""Work of one process on several cores, with results that no number of threads changes."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from data.child_process import THREAD_VARIABLES

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def num_threads() -> int:
    """Threads this process may use: what its environment grants it, else the cores it may run on.

    The pipeline grants each of its workers a share of the machine (``THREAD_VARIABLES``).
    """
    for variable in THREAD_VARIABLES:
        granted = os.environ.get(variable, "")
        if granted.isdecimal() and int(granted) > 0:
            return int(granted)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def mapped(
    function: Callable[[_Item], _Result], items: Iterable[_Item], threads: int | None = None
) -> Iterator[_Result]:
    """Yield ``function(item)`` in the order of the items, ``num_threads()`` at once by default.

    No more than that many results exist before they are asked for. What a call raises is raised
    at its turn; calls begun by then are waited for.
    """
    threads = num_threads() if threads is None else threads
    if threads <= 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        coming: deque[Future[_Result]] = deque()
        for item in items:
            coming.append(pool.submit(function, item))
            if len(coming) >= threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
