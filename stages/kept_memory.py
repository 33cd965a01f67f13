"""Memory that a stage frees and soon asks for again stays with its process meanwhile."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_EVERYTHING = 2**31 - 1
# What glibc itself comes to in a process that has freed large arrays.
_USUAL = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


@contextmanager
def kept_memory() -> Iterator[None]:
    """Do not give memory back to the system meanwhile, only after; without glibc nothing changes.

    A large array is otherwise new pages of the system each time, which it clears one by one at
    first touch: a tenth of the time of a step of training, whose arrays are those of the step
    before.
    """
    libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, _EVERYTHING)
    try:
        yield
    finally:
        for option, value in _USUAL:
            libc.mallopt(option, value)
        libc.malloc_trim(0)
