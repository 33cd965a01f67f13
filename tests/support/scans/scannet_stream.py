"""Writes ``.sens`` streams of the tiny room, field by field as the format is described."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

from data.types import Array
from tests.support.scans.scannet_tree import camera_to_world, scannet_K
from tests.support.scans.scannetpp_tree import HEIGHT, WIDTH, room

NAME = b"StructureSensor"
HEADER_SIZE = 4 + 8 + len(NAME) + 4 * 64 + 2 * 4 + 4 * 4 + 4 + 8
FRAME_HEADER = 64 + 4 * 8
DEPTH = b"depth, compressed"


def matrix_bytes(matrix: Array) -> bytes:
    return struct.pack("<16f", *np.asarray(matrix, float).ravel().tolist())


def color_bytes(index: int) -> bytes:
    stream = io.BytesIO()
    shade = np.full((HEIGHT, WIDTH, 3), 40 * index, np.uint8)
    Image.fromarray(shade).save(stream, "JPEG")
    return stream.getvalue()


def room_poses() -> list[Array]:
    return [camera_to_world(index) for index in range(len(room()[0].views))]


def intrinsics() -> Array:
    K = np.eye(4)
    K[:3, :3] = scannet_K()
    return K


def header_bytes(num_frames: int, version: int = 4, compression: int = 2) -> bytes:
    parts = [struct.pack("<I", version), struct.pack("<Q", len(NAME)), NAME]
    parts += [matrix_bytes(m) for m in (intrinsics(), np.eye(4), 2 * np.eye(4), np.eye(4))]
    parts += [struct.pack("<2i", compression, 1), struct.pack("<4I", WIDTH, HEIGHT, 64, 48)]
    return b"".join(parts) + struct.pack("<fQ", 1000.0, num_frames)


def frame_bytes(pose: Array, color: bytes, depth: bytes = DEPTH) -> bytes:
    sizes = struct.pack("<4Q", 11, 12, len(color), len(depth))
    return matrix_bytes(pose) + sizes + color + depth


def sens_bytes(poses: Sequence[Array]) -> bytes:
    frames = [frame_bytes(pose, color_bytes(i)) for i, pose in enumerate(poses)]
    return header_bytes(len(poses)) + b"".join(frames)
