"""The streams of an iPhone capture in ScanNet++: ``rgb.mkv`` and ``depth.bin``, frame by frame.

``depth.bin`` holds pictures of 192 x 256 in one of two ways: one raw-deflate stream of float32
metres from its first byte to its last, or blocks, each a uint32 (little endian) of how many
bytes follow and then either an LZ4 block of uint16 millimetres or raw-deflated float32 metres.
Which it is shows when the first block is decoded. LZ4 blocks have no header of their own; the
decoder is numcodecs', which Zarr brings along and which wants the decoded size in front.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from data.errors import DataError
from data.types import Array

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
