"""Depth images to a mesh: surfaces where they are known to be, the same each time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from data.geometry import depth_fusion
from data.geometry.depth_fusion import VOXEL, DepthFrame, fuse_depth
from data.geometry.raycast import Raycaster, open3d
from data.types import Array, Camera
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


def test_the_average_is_open3ds() -> None:
    """Planes from two poses: the same blocks, distances, weights and colours."""
    library, voxel = open3d(), 0.04
    tensor, image = library.core.Tensor, library.t.geometry.Image
    both = [depth_fusion._grid(library, voxel) for _ in range(2)]
    for shift, frame in ((0.0137, wall(1.6, 0.3)), (-0.0211, wall(1.5))):
        pose = np.eye(4)
        pose[:3, 3] = shift, 1.7 * shift, 0.9 * shift
        frame = replace(frame, world_to_camera=pose)
        assert depth_fusion._integrate(library, both[0], frame, voxel)
        color = tensor(frame.color.astype(np.float32) / 255)
        parts = image(tensor(frame.depth)), tensor(CAMERA.K), tensor(frame.world_to_camera)
        limits = 1.0, depth_fusion.REACH, 4.0
        blocks = both[1].compute_unique_block_coordinates(*parts, *limits)
        both[1].integrate(blocks, parts[0], image(color), *parts[1:], *limits)
    ours, theirs = (voxels_of(grid) for grid in both)
    assert ours[0].tolist() == theirs[0].tolist()
    for mine, other in zip(ours[1:], theirs[1:]):
        # Where a voxel falls on the border of two pixels, rounding decides.
        assert (np.abs(mine - other) > 1e-3).mean() < 1e-3


def voxels_of(grid: Any) -> list[Array]:
    """Coordinates of a grid's blocks in order, and the three fields of their voxels."""
    slots = grid.hashmap().active_buf_indices().numpy()
    keys = grid.hashmap().key_tensor().numpy()[slots]
    order = np.lexsort(keys.T)
    fields = (grid.attribute(name).numpy() for name in ("tsdf", "weight", "color"))
    return [keys[order], *(field[slots][order] for field in fields)]


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
