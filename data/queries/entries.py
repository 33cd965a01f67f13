"""Read the records of a JSON query file, and check their fields."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonio import is_int, read_json
from data.queries.prompts import PromptRecord

log = logging.getLogger(__name__)

MAX_ID = 2**31 - 1
_REMEDY = "Correct this record, or remove it."
_NEGATIVE = "Ids are never negative: a cast to int8 makes an id over 127 negative. " + _REMEDY


class Entry:
    """One record of a query file; a wrong field raises DataError naming file, record and field."""

    def __init__(self, content: dict[str, Any], path: Path, number: int) -> None:
        self.content, self.path, self.number = content, path, number

    def wrong(self, expected: str, found: Any, remedy: str = _REMEDY) -> DataError:
        """Make the error of a field; the message says "expected <expected> of record <number>"."""
        return DataError(self.path, f"{expected} of record {self.number}", _shown(found), remedy)

    def key(self, *keys: str) -> str:
        """Return the first of the keys that the record has, or the first key if it has none."""
        return next((key for key in keys if key in self.content), keys[0])

    def text(self, *keys: str) -> str:
        """Return the stripped text of the first key present; DataError if blank or no text."""
        key = self.key(*keys)
        value = self.content.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"a text as {key}", value)
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON may hold half of a surrogate pair.
            raise self.wrong(f"Unicode text as {key}", value) from None
        return value.strip()

    def text_or(self, key: str, default: str) -> str:
        """Return the text as ``text`` does, or the default if the record lacks the field."""
        return self.text(key) if key in self.content else default

    def optional(self, *keys: str) -> str:
        """Return the text as ``text`` does, or "" if the field is missing, null or empty."""
        value = self.content.get(self.key(*keys))
        return "" if value is None or value == "" else self.text(*keys)

    def texts(self, *keys: str) -> tuple[str, ...]:
        """Return the text or the list of texts of the first key present; () without a field."""
        key = self.key(*keys)
        value = self.content.get(key)
        values = value if isinstance(value, list) else [] if value is None else [value]
        if not all(isinstance(text, str) and text.strip() for text in values):
            raise self.wrong(f"a text or a list of texts as {key}", value)
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            raise self.wrong(f"Unicode texts as {key}", value) from None
        return tuple(text.strip() for text in values)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """Return a text that must be one of ``allowed``."""
        value = self.text(key)
        if value not in allowed:
            raise self.wrong(f"one of {', '.join(allowed)} as {key}", value)
        return value

    def ids(
        self, *keys: str, least: int = 1, most: int | None = None, loose: bool = False
    ) -> tuple[int, ...]:
        """Return the field's id or list of ids, in their order.

        With ``loose`` an id may be a text of digits and lists may be nested; repeated ids are
        returned once. Otherwise a repeated id is refused.
        """
        key = self.key(*keys)
        raw = self.content.get(key)
        values: list[Any] = raw if isinstance(raw, list) else [raw]
        values = [_number(value) for value in _flat(raw)] if loose else values
        if not all(is_int(value) for value in values):
            raise self.wrong(f"an integer or a list of different ones as {key}", raw)
        ids: tuple[int, ...] = tuple(dict.fromkeys(values))
        if len(ids) != len(values) and not loose:
            raise self.wrong(f"an integer or a list of different ones as {key}", raw)
        if ids and not 0 <= min(ids) <= max(ids) <= MAX_ID:
            remedy = _NEGATIVE if min(ids) < 0 else _REMEDY
            raise self.wrong(f"ids from 0 to {MAX_ID} as {key}", raw, remedy)
        if len(ids) < least or (most is not None and len(ids) > most):
            count = f"{least}" if least == most else f"at least {least}"
            raise self.wrong(f"{count} ids as {key}", raw)
        return ids


def _shown(found: Any) -> str:
    try:
        return ascii(found)[:60]
    except RecursionError:  # JSON that could be parsed may be nested too deeply to be printed.
        return "lists nested too deeply"


def _flat(raw: Any) -> list[Any]:
    """Flatten nested lists from left to right, without recursion."""
    flat, stack = [], [raw]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack.extend(reversed(value))
        else:
            flat.append(value)
    return flat


def _number(value: Any) -> Any:
    """Convert a short text of digits to an integer; return anything else unchanged."""
    is_digits = isinstance(value, str) and value.isascii() and value.isdecimal()
    return int(value) if is_digits and len(value) <= 10 else value


def read_records(
    path: Path, format_name: str, record: Callable[[Entry], PromptRecord]
) -> list[PromptRecord]:
    """Read every record of a query file, in the file's order.

    A text that occurs twice for one scene stays two queries, as in published results; the number
    of repetitions is logged.

    Raises:
        DataError: missing or damaged file, or a record with a missing, empty or wrong field.
    """
    remedy = f"Give a JSON list of queries ({format_name}'s format)."
    content = read_json(path, "a query file", remedy)
    if not isinstance(content, list) or not content:
        found = "an empty list" if isinstance(content, list) else type(content).__name__
        raise DataError(path, "a JSON list of queries", found, remedy)
    records = []
    for number, entry in enumerate(content):
        if not isinstance(entry, dict):
            raise DataError(path, f"an object as record {number}", _shown(entry), _REMEDY)
        records.append(record(Entry(entry, path, number)))
    texts = Counter((record.scene_id, record.text) for record in records)
    repeated = sum(count - 1 for count in texts.values())
    if repeated:
        log.warning("%s: %d queries repeat another of the same scene; all kept", path, repeated)
    return records
