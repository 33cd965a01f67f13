"""Writes the tiny room as an RGB-D scan: posed images, depth, a mesh."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from data.geometry.raycast import Raycaster, open3d
from data.types import Array
from tests.support.scans.scannet_tree import camera_to_world, matrix_text, scannet_K
from tests.support.scans.scannetpp_tree import PINHOLE, room, write_mesh

SCENE = "my-room"
MESH = "mesh.ply"
INTRINSICS = "intrinsics.txt"
POSE = "pose/frame1.txt"
IMAGE = "color/frame1.jpg"
DEPTH = "depth/frame1.png"
EVERY_FILE = (MESH, INTRINSICS, POSE, IMAGE)


def write_tree(folder: Path, with_mesh: bool = True) -> Path:
    """Write one scan and return its folder."""
    scene = room()[0]
    for name in ("color", "depth", "pose"):
        (folder / name).mkdir(parents=True)
    for name, content in _pictures().items():
        (folder / name).write_bytes(content)
    for index in range(len(scene.views)):
        (folder / "pose" / f"frame{index}.txt").write_text(matrix_text(camera_to_world(index)))
    (folder / INTRINSICS).write_text(matrix_text(scannet_K()))
    if with_mesh:
        write_mesh(folder / MESH, scene.cloud.points, scene.triangles)
    return folder


@functools.cache
def _pictures() -> dict[str, bytes]:
    """The files of colour and depth, which are drawn once."""
    scene, files = room()[0], {}
    caster = Raycaster(scene.cloud.points, scene.triangles)
    for index, view in enumerate(scene.views):
        depth, triangle = caster.render(PINHOLE, view.world_to_camera)
        picture = scene.cloud.colors[scene.triangles[triangle, 0]]  # each box has one colour
        millimetres = np.rint(depth * 1000).astype(np.uint16)
        files[f"color/frame{index}.jpg"] = _encoded(picture, "JPEG", quality=95)
        files[f"depth/frame{index}.png"] = _encoded(millimetres, "PNG")
    return files


def _encoded(pixels: Array, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def distance_to_room(points: Array) -> Array:
    """Return the distances in metres to the room's own mesh, by Open3D's nearest points."""
    o3d, scene = open3d(), room()[0]
    tree = o3d.t.geometry.RaycastingScene()
    triangles = o3d.core.Tensor(scene.triangles.astype(np.uint32))
    tree.add_triangles(o3d.core.Tensor(scene.cloud.points), triangles)
    return np.asarray(tree.compute_distance(o3d.core.Tensor(points)).numpy())
