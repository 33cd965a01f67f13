"""Read text and JSON files of the user's data, and check their fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import DataError

if TYPE_CHECKING:
    from data.types import Array


def read_text(path: Path, what: str, remedy: str) -> str:
    """Read a UTF-8 file; DataError when it is missing, unreadable, binary or empty.

    ``what`` describes the expected file and ``remedy`` tells the user what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(path, what, "no such file", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, what, str(error), remedy) from error
    if not text.strip():
        raise DataError(path, what, "an empty file", remedy)
    return text


def read_json(path: Path, what: str, remedy: str, finite: bool = True) -> Any:
    """Read a JSON file; DataError when it is missing or not JSON.

    NaN and infinity, which are not JSON, are refused unless ``finite`` is False.
    """
    text = read_text(path, what, remedy)
    try:
        return json.loads(text, parse_constant=_refuse_constant if finite else None)
    except (ValueError, RecursionError) as error:
        raise DataError(path, what, f"invalid JSON ({error})", remedy) from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def get_list(content: Any, key: str, path: Path, remedy: str) -> list[Any]:
    """Return the list ``content[key]`` of a JSON object; DataError for anything else."""
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, list):
        found = f"the keys {sorted(content)[:8]}" if isinstance(content, dict) else "no object"
        raise DataError(path, f"a JSON object with a list {key!r}", found, remedy)
    return value


def is_int(value: Any) -> bool:
    """Whether a JSON value is an integer (true and false are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def int_array(values: Any, what: str, path: Path, remedy: str) -> Array:
    """Convert a JSON list of integers to (n,) int64; DataError for anything else in it."""
    import numpy as np  # Not at the top: planning a run reads JSON and must start fast.

    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise DataError(path, f"{what}: a list of integers", str(error), remedy) from error
    if array.ndim == 1 and array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind != "i":
        found = f"an array of {array.ndim} dimensions, type {array.dtype}"
        raise DataError(path, f"{what}: a list of integers", found, remedy)
    return array.astype(np.int64)
