"""Compile loops over points, edges and pixels with Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function of arrays and numbers; keep the result on disk where that is writable.

    The compiled function releases the GIL, so that ``data.parallel`` can run several at once.
    Numba's threads are not used, because they do not survive a fork. Division by zero gives inf
    or NaN as in NumPy: an exception in a loop would prevent vector instructions.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    made: _Function
    try:
        made = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        made = numba.njit(**options)(function)
    return made
