"""Rendering: depth, ownership and colour against independent ways to get them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from data.geometry.cameras import pixel_centers, project, transform, unproject
from data.geometry.undistort import Undistorter
from data.rooms.render import Renderer, anonymisation_mask, fisheye_camera, vertex_colors
from data.rooms.room import Room, apply, make_room
from data.rooms.scan import choose_poses, look_at, scan_room
from data.types import Array, Camera

SEED = (5, 0, 0)


@pytest.fixture(scope="module")
def room() -> Room:
    return make_room(SEED, "bedroom", 0.12)


@pytest.fixture(scope="module")
def camera() -> Camera:
    return fisheye_camera(72, 108, SEED)


@pytest.fixture(scope="module")
def poses(room: Room) -> list[Array]:
    return choose_poses(room, 6)


def test_lens_is_wide_and_invertible(camera: Camera) -> None:
    centers = pixel_centers(camera.height, camera.width)
    rays = unproject(camera, centers)
    assert np.allclose(project(camera, rays), centers, atol=1e-7)
    row = rays.reshape(camera.height, camera.width, 3)[camera.height // 2]
    across = np.degrees(np.arctan(row[-1, 0]) - np.arctan(row[0, 0]))
    assert 105 < across < 125
    assert all(k != 0 for k in camera.distortion)


def test_depth_and_owner_agree_with_the_plain_ray_caster(
    room: Room, camera: Camera, poses: list[Array]
) -> None:
    picture = Renderer(room, camera)(poses[0])
    depth, triangle = room.caster.render(camera, poses[0])
    hit = (depth > 0) & (picture.depth > 0)
    assert hit.mean() > 0.998
    assert np.allclose(picture.depth[hit], depth[hit], rtol=1e-4, atol=1e-4)
    owner = room.mesh.vertex_objects[room.mesh.triangles[triangle[hit], 0]]
    assert np.array_equal(picture.object_ids[hit], owner)


def test_vertices_look_in_pictures_as_they_are_coloured(
    room: Room, camera: Camera, poses: list[Array]
) -> None:
    """A camera straight before a vertex must see the colour the mesh gives it."""
    colors = vertex_colors(room)
    mesh = room.mesh
    K = np.array([[2000.0, 0, 2.5], [0, 2000.0, 2.5], [0, 0, 1]])
    narrow = Camera("PINHOLE", K, 5, 5)
    rng = np.random.default_rng(0)
    errors = []
    for vertex in rng.permutation(len(mesh.vertices))[:60]:
        eye = mesh.vertices[vertex] + 0.05 * mesh.normals[vertex] + [0.003, 0.002, 0.001]
        picture = Renderer(room, narrow)(look_at(eye[None], mesh.vertices[vertex][None])[0])
        owners = picture.object_ids[2, 2]
        if owners == mesh.vertex_objects[vertex] and abs(picture.depth[2, 2] - 0.05) < 0.004:
            error = np.abs(picture.image[2, 2].astype(int) - colors[vertex].astype(int)).max()
            errors.append(error)
    assert len(errors) > 20
    assert np.median(errors) <= 12


def test_pictures_do_not_depend_on_the_order_of_views(
    room: Room, camera: Camera, poses: list[Array]
) -> None:
    renderer = Renderer(room, camera)
    first = [renderer(pose).image for pose in poses[:2]]
    again = Renderer(room, camera)(poses[1]).image
    assert np.array_equal(first[1], again)
    assert first[0].std() > 20


def test_poses_are_upright_inside_free_space_and_see_everything(
    room: Room, camera: Camera, poses: list[Array]
) -> None:
    to_room = np.linalg.inv(room.from_room)
    seen = np.zeros(len(room.objects), int)
    for pose in poses:
        eye = -pose[:3, :3].T @ pose[:3, 3]
        x, y, z = transform(to_room, eye[None])[0]
        assert 0.4 <= x <= room.size[0] - 0.4 and 0.4 <= y <= room.size[1] - 0.4
        assert 1.2 <= z <= 1.8
        inside = [p.body.holds(np.array([x]), np.array([y]))[0] for p in room.placed if p.z < 1]
        assert not any(inside)
        assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
        assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
        assert pose[1, 2] < 0
        owners = Renderer(room, camera)(pose).object_ids
        seen[np.unique(owners[owners >= 0])] += 1
    assert (seen >= 2).mean() > 0.9


def test_undistortion_maps_pixels_as_the_two_cameras_say(camera: Camera) -> None:
    undistorter = Undistorter.make(camera)
    pinhole = undistorter.camera
    assert (pinhole.K[0, 2], pinhole.K[1, 2]) == (camera.width / 2, camera.height / 2)
    source = project(camera, unproject(pinhole, pixel_centers(72, 108))).reshape(72, 108, 2)
    assert np.allclose(undistorter.map_x + 0.5, source[..., 0], atol=1e-3)
    assert np.allclose(undistorter.map_y + 0.5, source[..., 1], atol=1e-3)


def test_undistorted_picture_equals_a_picture_of_the_pinhole_camera(
    room: Room, poses: list[Array]
) -> None:
    camera = fisheye_camera(144, 216, SEED)
    undistorter = Undistorter.make(camera)
    flat = undistorter.image(Renderer(room, camera)(poses[0]).image)
    direct = Renderer(room, undistorter.camera)(poses[0]).image
    blur = [cv2.GaussianBlur(image, (0, 0), 2).astype(float) for image in (flat, direct)]
    assert np.abs(blur[0] - blur[1]).mean() < 3


def test_masks_mark_blanked_patches_and_mirrored_borders(camera: Camera) -> None:
    undistorter = Undistorter.make(camera)
    full = undistorter.mask(np.full((72, 108), 255, np.uint8))
    assert np.array_equal(full == 0, undistorter.outside)
    patch = undistorter.mask(anonymisation_mask(72, 108, 5))
    assert set(np.unique(patch)) <= {0, 255}
    assert (patch == 0).sum() > undistorter.outside.sum()


def test_never_visible_surface_is_dropped(room: Room) -> None:
    """No triangle may lie on the floor facing down, or against a wall facing it."""
    mesh = room.mesh
    inside = apply(np.linalg.inv(room.from_room), mesh.vertices)
    normals = mesh.normals @ room.from_room[:3, :3]
    corner = mesh.triangles
    flat = (inside[corner][:, :, 2] < 1e-4).all(axis=1) & (normals[corner][:, :, 2] < -0.9).all(1)
    assert not flat.any()
    back = (inside[corner][:, :, 1] < 1e-4).all(axis=1) & (normals[corner][:, :, 1] < -0.9).all(1)
    assert not back.any()


def test_scan_welds_objects_but_never_two_objects(room: Room) -> None:
    scan = scan_room(room)
    keys = np.concatenate([(scan.vertices * 1e5).round(), scan.owners[:, None]], axis=1)
    assert len(np.unique(keys, axis=0)) == len(keys)
    owners = scan.owners[scan.triangles]
    assert (owners == owners[:, :1]).all()
    assert len(np.unique(scan.triangles)) == len(scan.vertices)
