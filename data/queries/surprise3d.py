"""SURPRISE3D: ``{scene_id, object_id, ann_id, description, question_type}`` on ScanNet++ v2.

``object_id`` is one or several ``objectId`` of ``segments_anno.json``. Its authors' prepared point
files hold only objects of listed classes, so many ids are not there; here the ground truth comes
from the annotation itself. What even that lacks stays a query, with what is left of its target,
and is reported. ``question_type`` is the record's task.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``."""
    return read_records(path, "SURPRISE3D", _record)


def _record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        entry.text("question_type"),
        entry.ids("object_id", loose=True),
        entry.optional("object_name"),
        id_space="objectId",
        may_lack_objects=True,
    )
