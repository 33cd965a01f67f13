"""The iPhone capture of a ScanNet++ scene: its streams, frame by frame, and its views.

``depth.bin`` holds pictures of 192 x 256 in one of two ways: one raw-deflate stream of float32
metres from its first byte to its last, or blocks, each a uint32 (little endian) of how many
bytes follow and then either an LZ4 block of uint16 millimetres or raw-deflated float32 metres.
Which it is shows when the first block is decoded. LZ4 blocks have no header of their own; the
decoder is numcodecs', which Zarr brings along and which wants the decoded size in front.

<scene>/iphone/   rgb/frame_%06d.jpg  rgb_masks/frame_%06d.png  pose_intrinsic_imu.json

Frames are numbered from 0 and joined with poses by their name, never by their position: there
may be fewer of either. ``aligned_pose`` is camera-to-world in the mesh's frame. ARKit counts
the principal point from the picture's corner, which is this project's own convention, so
intrinsics are taken as they stand; its pictures are taken to be without distortion.
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
_FARTHEST = 65.535  # What millimetres in 16 bits can say.
# More than any picture takes, however badly it compresses: a size beyond it is damage.
_MOST_BYTES = 2 * _METRES_BYTES
_CHUNK = 1 << 18
_RAW = -zlib.MAX_WBITS
_REMEDY = "Download this file again."
_EXPECTED = "depth pictures of 192x256, as one raw-deflate stream or in blocks"


def depth_frames(path: Path) -> Iterator[Array]:
    """All depth pictures of ``depth.bin`` in order, (192, 256) float32 metres, one at a time.

    0 is no measurement, and so is a value that is not finite.

    Raises:
        DataError: missing, empty, cut or damaged file, or a depth that cannot be (below 0 or
            above 65.535 m); pictures before the damage have been given by then.
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
        expected = f"picture {number} as a block"
        if len(header) < 4:
            raise DataError(path, expected, "a file cut short", _REMEDY)
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
    """(192, 256) float32 metres of a block's content; None when it is not a picture's."""
    stream = zlib.decompressobj(_RAW)
    try:
        content = stream.decompress(payload, _METRES_BYTES + 1)
        if len(content) == _METRES_BYTES and stream.eof and not stream.unused_data:
            return np.frombuffer(content, "<f4").reshape(DEPTH_SHAPE)
    except zlib.error:
        pass
    # Imported where it is needed: planning a run imports the readers.
    from numcodecs.lz4 import decompress

    try:
        content = decompress(struct.pack("<I", _MILLIMETRES_BYTES) + payload)
    except (RuntimeError, ValueError):
        return None
    return (np.frombuffer(content, "<u2").astype(np.float32) / 1000).reshape(DEPTH_SHAPE)


def _whole(stream: IO[bytes], path: Path) -> Iterator[Array]:
    decoder = zlib.decompressobj(_RAW)
    number, held = 0, bytearray()
    while not decoder.eof:
        chunk = decoder.unconsumed_tail or stream.read(_CHUNK)
        if not chunk:
            found = f"a stream cut after {number} pictures" if number else "neither"
            raise DataError(path, _EXPECTED, found, _REMEDY)
        try:
            held += decoder.decompress(chunk, _METRES_BYTES)
        except zlib.error as error:
            found = f"{error} after {number} pictures"
            raise DataError(path, _EXPECTED, found, _REMEDY) from error
        while len(held) >= _METRES_BYTES:
            depth = np.frombuffer(bytes(held[:_METRES_BYTES]), "<f4").reshape(DEPTH_SHAPE)
            del held[:_METRES_BYTES]
            yield _checked(depth, number, path)
            number += 1
    rest = len(held) + len(decoder.unused_data) + len(stream.read(1))
    if rest or not number:
        found = f"{number} pictures and a rest" if rest else "an empty stream"
        raise DataError(path, _EXPECTED, found, _REMEDY)


def _checked(depth: Array, number: int, path: Path) -> Array:
    depth = np.where(np.isfinite(depth), depth, np.float32(0)).astype(np.float32)
    low, high = float(depth.min()), float(depth.max())
    if low < 0 or high > _FARTHEST:
        expected = f"depths of 0 to {_FARTHEST} m in picture {number}"
        raise DataError(path, expected, f"{low:.4g} to {high:.4g}", _REMEDY)
    return depth


def video_frames(path: Path, every: int) -> Iterator[tuple[int, Array]]:
    """Every ``every``-th picture of a video from its first on, and its number, from 0.

    Pictures are (H, W, 3) uint8 RGB, one in memory at a time.

    Raises:
        DataError: missing file, or one without a single picture. A video that is cut short
            ends early, as far as its codec can tell.
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
                    found = f"picture {number} is damaged"
                    raise DataError(path, "a whole video", found, _REMEDY)
                yield number, np.ascontiguousarray(picture[..., ::-1])
            number += 1
    finally:
        capture.release()
    if number == 0:
        raise DataError(path, "a video with pictures", "none that can be read", _REMEDY)


log = logging.getLogger(__name__)

_RIGID = 1e-3
# A principal point further from the middle, as a share of the picture, is of another size.
_OFF_CENTRE = 0.15


def read_views(paths: ScenePaths) -> tuple[View, ...]:
    """A view for each frame in ``iphone/rgb`` that has a finite pose, sorted by name.

    Frames without a pose, and those whose pose is not finite, are left out and counted in the
    log.

    Raises:
        DataError: frames were not taken out of the video yet (the message tells the command);
            a file is missing or damaged; no frame has a pose.
    """
    folder = ImageFolder(paths.images, _extract_remedy(paths))
    files = folder.files(".jpg", ".png")
    if not files:
        raise DataError(paths.images, "frames of the video", "none", _extract_remedy(paths))
    entries = _read_entries(paths.poses)
    masks = find_masks(paths.masks, [path.name for path in files])
    size = image_size(files[0])
    views, without, wild = [], 0, 0
    for path in files:
        entry = entries.get(path.stem)
        if entry is None:
            without += 1
            continue
        pose = _pose(entry, path.stem, paths.poses)
        if pose is None:
            wild += 1
            continue
        view_id = check_id(path.stem, paths.images, "a frame name")
        camera = _camera(entry, path.stem, size, paths)
        check_image(path, *size)
        mask = masks.get(path.name)
        if mask is not None:
            check_image(mask, *size)
        views.append(View(view_id, camera, pose, path, mask_path=mask))
    if without or wild:
        told = "%s: of %d frames %d have no pose and %d one that is not finite; left out"
        log.warning(told, paths.poses, len(files), without, wild)
    if not views:
        found = f"none of {len(files)} ({files[0].stem}, ...)"
        raise DataError(paths.poses, "a finite pose of some frame", found, SCENE_REMEDY)
    return tuple(sorted(views, key=lambda view: view.view_id))


def _extract_remedy(paths: ScenePaths) -> str:
    if not paths.video.exists():
        return SCENE_REMEDY
    told = f"--scene {paths.folder} --output {paths.images.parent} --every 20"
    return f"Take frames out of rgb.mkv: python -m pipeline extract-iphone {told}"


def _read_entries(path: Path) -> dict[str, Any]:
    """``pose_intrinsic_imu.json`` by frame name; numbers that are not finite may be in it."""
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
    """``world_to_camera`` (4, 4); None for a pose that is not finite."""
    pose = _matrix(entry, "aligned_pose", 4, name, path)
    if not np.isfinite(pose).all():
        return None
    rotation, position = pose[:3, :3], pose[:3, 3]
    rest = np.abs(rotation @ rotation.T - np.eye(3)).max()
    rest = max(rest, np.abs(pose[3] - [0, 0, 0, 1]).max())
    if not rest <= _RIGID or np.linalg.det(rotation) < 0:
        expected = f"{name}.aligned_pose as a rigid motion to {_RIGID}"
        raise DataError(path, expected, f"a difference of {rest:.3g}", SCENE_REMEDY)
    left, _, right = np.linalg.svd(rotation)
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3] = (left @ right).T
    world_to_camera[:3, 3] = -world_to_camera[:3, :3] @ position
    return world_to_camera


def _camera(entry: Any, name: str, size: tuple[int, int], paths: ScenePaths) -> Camera:
    K = _matrix(entry, "intrinsic", 3, name, paths.poses)
    height, width = size
    try:
        if K[0, 1] or K[1, 0] or K[2].tolist() != [0, 0, 1]:
            raise ValueError("no intrinsics without skew")
        camera = Camera("PINHOLE", K, height, width)
    except ValueError as error:
        expected = f"{name}.intrinsic as a camera's"
        raise DataError(paths.poses, expected, str(error), SCENE_REMEDY) from error
    off = np.abs(K[:2, 2] / [width, height] - 0.5).max()
    if not off <= _OFF_CENTRE:
        expected = f"{name}.intrinsic for frames of {width}x{height}, as in {paths.images}"
        found = f"a principal point at {K[0, 2]:.1f}, {K[1, 2]:.1f}"
        remedy = "Frames must have the size of the video's pictures: extract them again."
        raise DataError(paths.poses, expected, found, remedy)
    return camera
