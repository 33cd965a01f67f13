"""Read ScanNet v2 scans: the decimated mesh, annotated groups of segments, frames and alignment.

Mesh, poses and all results are in the frame of the scan (z up, walls at any angle), as on disk.
``axisAlignment`` of ``<id>.txt`` is used only by evaluation, where a benchmark scores
axis-aligned boxes (``read_axis_alignment``). ``objectId`` counts from 0, as in the aggregation
file. The segments are over-segments of many vertices and become the scene's superpoints. Poses
are camera-to-world of the depth camera and are used for colour images too, because
``colorToDepthExtrinsics`` is close to the identity.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.geometry.meshes import read_mesh, vertex_normals
from data.jsonio import read_json, read_text
from data.queries.prompts import GroupName
from data.readers.posed_frames import PosedFrames, read_pinhole
from data.readers.scannet_layout import (
    FRAMES_REMEDY,
    SCENE_REMEDY,
    ScenePaths,
    read_split,
    scene_identity,
)
from data.readers.scannetpp_layout import check_id
from data.readers.segment_groups import (
    SegmentGroup,
    parse_groups,
    read_segment_indices,
    truth_of_groups,
)
from data.types import Array, Camera, PointCloud, Scan, View

log = logging.getLogger(__name__)
_KEY = "axisAlignment"
_LAST_ROW = (0.0, 0.0, 0.0, 1.0)


def read_axis_alignment(root: Path, scene_id: str) -> Array | None:
    """Read the transform (4, 4) float64, metres, from the scan's frame to the axis-aligned frame.

    It is the line ``axisAlignment =`` of ``<id>.txt``, 16 numbers in row-major order. If the file
    or the line is missing, the result is None and a warning is logged.

    Raises:
        DataError: the line holds anything but a rotation and a translation.
    """
    path = ScenePaths.find(root, scene_id).info
    if not path.is_file():
        log.warning("%s: no such file, so boxes follow the axes of the unaligned scan", path)
        return None
    for line in read_text(path, "lines key = value", SCENE_REMEDY).splitlines():
        key, _, value = (part.strip() for part in line.partition("="))
        if key == _KEY:
            return _rigid(value, path)
    log.warning("%s: no %s, so boxes follow the axes of the unaligned scan", path, _KEY)
    return None


def _rigid(text: str, path: Path) -> Array:
    expected = f"16 numbers as {_KEY}, a rotation and a translation"
    try:
        matrix = np.array([float(word) for word in text.split()])
    except ValueError as error:
        raise DataError(path, expected, str(error)[:80], SCENE_REMEDY) from error
    if len(matrix) != 16 or not np.isfinite(matrix).all():
        raise DataError(path, expected, text[:80], SCENE_REMEDY)
    matrix = matrix.reshape(4, 4)
    rotation = matrix[:3, :3]
    is_rotation = np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
    if not (is_rotation and np.linalg.det(rotation) > 0 and tuple(matrix[3]) == _LAST_ROW):
        raise DataError(path, expected, text[:80], SCENE_REMEDY)
    return matrix


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """Read all views with a usable pose, sorted by view id (the stem of the image's name).

    Raises:
        DataError: no exported frames, an image of another size than in ``<id>.txt``, or any
            error of ``PosedFrames`` and ``read_pinhole``.
    """
    frames = PosedFrames(paths.frames, check_id, FRAMES_REMEDY)
    if not frames.color.is_dir():
        raise _not_exported(paths)
    images = frames.images()
    return frames.views(images, read_camera(paths, images[min(images)]))


def _not_exported(paths: ScenePaths) -> DataError:
    found, remedy = "no such folder", "Download scannet_frames_25k, or the scene's .sens."
    if paths.sens.is_file():
        found = f"only {paths.sens.name}"
        remedy = (
            f"Export them: python -m pipeline extract-sens --input {paths.sens}"
            f" --output {paths.folder}"
        )
    return DataError(paths.frames / "color", "a folder of exported frames", found, remedy)


def read_camera(paths: ScenePaths, image_path: Path) -> Camera:
    """Read the pinhole camera of the colour images; its size is that of ``image_path``.

    Raises:
        DataError: any error of ``read_pinhole``, or other values in ``<id>.txt``.
    """
    camera = read_pinhole(paths.intrinsics, image_path, FRAMES_REMEDY)
    _check_info(paths.info, camera, image_path)
    return camera


def _check_info(info: Path, camera: Camera, image_path: Path) -> None:
    """Raise DataError if size or focal lengths differ from ``<id>.txt``, where it exists."""
    if not info.is_file():
        return
    info_values = read_info(info)
    for key, value in (("colorWidth", camera.width), ("colorHeight", camera.height)):
        if key in info_values and info_values[key] != value:
            found = f"{camera.width}x{camera.height}"
            expected = f"an image of {key} {info_values[key]:g}, as {info.name} says"
            raise DataError(image_path, expected, found, FRAMES_REMEDY)
    focal = camera.K[0, 0], camera.K[1, 1]
    for key, value in zip(("fx_color", "fy_color"), focal, strict=True):
        if key in info_values and not np.isclose(info_values[key], value, rtol=1e-3):
            expected = f"intrinsics with {key} {value:g}, as the exported frames have them"
            raise DataError(info, expected, f"{info_values[key]:g}", SCENE_REMEDY)


def read_info(path: Path) -> dict[str, float]:
    """Read the lines ``key = number`` of ``<id>.txt``; lines with other values are skipped.

    Raises:
        DataError: the file is no text, or a key of the colour camera has no number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(path, "lines key = value", str(error), SCENE_REMEDY) from error
    values = {}
    for line in lines:
        key, _, value = (part.strip() for part in line.partition("="))
        try:
            values[key] = float(value)
        except ValueError:
            if "color" in key and not key.endswith("Extrinsics"):
                raise DataError(path, f"a number of {key}", value[:80], SCENE_REMEDY) from None
    return values


__all__ = ["read_group_names", "read_scan", "read_split", "scene_identity"]


_FULL_MESH = (
    "The files of the full mesh (_vh_clean.segs.json, _vh_clean.aggregation.json) look alike: use"
    " those of _vh_clean_2. "
)


def read_scan(root: Path, scene_id: str, camera: str) -> Scan:
    """Read one scene; ``root`` is the dataset's root or its ``scans`` folder.

    ``camera`` is ignored: ScanNet has a single camera, a pinhole.

    Raises:
        DataError: a file is missing or damaged, files contradict each other, or no usable view
            is left; the message names the file.
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
    """Read the ids and labels of a scene's objects, from ``<id>.aggregation.json`` only.

    Raises:
        DataError: missing or damaged file, an id twice, an annotation of another mesh.
    """
    return [group.name for group in read_groups(ScenePaths.find(root, scene_id))]


def read_groups(paths: ScenePaths) -> list[SegmentGroup]:
    """Read the objects of the aggregation file; raises DataError as ``read_group_names`` does.

    Reason3D uses ``id`` and ScanRefer uses ``objectId``; the number of groups in which they
    differ is logged.
    """
    path = paths.aggregation
    content = read_json(path, "ScanNet's annotation", SCENE_REMEDY)
    groups = parse_groups(content, path, SCENE_REMEDY)
    segments_file = content.get("segmentsFile")
    if not (isinstance(segments_file, str) and segments_file.endswith(paths.segments.name)):
        expected = f"segmentsFile {paths.segments.name}, the segments of {paths.mesh.name}"
        raise DataError(path, expected, repr(segments_file)[:120], _FULL_MESH + SCENE_REMEDY)
    num_different = sum(group.name.id != group.name.object_id for group in groups)
    if num_different:
        log.warning(
            "%s: id and objectId differ in %d of %d groups", path, num_different, len(groups)
        )
    return groups


def read_segment_ids(path: Path, num_vertices: int) -> Array:
    """Read the segment id (V,) int64 of every vertex; DataError for another number of ids."""
    segment_ids = read_segment_indices(path, "ScanNet's segments", SCENE_REMEDY)
    if len(segment_ids) != num_vertices:
        expected = f"{num_vertices} segIndices, one a vertex of the _vh_clean_2 mesh"
        raise DataError(path, expected, f"{len(segment_ids)}", _FULL_MESH + SCENE_REMEDY)
    return segment_ids
