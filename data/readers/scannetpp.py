"""ScanNet++ scans (v1 and v2): mesh, overlapping objects, cameras and images."""

from __future__ import annotations

from pathlib import Path

from data.artifacts.store import sha256_of
from data.meshio import read_mesh, vertex_normals
from data.readers import scannetpp_dslr, scannetpp_iphone
from data.readers.scannetpp_annotation import (
    ground_truth,
    read_group_names,
    read_groups,
    read_ignored_vertices,
    read_segment_ids,
)
from data.readers.scannetpp_layout import CameraChoice, ScenePaths, read_split, scene_identity
from data.scan import Scan
from data.types import PointCloud

__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]


def read_scan(root: Path, scene_id: str, camera: CameraChoice) -> Scan:
    """Read one scene; ``root`` is the dataset's root or its ``data`` folder.

    Frames marked ``is_bad`` (blurred) are left out. ``train_test_lists.json`` is not needed,
    nor are anonymisation masks, which are used where they are there.

    Raises:
        DataError: a file of the layout is missing or damaged, files contradict each other,
            or no usable view is left; the message names the file.
    """
    paths = ScenePaths.find(root, scene_id, camera)
    device = scannetpp_iphone if camera == "iphone" else scannetpp_dslr
    views = device.read_views(paths)
    mesh = read_mesh(paths.mesh)
    segment_ids = read_segment_ids(paths.segments, len(mesh.points))
    ignored_ids = read_ignored_vertices(paths.mesh_mask, len(mesh.points))
    groups = read_groups(paths.annotation)
    truth = ground_truth(groups, segment_ids, paths.annotation, ignored_ids)
    normals = vertex_normals(mesh.points, mesh.triangles)
    cloud = PointCloud(mesh.points, mesh.colors, normals)
    digest = sha256_of(paths.annotation)
    return Scan(scene_id, cloud, mesh.triangles, segment_ids, views, truth, digest)
