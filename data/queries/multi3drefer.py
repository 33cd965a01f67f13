"""Multi3DRefer: ``{scene_id, object_ids, object_name, ann_id, eval_type, description}``.

``object_ids`` are none, one or several ``objectId`` of ScanNet's aggregation file, as in
ScanRefer; ``eval_type`` says how many and whether distractors of the class are there, and is the
record's task.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records

# Least and most targets of each type: zero, single, multiple; with or without distractors.
EVAL_TYPES: dict[str, tuple[int, int | None]] = {
    "zt_w_d": (0, 0),
    "zt_wo_d": (0, 0),
    "st_w_d": (1, 1),
    "st_wo_d": (1, 1),
    "mt": (2, None),
}


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``, or for a count its type does not allow."""
    return read_records(path, "Multi3DRefer", _record)


def _record(entry: Entry) -> PromptRecord:
    eval_type = entry.choice("eval_type", tuple(EVAL_TYPES))
    least, most = EVAL_TYPES[eval_type]
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        eval_type,
        entry.ids("object_ids", least=least, most=most, loose=True),
        entry.text("object_name"),
        id_space="objectId",
    )
