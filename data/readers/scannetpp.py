"""Read ScanNet++ scans (v1 and v2): mesh, overlapping annotated objects, cameras and images."""

from __future__ import annotations

from dataclasses import fields, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from data.artifacts.store import sha256_of
from data.errors import DataError
from data.geometry.meshes import read_mesh, vertex_normals
from data.jsonio import get_list, int_array, is_int, read_json
from data.queries.prompts import GroupName
from data.readers import scannetpp_dslr, scannetpp_iphone
from data.readers.scannetpp_layout import (
    SCENE_REMEDY,
    CameraChoice,
    ScenePaths,
    read_split,
    scene_identity,
)
from data.readers.segment_groups import SegmentGroup, read_segment_indices, truth_of_members
from data.types import Array, GroundTruth, PointCloud, Scan, SurfaceTruth


def read_group_names(root: Path, scene_id: str) -> list[GroupName]:
    """Read the ids and labels of a scene's objects, from ``segments_anno.json`` only.

    Raises:
        DataError: missing or damaged file, an id twice.
    """
    path = ScenePaths.find(root, scene_id, "undistorted").annotation
    return [group.name for group in read_groups(path)]


def read_groups(path: Path) -> list[SegmentGroup]:
    """Read the objects of ``segments_anno.json``; raises DataError as ``read_group_names`` does."""
    content = read_json(path, "ScanNet++ annotations", SCENE_REMEDY)
    entries = get_list(content, "segGroups", path, SCENE_REMEDY)
    groups = [_group(entry, position, path) for position, entry in enumerate(entries)]
    for field in ("id", "object_id"):
        ids = [getattr(group.name, field) for group in groups]
        if len(set(ids)) != len(ids):
            repeated = sorted({i for i in ids if ids.count(i) > 1})[:5]
            raise DataError(path, f"each group's {field} once", f"{repeated} twice", SCENE_REMEDY)
    return groups


def _group(entry: Any, position: int, path: Path) -> SegmentGroup:
    entry = entry if isinstance(entry, dict) else {}
    group_id, object_id, label = entry.get("id"), entry.get("objectId"), entry.get("label")
    if not (is_int(group_id) and is_int(object_id) and isinstance(label, str)):
        expected = f"integers id and objectId and a string label in segGroups[{position}]"
        raise DataError(path, expected, f"{group_id!r}, {object_id!r}, {label!r}", SCENE_REMEDY)
    segments = int_array(
        entry.get("segments"), f"segGroups[{position}].segments", path, SCENE_REMEDY
    )
    return SegmentGroup(GroupName(position, group_id, object_id, label), segments)


def read_segment_ids(path: Path, num_vertices: int) -> Array:
    """Read the segment id (V,) int64 of every vertex; DataError for another number of ids."""
    segment_ids = read_segment_indices(path, "ScanNet++ segments", SCENE_REMEDY)
    if len(segment_ids) != num_vertices:
        expected = f"{num_vertices} segIndices, one a vertex of the mesh"
        raise DataError(path, expected, f"{len(segment_ids)}", SCENE_REMEDY)
    return segment_ids


def read_ignored_vertices(path: Path, num_vertices: int) -> Array:
    """Read the vertices (n,) int32, sorted, that evaluation excludes.

    The file is ``mesh_aligned_0.05_mask.txt``; an empty or missing file excludes no vertex.
    Raises DataError for anything but vertices of the mesh.
    """
    if not path.exists():
        return np.zeros(0, np.int32)
    expected = f"numbers of vertices, 0 to {num_vertices - 1}"
    try:
        numbers = np.array(path.read_text(encoding="utf-8").split(), np.float64)
    except (OSError, ValueError) as error:
        raise DataError(path, expected, str(error)[:120], SCENE_REMEDY) from error
    is_wrong = ~((numbers >= 0) & (numbers < num_vertices) & (numbers == np.floor(numbers)))
    if is_wrong.any():
        raise DataError(path, expected, f"{numbers[is_wrong][0]:g}", SCENE_REMEDY)
    return np.unique(numbers).astype(np.int32)


def read_surface(path: Path) -> SurfaceTruth | None:
    """Read what a scan holds of the true surface; None where the file is missing, as in real scans.

    Raises DataError unless every value is a finite number that is not negative.
    """
    if not path.exists():
        return None
    content = read_json(path, "the quality of a scan", SCENE_REMEDY)
    names = [field.name for field in fields(SurfaceTruth)]
    content = content if isinstance(content, dict) else {}
    values = []
    for name in names:
        value = content.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            expected = f"numbers of 0 or more under {', '.join(names)}"
            raise DataError(path, expected, f"{value!r}", SCENE_REMEDY)
        values.append(float(value))
    return SurfaceTruth(*values)


def ground_truth(
    groups: list[SegmentGroup], segment_ids: Array, path: Path, ignored_ids: Array
) -> GroundTruth:
    """Make the ground truth: an object has the vertices whose segment is in its group.

    Objects may share points. ``segment_ids`` is (V,); ``ignored_ids`` (n,) are stored in the
    truth unchanged.

    Raises:
        DataError: a group has a segment that no vertex has; the error names ``path``.
    """
    num_points = len(segment_ids)
    one_to_one = np.array_equal(segment_ids, np.arange(num_points))
    order = np.arange(num_points) if one_to_one else np.argsort(segment_ids, kind="stable")
    known_segments, starts = np.arange(num_points), np.arange(num_points + 1)
    if not one_to_one:
        known_segments, firsts = np.unique(segment_ids[order], return_index=True)
        starts = np.append(firsts, num_points)
    members = []
    for group in groups:
        segments = np.unique(group.segments)
        rows = np.minimum(
            np.searchsorted(known_segments, segments), max(len(known_segments) - 1, 0)
        )
        if not np.array_equal(known_segments[rows], segments):
            unknown_segment = int(segments[known_segments[rows] != segments][0])
            expected = f"segments of segments.json in segGroups[{group.name.position}]"
            raise DataError(path, expected, f"segment {unknown_segment}", SCENE_REMEDY)
        members.append(np.sort(order[_ranges(starts[rows], starts[rows + 1])]))
    return truth_of_members(groups, members, num_points, ignored_ids)


def _ranges(starts: Array, stops: Array) -> Array:
    """Concatenate the integers of half-open ranges."""
    sizes = stops - starts
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(total) + np.repeat(starts - (ends - sizes), sizes))


__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]


def read_scan(root: Path, scene_id: str, camera: CameraChoice) -> Scan:
    """Read one scene; ``root`` is the dataset's root or its ``data`` folder.

    Frames marked ``is_bad`` (blurred) are left out. Anonymisation masks are optional;
    ``train_test_lists.json`` is not read.

    Raises:
        DataError: a file is missing or damaged, files contradict each other, or no usable view
            is left; the message names the file.
    """
    paths = ScenePaths.find(root, scene_id, camera)
    device = scannetpp_iphone if camera == "iphone" else scannetpp_dslr
    views = device.read_views(paths)
    mesh = read_mesh(paths.mesh)
    segment_ids = read_segment_ids(paths.segments, len(mesh.points))
    ignored_ids = read_ignored_vertices(paths.mesh_mask, len(mesh.points))
    groups = read_groups(paths.annotation)
    truth = ground_truth(groups, segment_ids, paths.annotation, ignored_ids)
    truth = replace(truth, surface=read_surface(paths.scan_truth))
    normals = vertex_normals(mesh.points, mesh.triangles)
    cloud = PointCloud(mesh.points, mesh.colors, normals)
    digest = sha256_of(paths.annotation)
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, truth, digest)
