"""Matterport3D regions: a room's mesh, its annotated objects, the images taken in it.

Scenes are regions as Reason3D uses them, in the frame of the house (metres, z up), not moved.
Labels are raw category names (``raw_category`` of ``category_mapping.tsv``, which a scene set
names as ``classes``). Annotation is by face; a vertex has the object of most of its faces.

What the documentation does not say and no real data could confirm: that region<k> is the house
file's region k; that groups have ``id`` and ``objectId`` as ScanNet's (without them a group's
position counts); and what ``matterport_views`` says of pixels.
"""

from __future__ import annotations

from pathlib import Path

from data.errors import DataError
from data.jsonio import read_json
from data.meshio import read_mesh, vertex_normals
from data.prompts import GroupName
from data.readers.face_segments import truth_of_faces, vertex_segments
from data.readers.matterport_house import read_room_type
from data.readers.matterport_layout import (
    SCENE_REMEDY,
    RegionPaths,
    read_split,
    scene_identity,
)
from data.readers.matterport_views import read_views
from data.readers.segment_groups import SegmentGroup, parse_groups, read_segment_indices
from data.scan import Scan
from data.types import Array, PointCloud

__all__ = ["read_group_names", "read_room_type", "read_scan", "read_split", "scene_identity"]


def read_scan(root: Path, scene_id: str, camera: str) -> Scan:
    """Read one region; ``root`` is the dataset's root, its ``v1`` or its ``v1/scans``.

    ``camera`` is ignored: the undistorted images are read, which are pinholes.

    Raises:
        DataError: a file of the layout is missing or damaged, files contradict each other,
            or no image was taken in the region; the message names the file.
    """
    paths = RegionPaths.find(root, scene_id)
    views = read_views(paths)
    mesh = read_mesh(paths.mesh)
    face_segments = read_face_segments(paths.segments, len(mesh.triangles))
    truth = truth_of_faces(
        read_groups(paths.annotation),
        mesh.triangles,
        face_segments,
        len(mesh.points),
        paths.annotation,
        SCENE_REMEDY,
    )
    segment_ids = vertex_segments(mesh.triangles, face_segments, len(mesh.points))
    cloud = PointCloud(mesh.points, mesh.colors, vertex_normals(mesh.points, mesh.triangles))
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, truth)


def read_group_names(root: Path, scene_id: str) -> list[GroupName]:
    """Ids and labels of a region's objects, reading ``region<k>.semseg.json`` only.

    Raises:
        DataError: missing or damaged file, an id twice.
    """
    return [group.name for group in read_groups(RegionPaths.find(root, scene_id).annotation)]


def read_groups(path: Path) -> list[SegmentGroup]:
    """The objects of a ``semseg.json``; DataError as for ``read_group_names``."""
    content = read_json(path, "Matterport3D's annotation", SCENE_REMEDY)
    return parse_groups(content, path, SCENE_REMEDY, has_ids=False)


def read_face_segments(path: Path, num_faces: int) -> Array:
    """Segment id (F,) int64 of every face; DataError when there is not one a face."""
    face_segments = read_segment_indices(path, "Matterport3D's segments", SCENE_REMEDY)
    if len(face_segments) != num_faces:
        expected = f"{num_faces} segIndices, one a face of the mesh (vsegs.json has vertices')"
        raise DataError(path, expected, f"{len(face_segments)}", SCENE_REMEDY)
    return face_segments
