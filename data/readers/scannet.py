"""ScanNet v2 scans: the decimated mesh, its annotated groups of segments, exported frames.

``axisAlignment`` of ``<id>.txt`` is applied to nothing: mesh, poses and so all results are in the
frame of the scan (z up, walls turned anyhow), as mesh and poses lie on disk; evaluation alone
turns points by it, where a benchmark scores axis-aligned boxes (``scannet_alignment``).
``objectId`` counts from 0, as in the aggregation file; what adds 1 to it says so where it does.
The segments are real over-segments of many vertices, so they are the scene's superpoints. Poses
are camera-to-world of the depth camera, which ScanNet's colour images are taken to share
(``colorToDepthExtrinsics`` is close to none and applied by nobody).
"""

from __future__ import annotations

import logging
from pathlib import Path

from data.errors import DataError
from data.jsonio import read_json
from data.meshio import read_mesh, vertex_normals
from data.prompts import GroupName
from data.readers.scannet_frames import read_views
from data.readers.scannet_layout import SCENE_REMEDY, ScenePaths, read_split, scene_identity
from data.readers.segment_groups import (
    SegmentGroup,
    parse_groups,
    read_segment_indices,
    truth_of_groups,
)
from data.scan import Scan
from data.types import Array, PointCloud

__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]

log = logging.getLogger(__name__)
_FULL_MESH = (
    "The files of the full mesh (_vh_clean.segs.json, _vh_clean.aggregation.json) look alike: use"
    " those of _vh_clean_2. "
)


def read_scan(root: Path, scene_id: str, camera: str) -> Scan:
    """Read one scene; ``root`` is the dataset's root or its ``scans`` folder.

    ``camera`` is ignored: ScanNet has one, a pinhole.

    Raises:
        DataError: a file of the layout is missing or damaged, files contradict each other,
            or no usable view is left; the message names the file.
    """
    paths = ScenePaths.find(root, scene_id)
    views = read_views(paths)
    mesh = read_mesh(paths.mesh)
    segment_ids = read_segment_ids(paths.segments, len(mesh.points))
    groups = read_groups(paths)
    truth = truth_of_groups(
        groups, segment_ids, paths.aggregation, paths.segments, _FULL_MESH + SCENE_REMEDY
    )
    cloud = PointCloud(mesh.points, mesh.colors, vertex_normals(mesh.points, mesh.triangles))
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, truth)


def read_group_names(root: Path, scene_id: str) -> list[GroupName]:
    """Ids and labels of a scene's objects, reading ``<id>.aggregation.json`` only.

    Raises:
        DataError: missing or damaged file, an id twice, an annotation of another mesh.
    """
    return [group.name for group in read_groups(ScenePaths.find(root, scene_id))]


def read_groups(paths: ScenePaths) -> list[SegmentGroup]:
    """The objects of the aggregation file; DataError as for ``read_group_names``.

    Reason3D reads ``id`` where ScanRefer reads ``objectId``; where they differ it is logged.
    """
    path = paths.aggregation
    content = read_json(path, "ScanNet's annotation", SCENE_REMEDY)
    groups = parse_groups(content, path, SCENE_REMEDY)
    named = content.get("segmentsFile")
    if not (isinstance(named, str) and named.endswith(paths.segments.name)):
        expected = f"segmentsFile {paths.segments.name}, the segments of {paths.mesh.name}"
        raise DataError(path, expected, repr(named)[:120], _FULL_MESH + SCENE_REMEDY)
    differ = sum(group.name.id != group.name.object_id for group in groups)
    if differ:
        log.warning("%s: id and objectId differ in %d of %d groups", path, differ, len(groups))
    return groups


def read_segment_ids(path: Path, num_vertices: int) -> Array:
    """Segment id (V,) int64 of every vertex; DataError when there is not one a vertex."""
    segment_ids = read_segment_indices(path, "ScanNet's segments", SCENE_REMEDY)
    if len(segment_ids) != num_vertices:
        expected = f"{num_vertices} segIndices, one a vertex of the _vh_clean_2 mesh"
        raise DataError(path, expected, f"{len(segment_ids)}", _FULL_MESH + SCENE_REMEDY)
    return segment_ids
