"""Queries about scans, in Instruct3D's JSON, and what their object ids mean.

A file is a list of records ``{scene_id, object_id, object_name, description, image | images,
task}``; ``object_id`` is one integer or a list (empty: the object is absent), ``task`` is
"reasoning" where it is not given. Which of a scene's three id spaces ``object_id`` belongs to
is nowhere written, so it is decided from the data: see ``decide_id_space``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from data.errors import DataError
from data.jsonio import is_int, read_json

log = logging.getLogger(__name__)

IdSpace = Literal["position", "id", "objectId"]
DEFAULT_TASK = "reasoning"
_REMEDY = "Correct this record, or remove it."


class GroupName(NamedTuple):
    """An annotated object in its three id spaces, with its raw label."""

    position: int
    id: int
    object_id: int
    label: str


GroupsOf = Callable[[str], Sequence[GroupName]]
# Ties between spaces go to the first.
_SPACES: dict[IdSpace, Callable[[GroupName], int]] = {
    "objectId": lambda group: group.object_id,
    "id": lambda group: group.id,
    "position": lambda group: group.position,
}


@dataclass(frozen=True)
class PromptRecord:
    """One record as it stands in its file; ``raw_ids`` are in a space not yet known."""

    source: Path
    number: int
    scene_id: str
    text: str
    task: str
    raw_ids: tuple[int, ...]
    object_name: str
    view_ids: tuple[str, ...]


def read_prompts(path: Path) -> list[PromptRecord]:
    """Read a query file; every record is kept, in the file's order.

    A description that repeats one of the same scene is kept as a query of its own (published
    denominators count it) and logged.

    Raises:
        DataError: missing or damaged file, or a record with a missing, empty or wrong field.
    """
    remedy = "Give a JSON list of queries (Instruct3D's format)."
    content = read_json(path, "a query file", remedy)
    if not isinstance(content, list) or not content:
        found = "an empty list" if isinstance(content, list) else type(content).__name__
        raise DataError(path, "a JSON list of queries", found, remedy)
    records = [_record(entry, path, number) for number, entry in enumerate(content)]
    texts = Counter((record.scene_id, record.text) for record in records)
    repeated = sum(count - 1 for count in texts.values())
    if repeated:
        log.warning("%s: %d queries repeat another of the same scene; all kept", path, repeated)
    return records


def _record(entry: Any, path: Path, number: int) -> PromptRecord:
    if not isinstance(entry, dict):
        raise DataError(path, f"an object as record {number}", repr(entry)[:60], _REMEDY)
    texts = {
        key: _text(entry, key, path, number) for key in ("scene_id", "description", "object_name")
    }
    task = _text(entry, "task", path, number) if "task" in entry else DEFAULT_TASK
    raw = entry.get("object_id")
    ids: list[Any] = raw if isinstance(raw, list) else [raw]
    if not all(is_int(value) for value in ids) or len(set(ids)) != len(ids):
        expected = f"object_id of record {number} as an integer or a list of different ones"
        raise DataError(path, expected, repr(raw)[:60], _REMEDY)
    images = entry.get("images", entry.get("image", []))
    images = images if isinstance(images, list) else [images]
    if not all(isinstance(image, str) for image in images):
        expected = f"image names in record {number}"
        raise DataError(path, expected, repr(images)[:60], _REMEDY)
    return PromptRecord(
        path,
        number,
        texts["scene_id"],
        texts["description"],
        task,
        tuple(ids),
        texts["object_name"],
        tuple(PurePosixPath(image).stem for image in images),
    )


def _text(entry: dict[str, Any], key: str, path: Path, number: int) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        found = "nothing" if key not in entry else repr(value)[:60]
        raise DataError(path, f"a text as {key} of record {number}", found, _REMEDY)
    return value.strip()


def normalized_name(name: str) -> str:
    """Lower case, underscores for blanks: labels and object names are compared like this."""
    return "_".join(name.lower().replace("_", " ").split())


def decide_id_space(
    records: Sequence[PromptRecord], groups_of: GroupsOf, min_agreement: float
) -> IdSpace:
    """The id space in which records name objects whose label is their ``object_name``.

    Records with exactly one id and a name that is some label of their scene vote. The space
    with the highest agreement wins when it reaches ``min_agreement`` and no other space with
    the same agreement would give any record other objects. Without a single record that
    names an object the answer is "objectId".

    Raises:
        DataError: no space agrees enough, or two agree equally and differ.
    """
    with_ids = [record for record in records if record.raw_ids]
    if not with_ids:
        return "objectId"
    votes, voters = _vote(with_ids, groups_of)
    best = max(_SPACES, key=lambda space: votes[space])
    tied = [space for space in _SPACES if votes[space] == votes[best]]
    agrees = voters > 0 and votes[best] >= min_agreement * voters
    same = all(
        _object_ids(record, space, groups_of) == _object_ids(record, best, groups_of)
        for space in tied
        for record in with_ids
    )
    if same and (agrees or voters == 0):
        return best
    counts = ", ".join(f"{votes[space]} of {voters} as {space}" for space in _SPACES)
    raise DataError(
        with_ids[0].source,
        f"object_id and object_name that agree with segments_anno.json in one id space"
        f" (at least {min_agreement:.0%})",
        counts or "no record that could tell",
        "Check that queries and scans are of the same version (ScanNet++ v1 or v2), or set"
        " prompts.id_space.",
    )


def _vote(records: Sequence[PromptRecord], groups_of: GroupsOf) -> tuple[Counter[IdSpace], int]:
    votes: Counter[IdSpace] = Counter()
    voters = 0
    for record in records:
        name = normalized_name(record.object_name)
        groups = groups_of(record.scene_id)
        named = [group for group in groups if normalized_name(group.label) == name]
        if len(record.raw_ids) != 1 or not named:
            continue
        voters += 1
        for space, key in _SPACES.items():
            votes[space] += any(key(group) == record.raw_ids[0] for group in named)
    return votes, voters


def _object_ids(
    record: PromptRecord, space: IdSpace, groups_of: GroupsOf
) -> tuple[int | None, ...]:
    """The record's ids as objectIds; None for an id the scene does not have."""
    key = _SPACES[space]
    table: Mapping[int, int] = {key(g): g.object_id for g in groups_of(record.scene_id)}
    return tuple(table.get(raw) for raw in record.raw_ids)


def object_ids_of(record: PromptRecord, space: IdSpace, groups_of: GroupsOf) -> tuple[int, ...]:
    """The record's targets as objectIds; DataError naming an id the scene does not have."""
    found = _object_ids(record, space, groups_of)
    missing = [raw for raw, object_id in zip(record.raw_ids, found) if object_id is None]
    if missing:
        raise DataError(
            record.source,
            f"objects of scene {record.scene_id} (as {space}) in record {record.number}",
            f"{missing}, which segments_anno.json does not have",
            "Check that queries and scans are of the same version (ScanNet++ v1 or v2).",
        )
    return tuple(object_id for object_id in found if object_id is not None)
