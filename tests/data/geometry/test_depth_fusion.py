"""Depth images to a mesh: surfaces where they are known to be, the same each time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data.geometry.raycast import Raycaster
from data.geometry.depth_fusion import VOXEL, DepthFrame, fuse_depth
from data.types import Camera
from tests.support.scans.rgbd_tree import distance_to_room
from tests.support.scans.scannetpp_tree import PINHOLE, room

CAMERA = Camera("PINHOLE", np.array([[60.0, 0, 40], [0, 60, 30], [0, 0, 1]]), 60, 80)


def wall(depth: float = 1.5, tilt: float = 0.0) -> DepthFrame:
    """A plane z = depth + tilt * x, red on the left half of the image and blue on the right."""
    x_over_z = (np.arange(80) + 0.5 - 40) / 60
    rows = np.tile(depth / (1 - tilt * x_over_z), (60, 1)).astype(np.float32)
    color = np.zeros((60, 80, 3), np.uint8)
    color[:, :40, 0], color[:, 40:, 2] = 200, 100
    return DepthFrame(rows, color, CAMERA, np.eye(4))


def test_a_wall_is_where_it_was_seen() -> None:
    mesh = fuse_depth([wall()])
    x, y, z = mesh.points.T
    np.testing.assert_allclose(z, 1.5, atol=1e-3)
    np.testing.assert_allclose((x.min(), x.max()), (-1.0, 1.0), atol=4 * VOXEL)
    np.testing.assert_allclose((y.min(), y.max()), (-0.75, 0.75), atol=4 * VOXEL)
    left = x < -2 * VOXEL
    assert (mesh.colors[left] == (200, 0, 0)).all() and left.any()
    assert (mesh.colors[x > 2 * VOXEL] == (0, 0, 100)).all()


def test_a_pixel_centre_is_half_a_pixel_from_the_edge() -> None:
    """A plane that leans sideways is off by 1 / 120 of its depth where the half is forgotten."""
    mesh = fuse_depth([wall(2.0, tilt=1.0)])
    inner = np.abs(mesh.points[:, 0]) < 0.4
    off = mesh.points[inner, 2] - (2 + mesh.points[inner, 0])
    assert abs(float(off.mean())) < 2e-3


def frames() -> Iterator[DepthFrame]:
    scene = room()[0]
    caster = Raycaster(scene.cloud.points, scene.triangles)
    for view in scene.views:
        depth, _ = caster.render(PINHOLE, view.world_to_camera)
        yield DepthFrame(depth, np.zeros((96, 128, 3), np.uint8), PINHOLE, view.world_to_camera)


def test_a_room_seen_from_all_sides_lies_on_its_surfaces() -> None:
    mesh = fuse_depth(frames())
    assert len(mesh.points) > 5000 and mesh.triangles.max() == len(mesh.points) - 1
    off = distance_to_room(mesh.points)
    assert np.quantile(off, 0.9) < VOXEL and np.quantile(off, 0.99) < 2 * VOXEL


def test_the_same_frames_give_the_same_mesh() -> None:
    one, two = fuse_depth(frames()), fuse_depth(frames())
    assert one.points.tobytes() == two.points.tobytes()
    assert one.triangles.tobytes() == two.triangles.tobytes()


def test_a_surface_out_of_reach_and_crumbs_are_left_out() -> None:
    assert len(fuse_depth([wall(7.0)]).triangles) == 0
    crumb = wall()
    depth = np.zeros_like(crumb.depth)
    depth[30:32, 40:42] = 1.0
    assert len(fuse_depth([DepthFrame(depth, crumb.color, CAMERA, np.eye(4))]).triangles) == 0
