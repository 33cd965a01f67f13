"""Read Matterport3D regions: a room's mesh, its annotated objects and the images taken in it.

A scene is a region, as in Reason3D, in the frame of its house (metres, z up). Labels are raw
category names (``raw_category`` of ``category_mapping.tsv``, which a scene set names as
``classes``). The annotation is by face; a vertex gets the object of most of its faces.

The ``.conf`` file holds lines ``intrinsics_matrix fx 0 cx 0 fy cy 0 0 1``, valid for the images
after it, and ``scan <depth file> <colour file> <16 numbers>``, a row-major camera-to-world matrix
of a camera that looks along -z with y up (OpenGL axes); here y and z are negated.

According to the documentation the images' origin is at the bottom left, so cy from the top is
height - cy. Pixel centres are not documented; as the calibration is in "OpenCV's notation", they
are taken as whole numbers, so half a pixel is added to cx and cy. Undistortion keeps the
principal point, so it must agree with ``matterport_camera_intrinsics`` (``width height fx fy cx
cy ...``, from the top left) where that file exists.

Not confirmed on real data: the pixel conventions above (look at a picture of a scene's links
before using results), that region<k> is region k of the house file, and that groups have ``id``
and ``objectId`` as in ScanNet (a group without them gets its position).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DataError
from data.geometry.meshes import read_mesh, vertex_normals
from data.images import ImageFolder, check_image, image_size
from data.jsonio import read_json, read_text
from data.queries.prompts import GroupName
from data.readers.matterport_layout import (
    SCENE_REMEDY,
    RegionPaths,
    read_house,
    read_room_type,
    read_split,
    scene_identity,
)
from data.readers.posed_frames import world_to_camera_of
from data.readers.scannetpp_layout import check_id
from data.readers.segment_groups import (
    SegmentGroup,
    parse_groups,
    read_segment_indices,
    truth_of_members,
)
from data.types import Array, Camera, GroundTruth, PointCloud, Scan, View


def vertex_segments(triangles: Array, face_segments: Array, num_vertices: int) -> Array:
    """Return (V,) int64: the segment of most of a vertex's faces; the smallest id wins a tie.

    ``triangles`` is (F, 3), ``face_segments`` (F,) int64. A vertex without a face gets the
    largest id plus 1.
    """
    segments, codes = np.unique(face_segments, return_inverse=True)
    pairs = triangles.astype(np.int64) * len(segments) + codes[:, None]
    pair_codes, counts = np.unique(pairs, return_counts=True)
    vertices, codes_of = pair_codes // len(segments), pair_codes % len(segments)
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
    """Assign vertices to objects: a vertex belongs to the object with most of its faces.

    Faces without an object count as one more object. In a tie every object gets the vertex, and
    an object wins over no object.

    Raises:
        DataError: a group has a segment that no face has; the error names ``path``.
    """
    known_segments = np.unique(face_segments)
    counts: list[Array] = []
    is_free = np.ones(len(triangles), bool)
    for group in groups:
        segments = np.unique(group.segments)
        unknown_segments = np.setdiff1d(segments, known_segments, assume_unique=True)
        if len(unknown_segments):
            expected = f"segments of the mesh's faces in segGroups[{group.name.position}]"
            raise DataError(path, expected, f"segment {int(unknown_segments[0])}", remedy)
        inside = np.isin(face_segments, segments)
        is_free &= ~inside
        corners = triangles[inside].ravel()
        counts.append(np.bincount(corners, minlength=num_vertices).astype(np.int32))
    most = np.bincount(triangles[is_free].ravel(), minlength=num_vertices)
    for count in counts:
        most = np.maximum(most, count)
    members = [np.flatnonzero((count > 0) & (count == most)) for count in counts]
    return truth_of_members(groups, members, num_vertices)


_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_INTRINSICS = "intrinsics_matrix fx 0 cx 0 fy cy 0 0 1, fx and fy positive"
# A principal point further than this share of the image from its middle means another image size.
_MIDDLE = 0.15
_CALIBRATION_TOLERANCE = 2.0  # pixels
_ORIGIN_REMEDY = (
    "Download both files again. If they still differ, the .conf file's cy does not follow its"
    " documentation: please report it."
)


@dataclass(frozen=True, eq=False)
class ConfImage:
    """An image of the .conf file: name, intrinsics (3, 3) unchanged, and camera-to-world (4, 4)."""

    name: str
    intrinsics: Array
    camera_to_world: Array


def read_views(paths: RegionPaths) -> tuple[View, ...]:
    """Read the views of the panoramas in the region, sorted by view id (the stem of the image).

    Images from other regions are left out: the region's mesh lacks the walls between them.

    Raises:
        DataError: a damaged file, no panorama in the region, or an image that is missing, damaged
            or of another size than its intrinsics.
    """
    house = read_house(paths.house_file)
    names = set(house.panoramas.get(paths.region, ()))
    if not names:
        expected = f"a panorama (P line) in region {paths.region}"
        remedy = "No image was taken in this region: take it out of the split."
        raise DataError(paths.house_file, expected, "none", remedy)
    images = [i for i in read_conf(paths.cameras) if i.name.split("_")[0] in names]
    if not images:
        expected = f"images of the panoramas in region {paths.region}"
        raise DataError(paths.cameras, expected, "none", SCENE_REMEDY)
    folder = ImageFolder(paths.images, SCENE_REMEDY)
    height, width = image_size(folder.find(images[0].name), SCENE_REMEDY)
    _check_calibration(paths, images[0], height)
    views = []
    for image in images:
        image_path = folder.find(image.name)
        check_image(image_path, height, width)
        camera = _camera(image, height, width, paths.cameras)
        camera_to_world = image.camera_to_world @ _OPENGL
        pose = world_to_camera_of(camera_to_world, paths.cameras, SCENE_REMEDY)
        views.append(View(Path(image.name).stem, camera, pose, image_path))
    return tuple(sorted(views, key=lambda view: view.view_id))


def _camera(image: ConfImage, height: int, width: int, path: Path) -> Camera:
    K = image.intrinsics.copy()
    K[0, 2] += 0.5
    K[1, 2] = height - (K[1, 2] + 0.5)
    if np.abs(K[:2, 2] / (width, height) - 0.5).max() > _MIDDLE:
        expected = f"intrinsics of images of {width}x{height} pixels, as {image.name} is"
        found = f"a principal point of {image.intrinsics[0, 2]:g}, {image.intrinsics[1, 2]:g}"
        raise DataError(path, expected, found, "Do not resize the images. " + SCENE_REMEDY)
    return Camera("PINHOLE", K, height, width)


def _check_calibration(paths: RegionPaths, image: ConfImage, height: int) -> None:
    """Compare the principal point with the distorted image's, if its calibration file exists."""
    panorama, _, camera_yaw = Path(image.name).stem.partition("_")
    path = paths.calibration / f"{panorama}_intrinsics_{camera_yaw[1:2]}.txt"
    if not path.is_file():
        return
    words = read_text(path, "width height fx fy cx cy", SCENE_REMEDY).split()
    if len(words) < 6:
        raise DataError(path, "width height fx fy cx cy", f"{len(words)} words", SCENE_REMEDY)
    cx, cy = _numbers(words[4:6], path, 1)
    principal_point = image.intrinsics[0, 2], height - 1 - image.intrinsics[1, 2]
    if not np.allclose((cx, cy), principal_point, atol=_CALIBRATION_TOLERANCE):
        expected = f"a principal point of {cx:g}, {cy:g} from the top left, as {path.name} says"
        at = f"{principal_point[0]:g}, {principal_point[1]:g}"
        found = f"{at} (cy counted from the bottom) for {image.name}"
        raise DataError(paths.cameras, expected, found, _ORIGIN_REMEDY)


def read_conf(path: Path) -> list[ConfImage]:
    """Read every image of a .conf file, in the file's order.

    Raises:
        DataError: the file is missing or damaged: an entry that is no finite number, an image
            before any intrinsics or twice, a name with a folder, another number of images than
            ``n_images``, or no image.
    """
    intrinsics: Array | None = None
    images: dict[str, ConfImage] = {}
    declared_count: str | None = None
    for number, line in enumerate(read_text(path, "a .conf file", SCENE_REMEDY).splitlines(), 1):
        word, *values = line.split() or [""]
        if word == "n_images":
            declared_count = " ".join(values)
        elif word == "intrinsics_matrix":
            intrinsics = _intrinsics(values, path, number)
        elif word == "scan":
            if intrinsics is None:
                raise _wrong(path, number, "intrinsics_matrix before the first scan", line)
            if len(values) != 18:
                raise _wrong(path, number, "scan, two names and 16 numbers", line)
            name = values[1]
            check_id(Path(name).stem, path, "an image name")
            if name in images or Path(name).name != name:
                raise _wrong(path, number, "each image once, without a folder", line)
            matrix = _numbers(values[2:], path, number).reshape(4, 4)
            images[name] = ConfImage(name, intrinsics, matrix)
    if not images or (declared_count is not None and declared_count != str(len(images))):
        expected = f"scan lines, as many as n_images {declared_count}"
        raise DataError(path, expected, f"{len(images)}", SCENE_REMEDY)
    return list(images.values())


def _intrinsics(values: list[str], path: Path, number: int) -> Array:
    if len(values) != 9:
        raise _wrong(path, number, _INTRINSICS, " ".join(values))
    matrix = _numbers(values, path, number).reshape(3, 3)
    off = (matrix[0, 1], matrix[1, 0], *matrix[2])
    if off != (0, 0, 0, 0, 1) or not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        raise _wrong(path, number, _INTRINSICS, " ".join(values))
    return matrix


def _numbers(words: list[str], path: Path, number: int) -> Array:
    try:
        array = np.array([float(word) for word in words])
    except ValueError as error:
        raise _wrong(path, number, "numbers", str(error)) from error
    if not np.isfinite(array).all():
        raise _wrong(path, number, "finite numbers", " ".join(words))
    return array


def _wrong(path: Path, number: int, expected: str, found: str) -> DataError:
    return DataError(path, f"{expected} in line {number}", repr(found[:100]), SCENE_REMEDY)


__all__ = ["read_group_names", "read_room_type", "read_scan", "read_split", "scene_identity"]


def read_scan(root: Path, scene_id: str, camera: str) -> Scan:
    """Read one region; ``root`` is the dataset's root, its ``v1`` or its ``v1/scans``.

    ``camera`` is ignored: the undistorted images are pinhole images.

    Raises:
        DataError: a file is missing or damaged, files contradict each other, or no image was
            taken in the region; the message names the file.
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
    """Read the ids and labels of a region's objects, from ``region<k>.semseg.json`` only.

    Raises:
        DataError: missing or damaged file, an id twice.
    """
    return [group.name for group in read_groups(RegionPaths.find(root, scene_id).annotation)]


def read_groups(path: Path) -> list[SegmentGroup]:
    """Read the objects of a ``semseg.json``; raises DataError as ``read_group_names`` does."""
    content = read_json(path, "Matterport3D's annotation", SCENE_REMEDY)
    return parse_groups(content, path, SCENE_REMEDY, has_ids=False)


def read_face_segments(path: Path, num_faces: int) -> Array:
    """Read the segment id (F,) int64 of every face; DataError for another number of ids."""
    face_segments = read_segment_indices(path, "Matterport3D's segments", SCENE_REMEDY)
    if len(face_segments) != num_faces:
        expected = f"{num_faces} segIndices, one a face of the mesh (vsegs.json has vertices')"
        raise DataError(path, expected, f"{len(face_segments)}", SCENE_REMEDY)
    return face_segments
