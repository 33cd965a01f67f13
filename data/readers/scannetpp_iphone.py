"""Read the iPhone capture of a ScanNet++ scene: depth and video frame by frame, and views.

``depth.bin`` holds depth images of 192 x 256 in one of two forms: a single raw-deflate stream of
float32 metres, or blocks, each a uint32 (little endian) with the number of bytes that follow and
then an LZ4 block of uint16 millimetres or raw-deflated float32 metres. The form is recognised by
decoding the first block. LZ4 blocks have no header; numcodecs' decoder, which comes with Zarr,
needs the decoded size in front.

The views' files are ``<scene>/iphone/rgb/frame_%06d.jpg``, ``rgb_masks/frame_%06d.png`` and
``pose_intrinsic_imu.json``. Frames are numbered from 0 and matched with poses by name, because
either may have gaps. ``aligned_pose`` is camera-to-world in the mesh's frame. ARKit measures the
principal point from the image's corner, as this project does, so intrinsics are used unchanged;
the images are assumed to have no distortion.
"""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data.errors import DataError
from data.images import ImageFolder, check_image, find_masks, image_size
from data.jsonio import read_json
from data.readers.scannetpp_layout import SCENE_REMEDY, ScenePaths, check_id
from data.types import Array, Camera, View

DEPTH_SHAPE = (192, 256)
_NUM_PIXELS = DEPTH_SHAPE[0] * DEPTH_SHAPE[1]
_METRES_BYTES, _MILLIMETRES_BYTES = 4 * _NUM_PIXELS, 2 * _NUM_PIXELS
_FARTHEST = 65.535  # Largest depth in metres that 16 bits of millimetres can hold.
# More bytes than any compressed image takes: a larger size means damage.
_MOST_BYTES = 2 * _METRES_BYTES
_CHUNK = 1 << 18
_RAW = -zlib.MAX_WBITS
_REMEDY = "Download this file again."
_EXPECTED = "depth images of 192x256, as one raw-deflate stream or in blocks"


def depth_frames(path: Path) -> Iterator[Array]:
    """Yield all depth images of ``depth.bin`` in order, (192, 256) float32 metres.

    0 means no measurement; a value that is not finite becomes 0.

    Raises:
        DataError: missing, empty, truncated or damaged file, or a depth below 0 or above
            65.535 m; it is raised after the images before the damage.
    """
    try:
        with open(path, "rb") as stream:
            decode = _blocks if _starts_with_a_block(stream) else _whole
            stream.seek(0)
            yield from decode(stream, path)
    except FileNotFoundError:
        raise DataError(path, _EXPECTED, "no such file", _REMEDY) from None
    except OSError as error:
        raise DataError(path, _EXPECTED, str(error), _REMEDY) from error


def _starts_with_a_block(stream: IO[bytes]) -> bool:
    header = stream.read(4)
    if len(header) < 4 or (size := struct.unpack("<I", header)[0]) > _MOST_BYTES:
        return False
    return _decoded(stream.read(size)) is not None


def _blocks(stream: IO[bytes], path: Path) -> Iterator[Array]:
    number = 0
    while header := stream.read(4):
        expected = f"image {number} as a block"
        if len(header) < 4:
            raise DataError(path, expected, "a truncated file", _REMEDY)
        size = struct.unpack("<I", header)[0]
        payload = stream.read(size) if size <= _MOST_BYTES else b""
        if len(payload) < size:
            raise DataError(path, expected, f"{len(payload)} of {size} bytes", _REMEDY)
        depth = _decoded(payload)
        if depth is None:
            raise DataError(path, expected, "neither LZ4 nor raw deflate", _REMEDY)
        yield _checked(depth, number, path)
        number += 1


def _decoded(payload: bytes) -> Array | None:
    """Decode a block to (192, 256) float32 metres; None if it is no depth image."""
    stream = zlib.decompressobj(_RAW)
    try:
        content = stream.decompress(payload, _METRES_BYTES + 1)
        if len(content) == _METRES_BYTES and stream.eof and not stream.unused_data:
            return np.frombuffer(content, "<f4").reshape(DEPTH_SHAPE)
    except zlib.error:
        pass
    # Not imported at the top: planning a run imports the readers.
    from numcodecs.lz4 import decompress

    try:
        content = decompress(struct.pack("<I", _MILLIMETRES_BYTES) + payload)
    except (RuntimeError, ValueError):
        return None
    return (np.frombuffer(content, "<u2").astype(np.float32) / 1000).reshape(DEPTH_SHAPE)


def _whole(stream: IO[bytes], path: Path) -> Iterator[Array]:
    decoder = zlib.decompressobj(_RAW)
    number, buffer = 0, bytearray()
    while not decoder.eof:
        chunk = decoder.unconsumed_tail or stream.read(_CHUNK)
        if not chunk:
            found = f"a stream truncated after {number} images" if number else "neither"
            raise DataError(path, _EXPECTED, found, _REMEDY)
        try:
            buffer += decoder.decompress(chunk, _METRES_BYTES)
        except zlib.error as error:
            found = f"{error} after {number} images"
            raise DataError(path, _EXPECTED, found, _REMEDY) from error
        while len(buffer) >= _METRES_BYTES:
            depth = np.frombuffer(bytes(buffer[:_METRES_BYTES]), "<f4").reshape(DEPTH_SHAPE)
            del buffer[:_METRES_BYTES]
            yield _checked(depth, number, path)
            number += 1
    num_extra = len(buffer) + len(decoder.unused_data) + len(stream.read(1))
    if num_extra or not number:
        found = f"{number} images and more bytes after them" if num_extra else "an empty stream"
        raise DataError(path, _EXPECTED, found, _REMEDY)


def _checked(depth: Array, number: int, path: Path) -> Array:
    depth = np.where(np.isfinite(depth), depth, np.float32(0)).astype(np.float32)
    low, high = float(depth.min()), float(depth.max())
    if low < 0 or high > _FARTHEST:
        expected = f"depths of 0 to {_FARTHEST} m in image {number}"
        raise DataError(path, expected, f"{low:.4g} to {high:.4g}", _REMEDY)
    return depth


def video_frames(path: Path, every: int) -> Iterator[tuple[int, Array]]:
    """Yield number (from 0) and image of every ``every``-th frame of a video.

    Images are (H, W, 3) uint8 RGB, one in memory at a time.

    Raises:
        DataError: missing file, a damaged frame, or a video without frames. A truncated video
            ends early without an error if its codec detects none.
    """
    import cv2

    if not path.is_file():
        raise DataError(path, "a video", "no such file", _REMEDY)
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    number = 0
    try:
        while capture.grab():
            if number % every == 0:
                whole, picture = capture.retrieve()
                if not whole:
                    found = f"frame {number} is damaged"
                    raise DataError(path, "a complete video", found, _REMEDY)
                yield number, np.ascontiguousarray(picture[..., ::-1])
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise DataError(path, "a video with frames", "none that can be read", _REMEDY)


log = logging.getLogger(__name__)

_RIGID = 1e-3
# A principal point further than this share of the image from its middle means another image size.
_OFF_CENTRE = 0.15


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """Read a view for each frame in ``iphone/rgb`` that has a finite pose, sorted by name.

    Frames without a pose or with one that is not finite are left out; their number is logged.

    Raises:
        DataError: frames were not extracted from the video yet (the message gives the command);
            a file is missing or damaged; no frame has a pose.
    """
    folder = ImageFolder(paths.images, _extract_remedy(paths))
    files = folder.files(".jpg", ".png")
    if not files:
        raise DataError(paths.images, "frames of the video", "none", _extract_remedy(paths))
    entries = _read_entries(paths.poses)
    masks = find_masks(paths.masks, [path.name for path in files])
    size = image_size(files[0])
    views, num_without_pose, num_not_finite = [], 0, 0
    for path in files:
        entry = entries.get(path.stem)
        if entry is None:
            num_without_pose += 1
            continue
        pose = _pose(entry, path.stem, paths.poses)
        if pose is None:
            num_not_finite += 1
            continue
        view_id = check_id(path.stem, paths.images, "a frame name")
        camera = _camera(entry, path.stem, size, paths)
        check_image(path, *size)
        mask = masks.get(path.name)
        if mask is not None:
            check_image(mask, *size)
        views.append(View(view_id, camera, pose, path, mask_path=mask))
    if num_without_pose or num_not_finite:
        message = (
            "%s: of %d frames, %d have no pose and %d have a pose that is not finite; left out"
        )
        log.warning(message, paths.poses, len(files), num_without_pose, num_not_finite)
    if not views:
        found = f"none of {len(files)} ({files[0].stem}, ...)"
        raise DataError(paths.poses, "a finite pose of at least one frame", found, SCENE_REMEDY)
    return tuple(sorted(views, key=lambda view: view.view_id))


def _extract_remedy(paths: ScenePaths) -> str:
    if not paths.video.exists():
        return SCENE_REMEDY
    arguments = f"--scene {paths.folder} --output {paths.images.parent} --every 20"
    return f"Extract frames from rgb.mkv: python -m pipeline extract-iphone {arguments}"


def _read_entries(path: Path) -> dict[str, Any]:
    """Read ``pose_intrinsic_imu.json`` by frame name; numbers may be NaN or infinite."""
    content = read_json(path, "the iPhone's poses", SCENE_REMEDY, finite=False)
    if not isinstance(content, dict) or not content:
        found = "an empty one" if isinstance(content, dict) else type(content).__name__
        raise DataError(path, "a JSON object of frames", found, SCENE_REMEDY)
    return content


def _matrix(entry: Any, key: str, size: int, name: str, path: Path) -> Array:
    expected = f"{name}.{key} as {size} rows of {size} numbers"
    value = entry.get(key) if isinstance(entry, dict) else None
    try:
        matrix = np.array(value)
    except ValueError as error:
        raise DataError(path, expected, str(error), SCENE_REMEDY) from error
    if matrix.shape != (size, size) or matrix.dtype.kind not in "if":
        raise DataError(path, expected, repr(value)[:80], SCENE_REMEDY)
    return matrix.astype(np.float64)


def _pose(entry: Any, name: str, path: Path) -> Array | None:
    """Return a frame's ``world_to_camera`` (4, 4); None for a pose that is not finite."""
    pose = _matrix(entry, "aligned_pose", 4, name, path)
    if not np.isfinite(pose).all():
        return None
    rotation, position = pose[:3, :3], pose[:3, 3]
    deviation = np.abs(rotation @ rotation.T - np.eye(3)).max()
    deviation = max(deviation, np.abs(pose[3] - [0, 0, 0, 1]).max())
    if not deviation <= _RIGID or np.linalg.det(rotation) < 0:
        expected = f"{name}.aligned_pose as a rigid motion to {_RIGID}"
        raise DataError(path, expected, f"a difference of {deviation:.3g}", SCENE_REMEDY)
    u_matrix, _, v_matrix = np.linalg.svd(rotation)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = (u_matrix @ v_matrix).T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    return world_to_camera


def _camera(entry: Any, name: str, size: tuple[int, int], paths: ScenePaths) -> Camera:
    K = _matrix(entry, "intrinsic", 3, name, paths.poses)
    height, width = size
    try:
        if K[0, 1] or K[1, 0] or K[2].tolist() != [0, 0, 1]:
            raise ValueError("a matrix with skew, or with another last row than 0 0 1")
        camera = Camera("PINHOLE", K, height, width)
    except ValueError as error:
        expected = f"{name}.intrinsic as the intrinsics of a pinhole camera"
        raise DataError(paths.poses, expected, str(error), SCENE_REMEDY) from error
    offset = np.abs(K[:2, 2] / [width, height] - 0.5).max()
    if not offset <= _OFF_CENTRE:
        expected = f"{name}.intrinsic for frames of {width}x{height}, as in {paths.images}"
        found = f"a principal point at {K[0, 2]:.1f}, {K[1, 2]:.1f}"
        remedy = "The frames must have the size of the video: extract them again."
        raise DataError(paths.poses, expected, found, remedy)
    return camera
