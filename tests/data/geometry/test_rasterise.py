"""The rasteriser beside plane geometry written out in NumPy, Open3D's rays, and closed meshes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import ConvexHull
from scipy.spatial.transform import Rotation

from data.geometry.cameras import pixel_centers, rotate, unproject
from data.geometry.raycast import Rasteriser, Raycaster
from data.types import Array, Camera
from stages.scene.prepare_scene import depth_maps
from tests.support.scans.tiny_scene import make_tiny_scene

# Rays of whole pixels meet z = 1 at multiples of 1/32, which float32 holds exactly.
CAMERA = Camera("PINHOLE", np.array([[32.0, 0, 20.5], [0, 32, 15.5], [0, 0, 1]]), 30, 40)
CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
# Each face's corners in turn around it.
QUADS = np.array(
    [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
)
CUBE_TRIANGLES = np.concatenate([QUADS[:, [0, 1, 2]], QUADS[:, [0, 2, 3]]])


def turned(seed: int, reach: float = 0.0) -> Array:
    """A random pose, its camera within ``reach`` of the world's origin along each axis."""
    rng = np.random.default_rng(seed)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=rng).as_matrix()
    pose[:3, 3] = -pose[:3, :3] @ rng.uniform(-reach, reach, 3)
    return pose


def hits(vertices: Array, triangles: Array, pose: Array) -> tuple[Array, Array]:
    """1 / z (F, H * W), 0 for a miss, and how far each ray is from an edge (least weight)."""
    points = vertices.astype(np.float32).astype(np.float64) @ pose[:3, :3].T + pose[:3, 3]
    rays = unproject(CAMERA, pixel_centers(CAMERA.height, CAMERA.width))
    found = np.zeros((len(triangles), len(rays)))
    inner = np.full((len(triangles), len(rays)), np.inf)
    for row, corners in enumerate(points[triangles]):
        # depth * ray = corner 0 + s * side 1 + t * side 2, one 3 x 3 system a ray.
        sides = corners[1:] - corners[0]
        columns = np.stack([rays, *np.broadcast_to(-sides[:, None], (2, *rays.shape))], axis=2)
        solution = np.linalg.solve(columns, np.broadcast_to(corners[0], rays.shape)[..., None])
        depth, s, t = solution[..., 0].T
        weights = np.stack([s, t, 1 - s - t])
        inner[row] = np.abs(weights).min(axis=0)
        inside = (weights >= 0).all(axis=0) & (depth > 0)
        found[row, inside] = 1 / depth[inside]
    return found, inner


def soup(seed: int, count: int = 25) -> tuple[Array, Array]:
    """Triangles of all sizes around the origin; many reach from before it to behind it."""
    rng = np.random.default_rng(seed)
    corners = rng.normal(0, 2, (count, 1, 3)) + rng.normal(0, 1, (count, 3, 3)) * rng.choice(
        [0.05, 0.5, 4], (count, 1, 1)
    )
    return corners.reshape(-1, 3).astype(np.float32), np.arange(3 * count).reshape(-1, 3)


@given(st.integers(0, 10_000))
def test_triangles_are_where_linear_algebra_says(seed: int) -> None:
    vertices, triangles = soup(seed)
    pose = turned(seed, 1.0)
    depth, ids = Rasteriser(vertices, triangles).render(CAMERA, pose)
    nearness, inner = hits(vertices, triangles, pose)
    first = nearness.max(axis=0)
    # Rays that pass an edge within a millionth, or two triangles equally far, may go either way.
    sure = (inner > 1e-6).all(axis=0) & (np.sort(nearness, axis=0)[-2] < first * (1 - 1e-6))
    sure |= (first == 0) & (inner > 1e-6).all(axis=0)
    assert sure.mean() > 0.99
    expected = np.where(first > 0, nearness.argmax(axis=0), -1)
    np.testing.assert_array_equal(ids.ravel()[sure], expected[sure])
    with np.errstate(divide="ignore"):
        expected_depth = np.where(first > 0, 1 / first, 0)
    np.testing.assert_allclose(depth.ravel()[sure], expected_depth[sure], rtol=1e-6)
    assert depth.dtype == np.float32 and ids.dtype == np.int32


def test_a_room_looks_as_open3d_sees_it() -> None:
    scene, _ = make_tiny_scene(spacing=0.04, height=240, width=320)
    caster = Raycaster(scene.cloud.points, scene.triangles)
    for view in scene.views:
        camera = view.camera
        depth, ids = caster.render(camera, view.world_to_camera)
        pose = np.linalg.inv(view.world_to_camera)
        rays = rotate(pose[:3, :3], unproject(camera, pixel_centers(camera.height, camera.width)))
        distance, triangle = caster.cast(pose[:3, 3], rays)
        assert (triangle >= 0).all() and (ids >= 0).all()  # A closed room.
        apart = np.abs(depth.ravel() - distance) > 1e-4 * distance
        assert np.count_nonzero(apart) <= 3
        # The room's floor lies under the boxes', so equally far triangles are common here.
        assert np.mean(ids.ravel() != triangle) < 0.01


@given(st.integers(0, 10_000), st.floats(0.1, 1e4))
def test_no_ray_leaves_a_box_of_twelve_triangles(seed: int, size: float) -> None:
    pose = turned(seed, 0.9)
    pose[:3, 3] *= size
    depth, ids = Rasteriser(CUBE * size, CUBE_TRIANGLES).render(CAMERA, pose)
    assert (ids >= 0).all()
    inverse = np.linalg.inv(pose)
    rays = unproject(CAMERA, pixel_centers(CAMERA.height, CAMERA.width)) @ inverse[:3, :3].T
    # Within a cube a ray ends where its first coordinate reaches the side it goes to.
    wall = np.float32(size)
    with np.errstate(divide="ignore"):
        ends = (np.sign(rays) * wall - inverse[:3, 3]) / rays
    np.testing.assert_allclose(depth.ravel(), ends.min(axis=1), rtol=1e-5)


@given(st.integers(0, 10_000), st.integers(20, 400))
def test_closed_meshes_have_no_holes(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(count, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    hull = ConvexHull(points)
    # Pushed in and out along their rays they still surround the origin.
    bumpy = points * rng.uniform(0.3, 2, (count, 1))
    if np.abs(hull.equations[:, 3]).min() > 0.05 and (hull.equations[:, 3] < 0).all():
        _, ids = Rasteriser(bumpy, hull.simplices).render(CAMERA, turned(seed))
        assert (ids >= 0).all()


@pytest.mark.parametrize("mirror", [[1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]])
@pytest.mark.parametrize("diagonal", [0, 1])
@pytest.mark.parametrize("seed", [0, 1])
def test_vertices_and_edges_on_pixel_centres_leave_no_holes(
    mirror: list[int], diagonal: int, seed: int
) -> None:
    """Every ray passes through an edge along a row, a column or a diagonal, or a vertex."""
    x, y = np.meshgrid(np.arange(-22, 22, 2) / 32, np.arange(-16, 16, 2) / 32)
    vertices = np.stack([x.ravel(), y.ravel(), np.ones(x.size)], axis=1) * mirror
    index = np.arange(x.size).reshape(x.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    halves = [(a, b, c), (a, c, d)] if diagonal else [(a, b, d), (d, b, c)]
    triangles = np.concatenate([np.stack(half, axis=-1).reshape(-1, 3) for half in halves])
    rng = np.random.default_rng(seed)
    if seed:  # Other windings, another order.
        triangles = rng.permuted(rng.permutation(triangles), axis=1)
    depth, ids = Rasteriser(vertices, triangles).render(CAMERA, np.eye(4))
    inside = np.zeros(depth.shape, bool)
    columns = (np.arange(40) - 20) / 32 * mirror[0]
    rows = (np.arange(30) - 15) / 32 * mirror[1]
    inside = (columns >= -22 / 32) & (columns <= 20 / 32) & (rows[:, None] <= 14 / 32)
    np.testing.assert_array_equal(ids >= 0, inside)
    assert (depth[inside] == 1).all() and (depth[~inside] == 0).all()


def test_of_triangles_equally_far_the_first_is_seen() -> None:
    vertices = np.array([[-9.0, -9, 2], [9, -9, 2], [0, 9, 2], [0, 0, 1]])
    triangles = np.array([[3, 3, 3], [0, 1, 2], [2, 1, 0], [1, 2, 0]])
    _, ids = Rasteriser(vertices, triangles).render(CAMERA, np.eye(4))
    assert (ids == 1).all()


def test_a_triangle_that_reaches_behind_the_camera_is_cut_at_no_plane() -> None:
    """The floor one metre below, from far behind to far before: depth is 1 / (slope of ray)."""
    vertices = np.array([[0.0, 1, 1e4], [-1e4, 1, -1e3], [1e4, 1, -1e3]])
    depth, ids = Rasteriser(vertices, np.array([[0, 1, 2]])).render(CAMERA, np.eye(4))
    slope = (np.arange(30) - 15) / 32
    np.testing.assert_allclose(depth[16:], np.tile(1 / slope[16:, None], 40), rtol=1e-5)
    assert (depth[:16] == 0).all() and (ids[:16] == -1).all()


@pytest.mark.parametrize(
    "corners",
    [
        [[0, 0, 1], [0, 0, 1], [0, 0, 1]],
        [[-1, 0, 1], [0, 0, 1], [1, 0, 1]],
        [[-1, 0, 1], [1, 0, 1], [1, 0, 1]],
        [[0, 0, 1], [0, 0, 2], [0, 1, 3]],  # From its side: the camera lies in its plane.
        [[0, 0, 0], [1, 0, 1], [0, 1, 1]],  # A corner is the camera's centre.
        [[-9, -9, -1], [9, -9, -1], [0, 9, -1]],  # Behind.
        [[-9, -9, 0], [9, -9, 0], [0, 9, 0]],
        [[np.nan, 0, 1], [9, -9, 1], [0, 9, 1]],
        [[-9, -9, np.inf], [9, -9, 1], [0, 9, 1]],
        [[-9, -9, 1], [-np.inf, -9, 1], [0, 9, 1]],
        [[3e38, 3e38, 3e38], [-3e38, 3e38, 3e38], [0, 3e38, -3e38]],
    ],
)
def test_what_covers_no_pixel_hides_nothing(corners: list[list[float]]) -> None:
    wall = [[-9.0, -9, 2], [9, -9, 2], [0, 9, 2]]
    vertices, triangles = np.array([*corners, *wall]), np.array([[0, 1, 2], [3, 4, 5]])
    depth, ids = Rasteriser(vertices, triangles).render(CAMERA, np.eye(4))
    inside = Rasteriser(vertices[3:], triangles[:1]).render(CAMERA, np.eye(4))[1] == 0
    assert inside.mean() > 0.9
    np.testing.assert_array_equal(ids, np.where(inside, 1, -1))
    np.testing.assert_allclose(depth, np.where(inside, 2, 0), rtol=1e-6)


def test_no_triangles_no_hits() -> None:
    for vertices in (np.zeros((0, 3)), CUBE):
        depth, ids = Rasteriser(vertices, np.zeros((0, 3), int)).render(CAMERA, np.eye(4))
        assert (depth == 0).all() and (ids == -1).all()


@pytest.mark.parametrize("wrong", [[0, 1, 8], [-1, 0, 1]])
def test_triangles_of_missing_vertices_are_refused(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match="the 8 there are"):
        Raycaster(CUBE, np.array([wrong]))


def test_a_fisheye_is_refused() -> None:
    lens = Camera("OPENCV_FISHEYE", CAMERA.K, 30, 40, (0, 0, 0, 0))
    with pytest.raises(ValueError, match="OPENCV_FISHEYE"):
        Rasteriser(CUBE, CUBE_TRIANGLES).render(lens, np.eye(4))


def test_threads_do_not_change_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = make_tiny_scene()
    told: list[tuple[int, int]] = []
    for threads in ("1", "4"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        caster = Raycaster(scene.cloud.points, scene.triangles)
        maps = depth_maps(caster, scene.views, lambda *step: told.append(step))
        for made, alone in zip(maps, scene.depths, strict=True):
            np.testing.assert_array_equal(made, alone)
    assert told == [(step, 6) for step in range(1, 7)] * 2
