"""Instruct3D, and what this project's own query files look like.

A list of records ``{scene_id, object_id, object_name, description, image | images, task}``;
``object_id`` is one integer or a list (empty: the object is absent), ``task`` is "reasoning"
where it is not given, and ``answer`` or ``answers`` are right answers in words, for records that
are questions. Which id space ``object_id`` belongs to is nowhere written, so it is
decided from the data.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from data.prompts import PromptRecord
from data.queries.entries import Entry, read_records


def read(path: Path) -> list[PromptRecord]:
    """Every record; DataError as of ``read_records``."""
    return read_records(path, "Instruct3D", _record)


def _record(entry: Entry) -> PromptRecord:
    scene_id, text, name = (entry.text(key) for key in ("scene_id", "description", "object_name"))
    images = entry.content.get("images", entry.content.get("image", []))
    images = images if isinstance(images, list) else [images]
    if not all(isinstance(image, str) for image in images):
        raise entry.wrong("image names as image or images", images)
    return PromptRecord(
        entry.path,
        entry.number,
        scene_id,
        text,
        entry.text_or("task", "reasoning"),
        entry.ids("object_id", least=0),
        name,
        tuple(PurePosixPath(image).stem for image in images),
        answers=entry.texts("answers", "answer"),
    )
