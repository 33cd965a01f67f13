"""Segments and objects of faces, carried over to vertices by what most of their faces say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.readers.segment_groups import SegmentGroup, truth_of_members
from data.types import Array, GroundTruth


def vertex_segments(triangles: Array, face_segments: Array, num_vertices: int) -> Array:
    """(V,) int64: the segment of most of a vertex's faces, the smallest id of equals.

    ``triangles`` is (F, 3), ``face_segments`` (F,) int64. A vertex without a face gets the
    largest id there is plus 1.
    """
    segments, codes = np.unique(face_segments, return_inverse=True)
    pairs = triangles.astype(np.int64) * len(segments) + codes[:, None]
    found, counts = np.unique(pairs, return_counts=True)
    vertices, codes_of = found // len(segments), found % len(segments)
    order = np.lexsort((codes_of, -counts, vertices))
    owners, first = np.unique(vertices[order], return_index=True)
    result = np.full(num_vertices, segments[-1] + 1, np.int64)
    result[owners] = segments[codes_of[order[first]]]
    return result


def truth_of_faces(
    groups: Sequence[SegmentGroup],
    triangles: Array,
    face_segments: Array,
    num_vertices: int,
    path: Path,
    remedy: str,
) -> GroundTruth:
    """Objects as vertices: those more of whose faces are the object's than anything else's.

    Faces of no object count as a thing of their own; of equals all have the vertex, save that
    an object comes before none.

    Raises:
        DataError: naming ``path``: a group has a segment that no face has.
    """
    known = np.unique(face_segments)
    counts: list[Array] = []
    free = np.ones(len(triangles), bool)
    for group in groups:
        segments = np.unique(group.segments)
        wrong = np.setdiff1d(segments, known, assume_unique=True)
        if len(wrong):
            expected = f"segments of the mesh's faces in segGroups[{group.name.position}]"
            raise DataError(path, expected, f"segment {int(wrong[0])}", remedy)
        inside = np.isin(face_segments, segments)
        free &= ~inside
        corners = triangles[inside].ravel()
        counts.append(np.bincount(corners, minlength=num_vertices).astype(np.int32))
    most = np.bincount(triangles[free].ravel(), minlength=num_vertices)
    for count in counts:
        most = np.maximum(most, count)
    members = [np.flatnonzero((count > 0) & (count == most)) for count in counts]
    return truth_of_members(groups, members, num_vertices)
