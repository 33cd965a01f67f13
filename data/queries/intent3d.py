"""Intent3D: ``{scan_id, utterance, target_id}``, an intention that ScanNet objects serve.

Files made from it for this method say ``{scene_id, description, object_ids}`` instead, with ids
in lists of lists; both are read, and all ids named are targets. Which id space they belong to is
not documented, so it is decided from the data; where a file has no names
(``object_name | target``) that works only when the spaces do not differ, and the user says which
it is (``prompts.id_space``) otherwise.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``."""
    return read_records(path, "Intent3D", _record)


def _record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scan_id", "scene_id"),
        entry.text("utterance", "description"),
        "intent",
        entry.ids("target_id", "object_ids", "object_id", loose=True),
        entry.optional("object_name", "target"),
    )
