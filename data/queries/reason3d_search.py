"""Reason3D's hierarchical search: ``{scene_name, question, object_id}`` in Matterport3D houses.

``scene_name`` is ``<house>_region<N>``, the room the answer is in; the question names the kind of
room. ``object_id`` is a category, as in ``data.queries.reason3d``, and counts in that room only.
There is no object name, so a wrong list of classes cannot be noticed here.
"""

from __future__ import annotations

import re
from pathlib import Path

from data.prompts import PromptRecord
from data.queries.entries import Entry, log, read_records

_REGION = re.compile(r"[A-Za-z0-9]+_region[0-9]+")
# Kinds of rooms of Matterport3D's house files, in the words of questions.
_ROOMS = (
    *("bathroom", "bedroom", "closet", "dining", "entry", "family", "garage", "hall", "library"),
    *("laundry", "kitchen", "living", "conference", "lounge", "office", "porch", "terrace"),
    *("game", "rec room", "stairs", "toilet", "utility", "tv", "theater", "gym", "workout"),
    *("outdoor", "balcony", "room", "bar", "booth", "spa", "junk", "deck"),
)


def read(path: Path) -> list[PromptRecord]:
    """Every record; questions that name no room are kept and counted in the log.

    Raises:
        DataError: as of ``read_records``; a scene that is no region of a house.
    """
    records = read_records(path, "Reason3D's search", _record)
    nowhere = sum(not any(room in record.text.lower() for room in _ROOMS) for record in records)
    if nowhere:
        log.warning("%s: %d questions name no room; all kept", path, nowhere)
    return records


def _record(entry: Entry) -> PromptRecord:
    scene_id = entry.text("scene_name")
    if not _REGION.fullmatch(scene_id):
        raise entry.wrong("<house>_region<N> as scene_name", scene_id)
    return PromptRecord(
        entry.path,
        entry.number,
        scene_id,
        entry.text("question"),
        "search",
        entry.ids("object_id", most=1, loose=True),
        entry.optional("object_name"),
        id_space="category",
    )
