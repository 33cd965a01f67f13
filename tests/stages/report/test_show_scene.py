"""A scan to look at: edges, holes, the plan from above and its cameras, at pixels known by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.types import Array, Camera, Scene
from stages.report.inspect import (
    depth_edges,
    depth_picture,
    depth_span,
    part_picture,
    run_scene,
    seen_from_above,
    thick,
    with_cameras,
)
from stages.report.pictures import BLUE, ORANGE, WIDTH, hatched, viridis
from tests.support.scans.tiny_scene import BOXES, make_tiny_scene
from tests.support.worlds.teacher_world import with_images

CAMERA = Camera("PINHOLE", np.array([[70.0, 0, 32], [0, 70.0, 24], [0, 0, 1]]), 48, 64)


@pytest.fixture()
def scene(tmp_path: Path) -> Scene:
    return with_images(make_tiny_scene()[0], tmp_path)


def _plane(slope: float, at: float) -> Array:
    """Depth of the plane z = at + slope x, to millimetres: z (1 - slope a) = at on the ray of a."""
    a = (np.arange(64) + 0.5 - 32) / 70
    return np.tile(np.rint(1000 * at / (1 - slope * a)) / 1000, (48, 1)).astype(np.float32)


@pytest.mark.parametrize(("slope", "at"), [(0.0, 2.0), (1.5, 2.0), (-1.5, 0.8), (0.3, 6.0)])
def test_a_plane_has_no_edge_however_steeply_it_is_seen(slope: float, at: float) -> None:
    assert not depth_edges(_plane(slope, at), CAMERA).any()


def test_a_jump_and_a_corner_are_edges_where_they_are() -> None:
    jump = np.where(np.arange(64) < 20, _plane(0, 2), _plane(0, 2.3))
    columns = np.flatnonzero(depth_edges(jump, CAMERA).all(axis=0))
    assert columns.tolist() == [19, 20]
    corner = np.where(np.arange(64) < 32, _plane(-1, 2), _plane(1, 2))
    found = depth_edges(corner, CAMERA)
    assert found[:, 31:33].all() and not found[:, :31].any() and not found[:, 33:].any()
    upright = depth_edges(jump[:, :48].T, Camera("PINHOLE", CAMERA.K, 48, 48))
    assert np.flatnonzero(upright.all(axis=1)).tolist() == [19, 20]


def test_a_hole_has_edges_around_it_and_none_inside() -> None:
    depth = _plane(0, 2)
    depth[10:20, 30:40] = 0
    found = depth_edges(depth, CAMERA)
    assert found[12, 29] and found[12, 40] and found[9, 35] and found[20, 35]
    assert not found[10:20, 30:40].any() and np.count_nonzero(found) == 40
    assert not depth_edges(np.zeros((48, 64), np.float32), CAMERA).any()


def test_a_thick_edge_grows_right_and_down() -> None:
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = mask[3, 4] = True
    assert np.argwhere(thick(mask)).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3], [3, 4]]


def test_depth_is_on_the_scale_and_holes_are_hatched() -> None:
    depth = np.full((10, 12), 1.0, np.float32)
    depth[:, 4:8], depth[:, 8:] = 3.0, 0.0
    drawn = depth_picture(depth, (1.0, 3.0))
    assert (drawn[:, :4] == viridis(np.array(0.0), 0, 1)).all()
    assert (drawn[:, 4:8] == viridis(np.array(1.0), 0, 1)).all()
    np.testing.assert_array_equal(drawn[:, 8:], hatched(10, 12)[:, 8:])


def test_one_scale_for_all_views_leaves_out_strays_and_holes() -> None:
    near = np.linspace(1, 2, 1001)
    low, high = depth_span([near, np.array([0.0]), np.linspace(2, 3, 1001)])
    assert low == pytest.approx(1.02, abs=0.005) and high == pytest.approx(2.98, abs=0.005)
    assert depth_span([]) == depth_span([np.zeros(5)]) == (0.0, 1.0)
    assert depth_span([np.full(5, 2.0)]) == pytest.approx((2.0, 2.1))


@pytest.mark.parametrize(("name", "top"), [(11, 0.5), (12, 0.7), (13, 0.9)])
def test_from_above_a_box_shows_its_top_where_it_stands(
    scene: Scene, name: int, top: float
) -> None:
    vertex, (left, upper, step) = seen_from_above(scene, 200)
    _, low, high, _ = BOXES[name]
    x, y = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
    seen = scene.cloud.points[vertex[int((upper - y) / step), int((x - left) / step)]]
    assert seen[2] == pytest.approx(top, abs=1e-5)
    assert np.abs(seen[:2] - (x, y)).max() <= 0.06  # Vertices are up to a tenth of a metre apart.


def test_from_above_the_ceiling_is_away_and_the_rest_is_empty(scene: Scene) -> None:
    vertex, (left, upper, step) = seen_from_above(scene, 200)
    assert vertex[0].max() == vertex[:, 0].max() == vertex[:, -1].max() == -1
    floor = vertex[int((upper - 2.7) / step), int((1.0 - left) / step)]
    assert scene.cloud.points[floor, 2] == 0
    shown = scene.cloud.points[vertex[vertex >= 0]]
    assert (shown[:, 2] > 2.35).mean() < 0.05  # No more than the walls' upper edges.
    assert (vertex >= 0).mean() == pytest.approx(4 * 3 / (vertex.size * step**2), abs=0.03)


def test_neighbouring_superpoints_differ_and_have_borders() -> None:
    parts = np.repeat(np.arange(-1, 40), 3)[None].repeat(3, axis=0)
    drawn = part_picture(parts)
    assert (drawn[:, :3] == 255).all()
    inner = drawn[0, 4::3].astype(int)[:-1]
    assert np.abs(np.diff(inner, axis=0)).max(axis=1).min() > 40
    assert (drawn[:, 6::3] == 60).all()
    assert len(np.unique(inner, axis=0)) == len(inner)


def test_cameras_stand_where_they_are_and_look_ahead(scene: Scene) -> None:
    vertex, frame = seen_from_above(scene, 400)
    white = np.full((*vertex.shape, 3), 255, np.uint8)
    drawn = with_cameras(white, scene.views, {1: "2"}, frame)
    left, upper, step = frame
    for index, color in ((0, BLUE), (1, ORANGE), (4, BLUE)):
        center = scene.views[index].camera_center
        ahead = center + 0.3 * scene.views[index].world_to_camera[2, :3]
        behind = center - 0.3 * scene.views[index].world_to_camera[2, :3]
        pixels = [(int((upper - p[1]) / step), int((p[0] - left) / step)) for p in (center, ahead)]
        assert (drawn[pixels[0]] == color).all()
        tint = 255 + (np.array(color) - 255) * 70 / 255
        assert np.abs(drawn[pixels[1]] - tint).max() <= 2
        row, column = int((upper - behind[1]) / step), int((behind[0] - left) / step)
        inside = 0 <= row < len(drawn) and 0 <= column < drawn.shape[1]
        assert not inside or (drawn[row, column] == 255).all()


def test_all_sheets_are_made_in_pages(scene: Scene) -> None:
    hostile = replace(scene, scene_id="<img src=x onerror=alert(1)>")
    made = dict(run_scene(hostile, [0, 1, 2, 3, 4, 5, 0]))
    assert list(made) == ["above", "views_1", "views_2"]
    assert {image.width for image in made.values()} == {WIDTH}
    assert made["views_1"].height > 3 * made["views_2"].height


def test_bad_scans_are_told(scene: Scene, tmp_path: Path) -> None:
    flat = replace(scene, triangles=scene.triangles[:0])
    with pytest.raises(DataError, match="triangles to draw"):
        list(run_scene(flat, [0]))
    scene.views[2].image_path.write_bytes(b"no picture")
    with pytest.raises(DataError, match="view2.png"):
        list(run_scene(scene, [2]))
