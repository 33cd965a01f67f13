"""The compiled rule of visibility beside plain NumPy, on points before, beside and behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from data.geometry.cameras import project, transform, widest_angle
from data.geometry.visibility import BLOCK, PointIndex, Tolerance, Visibility
from data.types import Array, Camera, PointCloud, Scene, View
from stages.configs import LinkConfig
from stages.scene import link_points
from stages.scene.gpu_visibility import GpuVisibility
from tests.support.scans.tiny_scene import make_tiny_scene

K = np.array([[50.0, 0, 37.3], [0, 52, 21.9], [0, 0, 1]])
PINHOLE = Camera("PINHOLE", K, 48, 64)
LENS_K = np.array([[30.0, 0, 31.2], [0, 31, 22.4], [0, 0, 1]])
LENS = Camera("OPENCV_FISHEYE", LENS_K, 48, 64, (0.05, -0.02, 0.004, -0.001))
# Its polynomial turns back at 0.75, long before the image ends.
SHORT_LENS = Camera("OPENCV_FISHEYE", LENS.K, 48, 64, (-0.6, 0.0, 0.0, 0.0))
CAMERAS = [PINHOLE, LENS, SHORT_LENS]
TOLERANCE = Tolerance(0.05, 1.0, 0.3)


def by_numpy(points: Array, camera: Camera, pose: Array, depth: Array) -> tuple[Array, Array]:
    """The rule of ``data.geometry.visibility``, a whole cloud at a time."""
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    in_camera = transform(pose, points[finite].astype(np.float64))
    with np.errstate(invalid="ignore"):
        uv = project(camera, in_camera).astype(np.float32)
        inside = (in_camera[:, 2] > TOLERANCE.near) & (uv >= 0).all(axis=1)
        inside &= (uv[:, 0] < camera.width) & (uv[:, 1] < camera.height)
    ids, uv, z = finite[inside], uv[inside], in_camera[inside, 2]
    column, row = uv.astype(int).T
    surface = depth[row, column].astype(np.float64)
    close = np.abs(surface - z) <= np.maximum(TOLERANCE.absolute, TOLERANCE.relative * z)
    return ids[(surface > 0) & close], uv[(surface > 0) & close]


def wild(seed: int, count: int = 9 * BLOCK + 100) -> tuple[Array, Array, Array]:
    """A clumpy float32 cloud around a turned camera, a depth map, and the camera's pose."""
    rng = np.random.default_rng(seed)
    clumps = rng.uniform(-4, 4, (12, 3))[rng.integers(0, 12, count)]
    points = (clumps + rng.normal(0, rng.choice([0.01, 0.3, 2]), (count, 3))).astype(np.float32)
    depth = rng.uniform(0.3, 6, (48, 64)).astype(np.float32)
    depth[rng.random(depth.shape) < 0.1] = 0
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    pose[:3, 3] = rng.uniform(-1, 1, 3)
    return points, depth, pose


@given(st.integers(0, 10_000), st.sampled_from(CAMERAS), st.booleans())
def test_it_is_what_numpy_gives(seed: int, camera: Camera, single: bool) -> None:
    points, depth, pose = wild(seed)
    points = points if single else points.astype(np.float64) * 1.000001
    ids, uv = Visibility(points).visible_points(camera, pose, depth, TOLERANCE)
    expected_ids, expected_uv = by_numpy(points, camera, pose, depth)
    assert ids.dtype == np.int32 and uv.dtype == np.float32
    np.testing.assert_array_equal(ids, expected_ids)
    if camera.model == "PINHOLE":
        np.testing.assert_array_equal(uv, expected_uv)
    else:  # Two libraries' arcus tangens.
        np.testing.assert_allclose(uv, expected_uv, atol=1e-5)


@given(st.integers(0, 10_000), st.sampled_from(CAMERAS))
def test_a_gpu_sees_what_the_processor_sees(seed: int, camera: Camera) -> None:
    points, depth, pose = wild(seed, 700)
    points[::50] = np.nan
    valid = np.random.default_rng(seed).random(depth.shape) < 0.8
    for mask in (None, valid):
        ids, uv = Visibility(points).visible_points(camera, pose, depth, TOLERANCE, mask)
        on_gpu = GpuVisibility(points, "cpu")
        found = on_gpu.visible_points(camera, pose, depth, TOLERANCE, mask)
        assert found[0].dtype == np.int32 and found[1].dtype == np.float32
        np.testing.assert_array_equal(found[0], ids)
        np.testing.assert_allclose(found[1], uv, atol=1e-5)


def test_points_on_masked_pixels_are_left_out() -> None:
    points, depth, pose = wild(8)
    sight = Visibility(points)
    valid = np.random.default_rng(8).random(depth.shape) < 0.5
    all_ids, all_uv = sight.visible_points(PINHOLE, pose, depth, TOLERANCE)
    ids, uv = sight.visible_points(PINHOLE, pose, depth, TOLERANCE, valid)
    column, row = all_uv.astype(int).T
    shown = valid[row, column]
    assert 0 < len(ids) < len(all_ids)
    np.testing.assert_array_equal(ids, all_ids[shown])
    np.testing.assert_array_equal(uv, all_uv[shown])
    for sees in (sight, GpuVisibility(points, "cpu")):
        with pytest.raises(ValueError, match=r"valid must be \(48, 64\)"):
            sees.visible_points(PINHOLE, pose, depth, TOLERANCE, valid.T)
        with pytest.raises(ValueError, match=r"depth must be \(48, 64\)"):
            sees.visible_points(PINHOLE, pose, depth.T, TOLERANCE)


def test_a_view_leaves_nothing_behind_for_the_next() -> None:
    """Scratch memory is used again, also after a view that saw more."""
    points, depth, pose = wild(10)
    full = np.full_like(depth, 3.0)
    sight = Visibility(points)
    first = sight.visible_points(PINHOLE, pose, depth, TOLERANCE)
    for other in (full, np.zeros_like(depth)):
        sight.visible_points(LENS, pose, other, Tolerance(0.01, 100, 0))
    again = sight.visible_points(PINHOLE, pose, depth, TOLERANCE)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


@pytest.mark.parametrize("camera", CAMERAS)
def test_the_border_of_the_image_is_in_some_block(camera: Camera) -> None:
    """Points on rays of the outermost pixels, each block a point wide: none may be passed over."""
    rng = np.random.default_rng(0)
    points = rng.uniform(-3, 3, (60_000, 3)) * [1, 1, 2]
    uv = project(camera, points)
    inside = ((uv >= 0) & (uv < [camera.width, camera.height])).all(axis=1)
    edge = inside & ~((uv >= 2) & (uv < [camera.width - 2, camera.height - 2])).all(axis=1)
    chosen = np.flatnonzero(edge if camera is not SHORT_LENS else inside)[:100]
    assert len(chosen) > 30
    for point in points[chosen]:
        index = PointIndex(np.tile(point, (3, 1)))
        assert index.blocks_in_view(camera, np.eye(4), 0.0).tolist() == [0]
    behind = PointIndex(-np.abs(points[:50]) * [0, 0, 1])
    assert len(behind.blocks_in_view(camera, np.eye(4), 0.05)) == 0
    beside = PointIndex(np.array([[50.0, 0, 1], [50, 1, 1]]))
    assert len(beside.blocks_in_view(camera, np.eye(4), 0.05)) == 0


def test_the_widest_angle_is_that_of_the_farthest_corner() -> None:
    square = Camera("PINHOLE", np.array([[10.0, 0, 9], [0, 10, 9], [0, 0, 1]]), 18, 18)
    assert widest_angle(square) == pytest.approx(np.arctan(np.sqrt(2)))
    straight = Camera("OPENCV_FISHEYE", np.diag([100.0, 100, 1]), 30, 20, (0, 0, 0, 0))
    assert widest_angle(straight) == pytest.approx(np.hypot(21, 31) / 100)
    # theta (1 - 0.6 theta^2) is largest at sqrt(1 / 1.8).
    assert widest_angle(SHORT_LENS) == pytest.approx(np.sqrt(1 / 1.8))


def test_an_index_holds_each_finite_point_once_in_small_boxes() -> None:
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 8, (40 * BLOCK, 3)).astype(np.float32)
    points[::7, rng.integers(0, 3)] = np.nan
    points[1::7, 2] = np.inf
    index = PointIndex(points)
    finite = np.flatnonzero(np.isfinite(points).all(axis=1))
    assert index.size == len(points) and np.sort(index.ids).tolist() == finite.tolist()
    np.testing.assert_array_equal(index.points.T, points[index.ids])
    starts = range(0, len(finite), BLOCK)
    assert len(index.centers) == len(starts)
    for block, start in enumerate(starts):
        offsets = points[index.ids[start : start + BLOCK]].astype(float) - index.centers[block]
        np.testing.assert_allclose(np.abs(offsets).max(axis=0), index.halves[block], rtol=1e-12)
    # Pieces of a Morton curve are compact: not much larger than cubes of as many points.
    assert np.prod(2 * index.halves, axis=1).mean() < 4 * 8**3 * BLOCK / len(finite)


@pytest.mark.parametrize("far", [1e6, 1e30, 3e38])
def test_a_stray_point_far_away_changes_nothing(far: float) -> None:
    points, depth, pose = wild(8)
    expected = by_numpy(points, PINHOLE, pose, depth)
    strayed = np.concatenate([points, np.array([[far, -far, far]], np.float32)])
    ids, uv = Visibility(strayed).visible_points(PINHOLE, pose, depth, TOLERANCE)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(uv, expected[1])


@pytest.mark.parametrize("count", [0, 1, BLOCK, BLOCK + 1])
def test_few_points_or_one_place(count: int) -> None:
    points = np.tile(np.array([0, 0, 2], np.float32), (count, 1))
    depth = np.full((48, 64), 2.0, np.float32)
    ids, uv = Visibility(points).visible_points(PINHOLE, np.eye(4), depth, TOLERANCE)
    assert ids.tolist() == list(range(count))
    np.testing.assert_allclose(uv, np.tile(K[:2, 2], (count, 1)), rtol=1e-6)


@pytest.mark.parametrize("threads", ["1", "4"])
def test_threads_do_not_change_the_links(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    points = wild(0)[0]
    _, depths, poses = zip(*(wild(seed) for seed in range(9)), strict=True)
    views = tuple(View(f"v{i}", PINHOLE, pose, Path("none")) for i, pose in enumerate(poses))
    cloud = PointCloud(points, np.zeros(points.shape, np.uint8), np.zeros_like(points))
    none = np.zeros(len(points), np.int32)
    scene = Scene("s", cloud, np.zeros((0, 3), np.int32), none, views, depths)
    cfg = LinkConfig(near=0.05, depth_tolerance=1.0, depth_tolerance_relative=0.3)
    links = list(link_points.run(scene, cfg))
    assert [link.view_id for link in links] == [view.view_id for view in views]
    for link, pose, depth in zip(links, poses, depths, strict=True):
        ids, uv = by_numpy(points, PINHOLE, pose, depth)
        np.testing.assert_array_equal(link.point_ids, ids)
        np.testing.assert_array_equal(link.uv, uv)


def test_a_device_other_than_the_processor_is_given_to_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here "cuda" stands for torch's own CPU: no GPU is needed to see which of both is asked."""
    asked: list[str] = []

    def on_cpu(points: Array, device: str) -> GpuVisibility:
        asked.append(device)
        return GpuVisibility(points, "cpu")

    monkeypatch.setattr("stages.scene.gpu_visibility.GpuVisibility", on_cpu)
    scene, _ = make_tiny_scene()
    on_processor = list(link_points.run(scene, LinkConfig()))
    assert not asked
    on_gpu = list(link_points.run(scene, LinkConfig(), device="cuda"))
    assert asked == ["cuda"]
    for one, other in zip(on_processor, on_gpu, strict=True):
        np.testing.assert_array_equal(one.point_ids, other.point_ids)
        np.testing.assert_array_equal(one.uv, other.uv)
