"""Read ScanNet's ``.sens`` streams (version 4) frame by frame, and export them as images.

The stream is little endian: u32 version; u64 length of the sensor's name and the name; four 4x4
f32 matrices, row-major (colour intrinsics, colour extrinsics, depth intrinsics, depth
extrinsics); i32 kind of colour compression (2 = JPEG) and of depth compression; u32 width and
height of colour, then of depth; f32 depth units per metre; u64 number of frames. Each frame is a
4x4 f32 camera-to-world matrix, u64 time of colour and of depth, u64 bytes of colour and of depth,
and the data. Inertial data after the last frame is not read.

Exported files are ``color/<n>.jpg``, ``pose/<n>.txt`` and
``intrinsic/{intrinsic,extrinsic}_{color,depth}.txt``.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple

import numpy as np

from data.errors import DataError
from data.types import Array, Progress, silent

VERSION = 4
JPEG = 2
_REMEDY = "Download this .sens again with ScanNet's download script."
_MATRICES = 4
_MAX_NAME = 4096
_MAX_SIDE = 1 << 16
_FRAME = struct.Struct("<64s4Q")
_TAIL = struct.Struct("<2i4IfQ")


@dataclass(frozen=True, eq=False)
class SensFrame:
    """A frame: ``camera_to_world`` (4, 4) float32, not finite if tracking was lost; JPEG bytes."""

    index: int
    camera_to_world: Array
    color: bytes


@dataclass(frozen=True, eq=False)
class SensHeader:
    """A stream's header: matrices (4, 4) float32, and image sizes (height, width) in pixels.

    ``depth_shift`` is the number of depth units per metre.
    """

    sensor_name: str
    color_intrinsics: Array
    color_extrinsics: Array
    depth_intrinsics: Array
    depth_extrinsics: Array
    color_size: tuple[int, int]
    depth_size: tuple[int, int]
    depth_shift: float
    num_frames: int


class SensFile:
    """An open stream; use it in a ``with`` statement, and iterate over ``frames`` once.

    The constructor reads ``header``. One colour image is in memory at a time; depth is skipped.

    Raises:
        DataError: missing file, another version, a colour compression other than JPEG, or an
            impossible header; while iterating, a stream that ends or is damaged at a frame,
            whose number the message names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream: BinaryIO = open(path, "rb")
            self._size = os.fstat(self._stream.fileno()).st_size
        except FileNotFoundError:
            raise DataError(path, "a .sens stream", "no such file", _REMEDY) from None
        except OSError as error:
            raise DataError(path, "a .sens stream", str(error), _REMEDY) from error
        try:
            self.header = self._read_header()
        except DataError:
            self._stream.close()
            raise

    def __enter__(self) -> SensFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()

    def _take(self, count: int, what: str) -> bytes:
        bytes_left = self._size - self._stream.tell()
        content = self._stream.read(count) if count <= bytes_left else b""
        if len(content) != count:
            found = f"the end of the file after {bytes_left} bytes"
            raise DataError(self.path, f"{count} bytes of {what}", found, _REMEDY)
        return content

    def _read_header(self) -> SensHeader:
        (version,) = struct.unpack("<I", self._take(4, "the version"))
        if version != VERSION:
            raise DataError(self.path, f".sens version {VERSION}", f"{version}", _REMEDY)
        (length,) = struct.unpack("<Q", self._take(8, "the header"))
        if length > _MAX_NAME:
            expected = f"a sensor name of at most {_MAX_NAME} bytes"
            raise DataError(self.path, expected, f"{length}", _REMEDY)
        name = self._take(length, "the header").decode("utf-8", "replace")
        text = self._take(64 * _MATRICES, "the header")
        matrices = np.frombuffer(text, "<f4").reshape(_MATRICES, 4, 4)
        *numbers, count = _TAIL.unpack(self._take(_TAIL.size, "the header"))
        compression, _, width, height, depth_width, depth_height, shift = numbers
        color_size, depth_size = (height, width), (depth_height, depth_width)
        color_K, color_pose, depth_K, depth_pose = matrices
        header = SensHeader(
            name, color_K, color_pose, depth_K, depth_pose, color_size, depth_size, shift, count
        )
        self._check(header, compression)
        return header

    def _check(self, header: SensHeader, compression: int) -> None:
        if compression != JPEG:
            found = f"kind {compression}"
            raise DataError(self.path, f"colour compressed as JPEG (kind {JPEG})", found, _REMEDY)
        if not all(0 < side <= _MAX_SIDE for side in header.color_size):
            expected = "a plausible size of the colour images"
            raise DataError(self.path, expected, f"{header.color_size}", _REMEDY)
        if not np.isfinite(header.color_intrinsics).all():
            found = "a value that is not finite"
            raise DataError(self.path, "finite colour intrinsics", found, _REMEDY)
        most = (self._size - self._stream.tell()) // _FRAME.size
        if not 0 < header.num_frames:
            raise DataError(self.path, "a stream of frames", "none", _REMEDY)
        if header.num_frames > most:
            expected = f"{header.num_frames} frames, as the header says"
            found = f"a truncated file that cannot hold more than {most}"
            raise DataError(self.path, expected, found, _REMEDY)

    def frames(self, every: int = 1) -> Iterator[SensFrame]:
        """Yield the frames 0, ``every``, 2 * ``every``, ...; the others are skipped unread."""
        for index in range(self.header.num_frames):
            what = f"frame {index} of {self.header.num_frames}"
            pose, _, _, color_size, depth_size = _FRAME.unpack(self._take(_FRAME.size, what))
            start = self._stream.tell()
            if color_size + depth_size > self._size - start:
                expected = f"{color_size + depth_size} bytes of {what}"
                found = f"the end of the file after {self._size - start} bytes"
                raise DataError(self.path, expected, found, _REMEDY)
            if index % every == 0:
                color = self._take(color_size, what)
                self._check_jpeg(color, what)
                yield SensFrame(index, np.frombuffer(pose, "<f4").reshape(4, 4), color)
            self._stream.seek(start + color_size + depth_size)

    def _check_jpeg(self, color: bytes, what: str) -> None:
        if not (color.startswith(b"\xff\xd8") and b"\xff\xd9" in color[-64:]):
            found = f"{len(color)} bytes that are no JPEG"
            raise DataError(self.path, f"a complete JPEG as colour of {what}", found, _REMEDY)


FOLDERS = ("color", "pose", "intrinsic")
_PART = ".extract-sens.part"


class Exported(NamedTuple):
    """Numbers of frames: written, in the stream, and written without a finite pose."""

    written: int
    total: int
    lost: int


def export_frames(
    sens_path: Path, output: Path, every: int = 1, progress: Progress = silent
) -> Exported:
    """Write every ``every``-th frame below ``output``, which is created if it is missing.

    Frames keep their number. Poses are written unchanged, also those that are not finite, which
    readers leave out. The three folders are renamed into place only after all is written.

    Raises:
        DataError: ``output`` has one of the folders already or is a file, or the stream is
            damaged (see ``SensFile``).
    """
    existing = [name for name in FOLDERS if (output / name).exists()]
    if existing or (output.exists() and not output.is_dir()):
        found = f"{', '.join(existing)} in it" if existing else "a file"
        remedy = "Remove it, or name another folder."
        raise DataError(output, f"a folder without {', '.join(FOLDERS)}", found, remedy)
    with SensFile(sens_path) as sens:
        part = output / _PART
        shutil.rmtree(part, ignore_errors=True)
        try:
            exported = _write(sens, part, every, progress)
            for name in FOLDERS:
                (part / name).rename(output / name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return exported


def _write(sens: SensFile, part: Path, every: int, progress: Progress) -> Exported:
    for name in FOLDERS:
        (part / name).mkdir(parents=True)
    _write_calibration(sens.header, part / "intrinsic")
    total = sens.header.num_frames
    written = lost = 0
    for frame in sens.frames(every):
        (part / "color" / f"{frame.index}.jpg").write_bytes(frame.color)
        (part / "pose" / f"{frame.index}.txt").write_text(_matrix_text(frame.camera_to_world))
        written += 1
        lost += not np.isfinite(frame.camera_to_world).all()
        progress(frame.index + 1, total)
    return Exported(written, total, lost)


def _write_calibration(header: SensHeader, folder: Path) -> None:
    matrices = {
        "intrinsic_color": header.color_intrinsics,
        "extrinsic_color": header.color_extrinsics,
        "intrinsic_depth": header.depth_intrinsics,
        "extrinsic_depth": header.depth_extrinsics,
    }
    for name, matrix in matrices.items():
        (folder / f"{name}.txt").write_text(_matrix_text(matrix))


def _matrix_text(matrix: Array) -> str:
    """Format a (4, 4) float32 matrix as four lines of four numbers, without loss."""
    return "".join(" ".join(f"{value:.9g}" for value in row) + "\n" for row in matrix.tolist())
