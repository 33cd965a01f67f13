"""The words of sentences, and those among them that a model has never met."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from data.errors import DataError

WORDS_FILE = "words.txt"
"""File in a folder of weights: the words that the model has met, one a line, lower case."""

MOST_SUGGESTED = 8
"""Most names of things that a scan holds to suggest where nothing fits."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
_ENDINGS = ("'s", "’s", "es", "s")


def words_of(text: str) -> list[str]:
    """Return the words of a sentence in their order, lower case.

    >>> words_of("Where's the coffee-table?")
    ["where's", 'the', 'coffee', 'table']
    """
    return [word.lower() for word in _WORD.findall(text)]


def unmet_words(text: str, met: Collection[str]) -> tuple[str, ...]:
    """Return the words of a sentence that are not in ``met``, each once, in their order.

    A word is met, too, without the ending of a plural or a genitive.
    """
    return tuple(dict.fromkeys(word for word in words_of(text) if not _is_met(word, met)))


def _is_met(word: str, met: Collection[str]) -> bool:
    stems = (word.removesuffix(ending) for ending in _ENDINGS)
    return any(form in met for form in (word, *stems))


def vocabulary(sentences: Iterable[str]) -> list[str]:
    """Return the distinct words of sentences, sorted."""
    return sorted({word for text in sentences for word in words_of(text)})


def read_words(folder: Path) -> frozenset[str] | None:
    """Read ``WORDS_FILE`` of a folder of weights; None where there is none.

    Raises DataError for a file that is no UTF-8 text.
    """
    path = folder / WORDS_FILE
    if not path.is_file():
        return None
    try:
        return frozenset(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError) as error:
        remedy = "Restore or delete it; without it no unknown word is named."
        raise DataError(path, "words as UTF-8 text, one a line", str(error), remedy) from error


def why_nothing(unmet: Sequence[str], holds: Sequence[str]) -> str:
    """Say which words were never met and what the scan seems to hold; "" for neither."""
    parts = []
    if unmet:
        parts.append(f"words never met: {', '.join(unmet)}")
    if holds:
        parts.append(f"this scan seems to hold: {', '.join(holds)}")
    return "; ".join(parts)
