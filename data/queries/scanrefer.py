"""ScanRefer: ``{scene_id, object_id, object_name, ann_id, description, token}``.

``object_id`` is the text of one ``objectId`` of ScanNet's aggregation file, from 0 on. Loaders
that store instances as objectId + 1 (0 = none) mean the same object by another number; a query
file made from such a store is refused, because its names no longer agree.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``."""
    return read_records(path, "ScanRefer", _record)


def _record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        "referring",
        entry.ids("object_id", most=1, loose=True),
        entry.text("object_name"),
        id_space="objectId",
    )
