"""Sentences to ask of every scan: a text of one a line, or a JSON list. Nothing says what is true.

With them a run ends in masks and in a report without metrics.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data.errors import DataError
from data.jsonio import read_json, read_text

_REMEDY = "Give one sentence a line in a .txt file, or a JSON list of them in a .json file."


def read(path: Path) -> list[str]:
    """Sentences in the file's order, each once, without blanks around them.

    Raises:
        DataError: the file is missing, damaged, or holds no sentence or something else.
    """
    what = "a file of sentences"
    if path.suffix.lower() == ".json":
        lines = _strings(read_json(path, what, _REMEDY), path)
    else:
        lines = read_text(path, what, _REMEDY).splitlines()
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise DataError(path, "a sentence", "none", _REMEDY)
    return list(dict.fromkeys(sentences))


def _strings(content: Any, path: Path) -> list[str]:
    if not isinstance(content, list):
        raise DataError(path, "a JSON list of sentences", type(content).__name__, _REMEDY)
    for number, entry in enumerate(content):
        if not isinstance(entry, str):
            raise DataError(path, f"a text as sentence {number}", ascii(entry)[:60], _REMEDY)
        try:
            entry.encode()
        except UnicodeEncodeError:  # JSON may hold half of a surrogate pair.
            expected = f"Unicode text as sentence {number}"
            raise DataError(path, expected, ascii(entry)[:60], _REMEDY) from None
    return content
