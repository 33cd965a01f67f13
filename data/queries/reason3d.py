"""Reason3D's reasoning queries: ``{scene_id, object_id, object_name, question, type}``.

``object_id`` is no object but a category: the position in the list of ScanNet200's classes, or,
where ``type`` is mp3d, the index in Matterport3D's ``category_mapping.tsv``. The target is every
instance of it. One file is about both datasets.
"""

from __future__ import annotations

from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records

DATASETS = ("scannet", "mp3d")


def read(path: Path) -> list[PromptRecord]:
    """Every record, of both datasets; DataError as of ``read_records``."""
    return read_records(path, "Reason3D", _record)


def _record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("question"),
        "reasoning",
        entry.ids("object_id", most=1, loose=True),
        entry.text("object_name"),
        id_space="category",
        dataset=entry.choice("type", DATASETS),
    )
