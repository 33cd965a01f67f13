"""ReasonSeg3D (MORE3D): questions about ScanNet scenes whose answers may be several objects.

The files were not published where they could be read, so this takes what the family has in
common: ``{scene_id, object_id | object_ids, question | description}``, and ``object_name`` where
it is given, ``answer`` or ``answers`` for what is to be said. The answer's objects count as one
target, their union. As no documentation tells the id space, it is decided from the data.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``."""
    return read_records(path, "ReasonSeg3D", _record)


def _record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("question", "description"),
        "reasoning",
        entry.ids("object_id", "object_ids", least=0, loose=True),
        entry.optional("object_name"),
        answers=entry.texts("answers", "answer"),
    )
