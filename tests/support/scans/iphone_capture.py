"""Writes an iPhone capture of the tiny room: video, depth in every encoding, poses by name."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from numcodecs.lz4 import compress
from PIL import Image

from data.types import Array
from tests.support.scans.scannetpp_tree import room

Encoding = Literal["stream", "deflate", "lz4"]
ROWS, COLUMNS = 192, 256
SIZE = (60, 80)
FOCAL, CENTRE = (50.0, 51.0), (40.5, 29.5)


def depth_pictures(count: int) -> list[Array]:
    """Return depth (192, 256) float32 metres in whole millimetres; each differs, some have 0."""
    row, column = np.mgrid[:ROWS, :COLUMNS]
    millimetres = [(1000 + 7 * row + 3 * column + 50 * i) % 9000 for i in range(count)]
    for picture in millimetres:
        picture[5:9, 7:11] = 0
    return [np.asarray(picture, np.float32) / 1000 for picture in millimetres]


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def _lz4(content: bytes) -> bytes:
    return bytes(compress(content)[4:])  # numcodecs puts the decoded size in front


def encode_depth(pictures: list[Array], encoding: Encoding) -> bytes:
    """The content of ``depth.bin``."""
    metres = [picture.astype("<f4").tobytes() for picture in pictures]
    if encoding == "stream":
        return _deflate(b"".join(metres))
    if encoding == "deflate":
        blocks = [_deflate(content) for content in metres]
    else:
        blocks = [_lz4(np.rint(p * 1000).astype("<u2").tobytes()) for p in pictures]
    return b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def write_video(path: Path, pictures: list[Array]) -> None:
    """Write a lossless video of (H, W, 3) uint8 RGB pictures."""
    height, width = pictures[0].shape[:2]
    code = cv2.VideoWriter.fourcc(*"FFV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 60.0, (width, height))
    assert writer.isOpened()
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()


def shade(number: int) -> Array:
    """Return a frame's picture: one colour, different in every frame."""
    return np.full((*SIZE, 3), (5 * number, 200 - 3 * number, 40), np.uint8)


def entry(world_to_camera: Array) -> dict[str, Any]:
    """One frame of ``pose_intrinsic_imu.json``."""
    K = [[FOCAL[0], 0.0, CENTRE[0]], [0.0, FOCAL[1], CENTRE[1]], [0.0, 0.0, 1.0]]
    pose = np.linalg.inv(world_to_camera).tolist()
    return {"timestamp": 0.1, "pose": pose, "intrinsic": K, "aligned_pose": pose, "imu": {}}


def write_frames(scene: Path) -> dict[str, Any]:
    """Write frames 0, 20, ... 100, posed as the tiny room's views; return the poses."""
    folder = scene / "iphone"
    (folder / "rgb").mkdir(parents=True)
    poses: dict[str, Any] = {}
    for index, view in enumerate(room()[0].views):
        name = f"frame_{20 * index:06d}"
        Image.fromarray(shade(20 * index)).save(folder / "rgb" / f"{name}.jpg")
        poses[name] = entry(view.world_to_camera)
        poses[f"frame_{20 * index + 7:06d}"] = entry(np.eye(4))  # of a frame not taken out
    poses = dict(sorted(poses.items(), reverse=True))
    (folder / "pose_intrinsic_imu.json").write_text(json.dumps(poses))
    return poses
