"""Links: the visibility rule on scenes worked out by hand, and its invariants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.artifacts import links as artifact
from data.artifacts.links import ViewLinks, read_links, write_links
from data.errors import ArtifactError, DataError
from data.geometry.visibility import Visibility
from data.types import Array, Camera, View
from stages.configs import LinkConfig
from stages.scene import link_points
from tests.support.scans.tiny_scene import make_tiny_scene

# One metre away a pixel is 1/128 m, which float32 holds exactly; the optical axis meets the
# corner of four pixels.
CAMERA = Camera("PINHOLE", np.array([[128.0, 0, 20], [0, 128, 15], [0, 0, 1]]), 30, 40)
FISHEYE = Camera("OPENCV_FISHEYE", CAMERA.K, 30, 40, (0.05, -0.02, 0.004, -0.001))
CFG = LinkConfig(near=0.0625, depth_tolerance=0.05, depth_tolerance_relative=0.02)


def link(
    points: object, depth: object, camera: Camera = CAMERA, pose: Array | None = None
) -> ViewLinks:
    view = View("v0", camera, np.eye(4) if pose is None else pose, Path("v0.JPG"))
    full = np.broadcast_to(np.asarray(depth, np.float32), (camera.height, camera.width))
    return link_points.links_of_view(Visibility(np.asarray(points, np.float32)), view, full, CFG)


def test_of_two_planes_the_front_one_hides_the_back_one() -> None:
    x = np.array([-8.0, 0.0, 8.0]) / 128
    front = np.stack([x, 0 * x, 1 + 0 * x], axis=1)
    back = np.stack([2 * x, 0 * x, 2 + 0 * x], axis=1)
    depth = np.full((30, 40), 2.0)
    depth[:, :15] = 1.0  # the front plane covers columns 0 to 14 only
    links = link(np.concatenate([back, front]), depth)
    assert links.point_ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(links.uv, [[20, 15], [28, 15], [12, 15]])
    assert links.point_ids.dtype == np.int32 and links.uv.dtype == np.float32


def test_a_point_behind_the_camera_is_not_seen_even_where_depth_is_missing() -> None:
    assert len(link([[0, 0, -0.02], [0, 0, -1], [0, 0, 0]], 0.0).point_ids) == 0
    assert len(link([[0, 0, -0.02], [0, 0, -1], [0, 0, 0]], 0.02).point_ids) == 0


def test_a_point_nearer_than_near_is_not_seen() -> None:
    assert link([[0, 0, 0.0625], [0, 0, 0.0626]], 0.0625).point_ids.tolist() == [1]


def test_zero_depth_means_no_surface() -> None:
    assert len(link([[0, 0, 0.07], [0, 0, 1]], 0.0).point_ids) == 0


def test_borders_belong_to_the_image_on_the_left_and_top_only() -> None:
    us = [0.0, -1e-3, 40.0, 39.999, 20.0]
    points = [[(u - 20) / 128, 0, 1] for u in us]
    assert link(points, 1.0).point_ids.tolist() == [0, 3, 4]
    vs = [0.0, -1e-3, 30.0, 29.999]
    points = [[0, (v - 15) / 128, 1] for v in vs]
    assert link(points, 1.0).point_ids.tolist() == [0, 3]


def test_a_pixel_that_rounds_up_to_the_border_is_outside() -> None:
    far = Camera("PINHOLE", np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]), 1, 1)
    almost_one = np.nextafter(np.float64(1), 0)
    view = View("v0", far, np.eye(4), Path("v0"))
    points = np.array([[almost_one, 0, 1]])
    links = link_points.links_of_view(Visibility(points), view, np.ones((1, 1)), CFG)
    assert len(links.point_ids) == 0


@pytest.mark.parametrize(
    ("z", "surface", "seen"),
    [
        (1.0, 1.0499, True),
        (1.0, 1.0501, False),
        (1.0, 0.9501, True),
        (1.0, 0.9499, False),
        (5.0, 5.0999, True),  # relative: 0.02 * 5 = 0.1 m
        (5.0, 5.1001, False),
        (2.0, 2.0499, True),  # absolute 0.05 > relative 0.04
    ],
)
def test_tolerance_is_the_larger_of_absolute_and_relative(
    z: float, surface: float, seen: bool
) -> None:
    assert (len(link([[0, 0, z]], surface).point_ids) == 1) is seen


def test_depth_is_read_at_the_pixel_that_holds_the_point() -> None:
    depth = np.zeros((30, 40))
    depth[15, 20] = 1.0
    inside = [[0.0, 0.0, 1], [0.99 / 128, 0.99 / 128, 1]]
    outside = [[-0.0001, 0, 1], [0, -0.0001, 1], [1 / 128, 0, 1], [0, 1 / 128, 1]]
    assert link(inside + outside, depth).point_ids.tolist() == [0, 1]


def test_fisheye_follows_the_closed_formula_and_opencv() -> None:
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.uniform(-0.2, 0.2, (50, 2)), np.ones((50, 1))], axis=1)
    points[0] = (0, 0, 1)
    points = points.astype(np.float32).astype(np.float64)
    links = link(points, 1.0, FISHEYE)
    k1, k2, k3, k4 = FISHEYE.distortion
    expected = []
    for x, y, z in points:
        r = np.sqrt((x / z) ** 2 + (y / z) ** 2)
        t = np.arctan(r)
        bent = t * (1 + k1 * t**2 + k2 * t**4 + k3 * t**6 + k4 * t**8)
        factor = bent / r if r > 0 else 1.0
        expected.append((128 * factor * x / z + 20, 128 * factor * y / z + 15))
    expected_uv = np.array(expected)
    inside = ((expected_uv >= 0) & (expected_uv < [40, 30])).all(axis=1)
    assert 5 < inside.sum() < 50
    assert links.point_ids.tolist() == np.flatnonzero(inside).tolist()
    np.testing.assert_allclose(links.uv, expected_uv[inside], atol=1e-4)
    shifted = CAMERA.K - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    theirs, _ = cv2.fisheye.projectPoints(
        points[:, None], np.zeros(3), np.zeros(3), shifted, np.array(FISHEYE.distortion)
    )
    np.testing.assert_allclose(links.uv, theirs[inside, 0] + 0.5, atol=1e-4)


def test_points_that_are_not_finite_are_not_seen() -> None:
    assert link([[np.nan, 0, 1], [0, 0, np.inf], [0, 0, 1]], 1.0).point_ids.tolist() == [2]


def test_no_points_no_links() -> None:
    links = link(np.zeros((0, 3)), 1.0)
    assert links.point_ids.shape == (0,) and links.uv.shape == (0, 2)


def test_a_depth_map_of_another_size_is_refused() -> None:
    view = View("v0", CAMERA, np.eye(4), Path("v0"))
    with pytest.raises(ValueError, match=r"\(30, 40\)"):
        link_points.links_of_view(Visibility(np.zeros((1, 3))), view, np.ones((40, 30)), CFG)


def wild_scene(seed: int) -> tuple[Array, Array]:
    """Points around the camera and a depth map, away from decisions that rounding could turn."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-1, 1, (300, 3)) * [1, 1, 3]
    return np.asarray(points), np.asarray(rng.choice([0.0, 1.0, 1.5, 2.5], (30, 40)))


@given(st.integers(0, 10_000), st.sampled_from([CAMERA, FISHEYE]))
def test_moving_world_and_camera_together_changes_nothing(seed: int, camera: Camera) -> None:
    points, depth = wild_scene(seed)
    view = View("v0", camera, np.eye(4), Path("v0"))
    plain = link_points.links_of_view(Visibility(points), view, depth, CFG)
    rng = np.random.default_rng(seed + 1)
    motion = np.eye(4)
    motion[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    motion[:3, 3] = rng.uniform(-5, 5, 3)
    moved_points = points @ motion[:3, :3].T + motion[:3, 3]
    moved_view = View("v0", camera, np.linalg.inv(motion), Path("v0"))
    moved = link_points.links_of_view(Visibility(moved_points), moved_view, depth, CFG)
    assert moved.point_ids.tolist() == plain.point_ids.tolist()
    np.testing.assert_allclose(moved.uv, plain.uv, atol=1e-3)


@given(st.integers(0, 10_000))
def test_permuting_points_permutes_links(seed: int) -> None:
    points, depth = wild_scene(seed)
    order = np.random.default_rng(seed).permutation(len(points))
    view = View("v0", FISHEYE, np.eye(4), Path("v0"))
    plain = link_points.links_of_view(Visibility(points), view, depth, CFG)
    mixed = link_points.links_of_view(Visibility(points[order]), view, depth, CFG)
    assert (np.diff(mixed.point_ids) > 0).all()
    of = {int(order[i]): uv.tolist() for i, uv in zip(mixed.point_ids, mixed.uv)}
    assert of == {int(i): uv.tolist() for i, uv in zip(plain.point_ids, plain.uv)}


def test_every_link_of_a_room_stands_on_the_surface_its_view_sees() -> None:
    scene, _ = make_tiny_scene()
    for links, view, depth in zip(link_points.run(scene, CFG), scene.views, scene.depths):
        assert links.view_id == view.view_id and len(links.point_ids) > 100
        column, row = np.floor(links.uv).astype(int).T
        homogeneous = np.c_[scene.cloud.points[links.point_ids], np.ones(len(links.point_ids))]
        z = (homogeneous @ view.world_to_camera.T)[:, 2]
        assert (np.abs(depth[row, column] - z) <= np.maximum(0.05, 0.02 * z)).all()


def some_links(view_id: str, seed: int) -> ViewLinks:
    rng = np.random.default_rng(seed)
    ids = np.flatnonzero(rng.random(500) < 0.1 * seed).astype(np.int32)
    return ViewLinks(view_id, ids, rng.uniform(0, 40, (len(ids), 2)).astype(np.float32))


@pytest.mark.parametrize("shard", [64, 1 << 20])
def test_links_come_back_as_they_were_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int
) -> None:
    monkeypatch.setattr(artifact, "_SHARD", shard)
    monkeypatch.setattr(artifact, "_CHUNK", min(shard, artifact._CHUNK) // 4)
    written = [some_links(f"v{i}", i) for i in range(5)]
    write_links(tmp_path, [f"v{i}" for i in range(5)], 500, iter(written))
    links = read_links(tmp_path)
    assert (len(links), links.num_points, links.view_ids[3]) == (5, 500, "v3")
    for index, expected in enumerate(written):
        found = links.view(index)
        assert found.view_id == expected.view_id
        np.testing.assert_array_equal(found.point_ids, expected.point_ids)
        np.testing.assert_array_equal(found.uv, expected.uv)
        assert found.point_ids.dtype == np.int32 and found.uv.dtype == np.float32
    with pytest.raises(IndexError):
        links.view(5)


def test_a_room_makes_few_files(tmp_path: Path) -> None:
    scene, _ = make_tiny_scene()
    ids = [view.view_id for view in scene.views]
    write_links(tmp_path, ids, len(scene.cloud), link_points.run(scene, CFG))
    assert sum(path.is_file() for path in tmp_path.rglob("*")) <= 8


def test_links_of_no_view_and_of_blind_views(tmp_path: Path) -> None:
    write_links(tmp_path / "none", [], 5, [])
    assert len(read_links(tmp_path / "none")) == 0
    blind = ViewLinks("v0", np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    write_links(tmp_path / "blind", ["v0"], 5, [blind])
    assert read_links(tmp_path / "blind").view(0).uv.shape == (0, 2)


def test_views_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="v1"):
        write_links(tmp_path, ["v1"], 500, [some_links("v0", 1)])


def test_an_interrupted_write_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_links(tmp_path, ["v0", "v1"], 500, [some_links("v0", 1)])
    with pytest.raises(ArtifactError, match="LinkPoints"):
        read_links(tmp_path)


def test_missing_and_foreign_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="links.zarr"):
        read_links(tmp_path)
    write_links(tmp_path, ["v0"], 500, [some_links("v0", 1)])
    zarr.open_group(tmp_path / "links.zarr").attrs["schema_version"] = 99
    with pytest.raises(ArtifactError, match="99"):
        read_links(tmp_path)


def test_views_that_see_nothing_of_the_mesh_are_refused_at_the_end() -> None:
    """A mesh in millimetres, or poses of another frame; one such view among others is no error."""
    scene, _ = make_tiny_scene()
    away = np.eye(4)
    away[2, 3] = -100.0
    blind = [replace(view, world_to_camera=away @ view.world_to_camera) for view in scene.views]
    one = replace(scene, views=(blind[0], *scene.views[1:]))
    assert len(list(link_points.run(one, LinkConfig()))) == 6
    with pytest.raises(DataError, match="doctor") as caught:
        list(link_points.run(replace(scene, views=tuple(blind)), LinkConfig()))
    assert scene.scene_id in str(caught.value) and "0.00% seen by 6 views" in str(caught.value)
