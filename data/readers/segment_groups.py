"""Read the segments and groups of ScanNet's annotation tool (ScanNet, ScanNet++, Matterport3D).

A file with ``segIndices`` divides a mesh into many small segments; another with ``segGroups``
lists the segments of each object: ``{id, objectId, label, segments}``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import DataError
from data.jsonio import get_list, int_array, is_int, read_json
from data.queries.prompts import GroupName
from data.types import Array, GroundTruth

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SegmentGroup:
    """One annotated object: its ids and label, and its segments (n,) int64."""

    name: GroupName
    segments: Array


def parse_groups(content: Any, path: Path, remedy: str, has_ids: bool = True) -> list[SegmentGroup]:
    """Parse the objects of a file with ``segGroups``; errors name ``path``.

    Without ``has_ids`` a group that lacks id or objectId gets its position in the file instead. A
    group that equals another one (ScanNet's scene0217_00 lists its objects twice) is left out,
    and the number of such groups is logged.

    Raises:
        DataError: a field is missing or of another type, an objectId is negative, or two
            different groups have the same id or objectId.
    """
    entries = get_list(content, "segGroups", path, remedy)
    groups = [_group(entry, i, path, remedy, has_ids) for i, entry in enumerate(entries)]
    kept = _without_repeats(groups)
    if len(kept) < len(groups):
        message = "%s: %d of %d groups left out: each repeats another group"
        log.warning(message, path, len(groups) - len(kept), len(groups))
    for field in ("id", "object_id"):
        counts = Counter(getattr(group.name, field) for group in kept)
        repeated = sorted(value for value, count in counts.items() if count > 1)
        if repeated:
            raise DataError(path, f"each group's {field} once", f"{repeated[:5]} twice", remedy)
    return kept


def _group(entry: Any, position: int, path: Path, remedy: str, has_ids: bool) -> SegmentGroup:
    entry = entry if isinstance(entry, dict) else {}
    default = None if has_ids else position
    group_id, object_id = entry.get("id", default), entry.get("objectId", default)
    label = entry.get("label")
    if not (is_int(group_id) and is_int(object_id) and isinstance(label, str) and object_id >= 0):
        expected = f"integers id and objectId (from 0) and a string label in segGroups[{position}]"
        raise DataError(path, expected, f"{group_id!r}, {object_id!r}, {label!r}"[:200], remedy)
    segments = int_array(entry.get("segments"), f"segGroups[{position}].segments", path, remedy)
    return SegmentGroup(GroupName(position, group_id, object_id, label), segments)


def _without_repeats(groups: Sequence[SegmentGroup]) -> list[SegmentGroup]:
    seen: dict[tuple[int, str, bytes], SegmentGroup] = {}
    for group in groups:
        name = group.name
        seen.setdefault((name.object_id, name.label, group.segments.tobytes()), group)
    return list(seen.values())


def truth_of_groups(
    groups: Sequence[SegmentGroup], segment_ids: Array, path: Path, segments_path: Path, remedy: str
) -> GroundTruth:
    """Make the ground truth: an object has the points whose segment is in its group.

    ``segment_ids`` (N,) are the points' segments. Objects may share points.

    Raises:
        DataError: a group has a segment that ``segments_path`` lacks; the error names ``path``.
    """
    known_segments = np.unique(segment_ids)
    members = []
    for group in groups:
        segments = np.unique(group.segments)
        unknown_segments = np.setdiff1d(segments, known_segments, assume_unique=True)
        if len(unknown_segments):
            expected = f"segments of {segments_path.name} in segGroups[{group.name.position}]"
            raise DataError(path, expected, f"segment {int(unknown_segments[0])}", remedy)
        members.append(np.flatnonzero(np.isin(segment_ids, segments)))
    return truth_of_members(groups, members, len(segment_ids))


def truth_of_members(
    groups: Sequence[SegmentGroup],
    members: Sequence[Array],
    num_points: int,
    ignored_ids: Array | None = None,
) -> GroundTruth:
    """Make the ground truth of objects; ``members`` holds each group's sorted point ids."""
    points = np.concatenate(members) if members else np.zeros(0)
    return GroundTruth(
        tuple(group.name.object_id for group in groups),
        tuple(group.name.label for group in groups),
        points.astype(np.int32),
        np.cumsum([0, *map(len, members)]).astype(np.int64),
        num_points,
        np.zeros(0, np.int32) if ignored_ids is None else ignored_ids,
    )


def read_segment_indices(path: Path, what: str, remedy: str) -> Array:
    """Read ``segIndices`` (n,) int64; DataError for a damaged file, described as ``what``."""
    content = read_json(path, what, remedy)
    return int_array(get_list(content, "segIndices", path, remedy), "segIndices", path, remedy)
