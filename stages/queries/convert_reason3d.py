"""Stage ``convert_reason3d``: convert Reason3D's queries by its prepared points.

A category becomes the objects of the scene that have this category in the prepared points; a
referred object keeps its id. Queries that cannot be converted are listed with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.queries.prompts import PromptRecord
from data.queries.reason3d_points import NO_INSTANCE, LabelledPoints

PointsOf = Callable[[PromptRecord], LabelledPoints | None]


@dataclass(frozen=True)
class Converted:
    """``queries`` in the default format; ``refused`` lists other records' numbers and reasons.

    ``notes`` are about queries that were converted in part.
    """

    queries: list[dict[str, Any]]
    refused: list[dict[str, Any]]
    notes: list[dict[str, Any]]


def run(records: Sequence[PromptRecord], points_of: PointsOf) -> Converted:
    """Convert the records of one file.

    Args:
        records: the records of a file, as ``data.queries.formats`` reads it.
        points_of: returns the prepared points of a record's scene; None where there is no file.

    Raises:
        DataError: a prepared file is damaged (raised by ``points_of``).
    """
    converted = Converted([], [], [])
    for record in records:
        points = None if record.dataset == "mp3d" else points_of(record)
        source = {"record": record.number, "scene_id": record.scene_id}
        if points is None:
            is_room = record.dataset == "mp3d"
            reason = "Matterport3D's prepared rooms name no objects" if is_room else "no point file"
            converted.refused.append({**source, "reason": reason})
            continue
        ids, note = (
            _category(record, points) if record.id_space == "category" else _object(record, points)
        )
        if not ids:
            converted.refused.append({**source, "reason": note})
            continue
        if note:
            converted.notes.append({**source, "note": note})
        converted.queries.append(
            {
                "scene_id": record.scene_id,
                "object_id": ids,
                "object_name": record.object_name,
                "description": record.text,
                "task": record.task,
            }
        )
    return converted


def _category(record: PromptRecord, points: LabelledPoints) -> tuple[list[int], str]:
    """Return the objects most of whose points have the record's category, and a note."""
    inside = points.classes == record.raw_ids[0]
    if not inside.any():
        return [], f"no point of class {record.raw_ids[0]}"
    instances, of_class = np.unique(points.instances[inside], return_counts=True)
    sizes = np.array([np.count_nonzero(points.instances == instance) for instance in instances])
    kept = (instances != NO_INSTANCE) & (2 * of_class > sizes)
    num_left = int(of_class[~kept].sum())
    note = (
        f"{num_left} of {int(inside.sum())} points of the class are in no object of it"
        if num_left
        else ""
    )
    return [int(instance) for instance in instances[kept]], note


def _object(record: PromptRecord, points: LabelledPoints) -> tuple[list[int], str]:
    ids = [raw for raw in record.raw_ids if (points.instances == raw).any()]
    return ids, "" if ids else f"no point of object {list(record.raw_ids)}"
