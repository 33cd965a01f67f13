"""Points over pictures: known pixels, hand-computed figures, and a camera that is wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.artifacts.links import ViewLinks
from data.errors import DataError
from data.geometry.cameras import pixel_centers, unproject
from data.geometry.raycast import Raycaster
from data.geometry.visibility import Visibility
from data.types import Array, PointCloud, Scene
from stages.configs import LinkConfig
from stages.report.inspect import agreement, dot_radius, dots, run_links
from stages.report.pictures import WIDTH, pale
from stages.scene.link_points import links_of_view
from tests.support.scans.tiny_scene import make_tiny_scene
from tests.support.worlds.teacher_world import FakeLinks

RED, BLUE = (255, 0, 0), (0, 0, 255)


def _dots(uv: list[tuple[float, float]], depth: list[float], radius: int) -> tuple[Array, Array]:
    colors = np.array([RED, BLUE][: len(uv)], np.uint8)
    where = np.array(uv, np.float32).reshape(-1, 2)
    return dots(pale(6, 8), where, colors, np.array(depth), radius)


def test_a_point_is_drawn_in_its_own_pixel_and_no_other() -> None:
    drawn, held = _dots([(3.9, 2.1)], [1.0], 0)
    expected = np.zeros((6, 8), bool)
    expected[2, 3] = True
    np.testing.assert_array_equal(held, expected)
    assert (drawn[2, 3] == RED).all()
    np.testing.assert_array_equal(drawn[~expected], pale(6, 8)[~expected])


def test_dots_end_at_the_picture() -> None:
    drawn, held = _dots([(0.5, 0.5), (7.5, 5.5)], [1.0, 1.0], 1)
    assert (drawn[:2, :2] == RED).all() and (drawn[4:, 6:] == BLUE).all()
    assert np.count_nonzero(held) == 8


@pytest.mark.parametrize(("depth", "front"), [([1.0, 2.0], RED), ([2.0, 1.0], BLUE)])
def test_the_nearer_point_is_in_front(depth: list[float], front: tuple[int, int, int]) -> None:
    drawn, _ = _dots([(3.5, 2.5), (4.5, 2.5)], depth, 1)
    assert (drawn[2, 3] == front).all() and (drawn[2, 4] == front).all()


def test_no_point_leaves_the_picture_as_it_was() -> None:
    drawn, held = _dots([], [], 2)
    np.testing.assert_array_equal(drawn, pale(6, 8))
    assert not held.any()
    assert dot_radius(10_000, 0) == 3 and dot_radius(100, 100) == 0 and dot_radius(1600, 100) == 2


def test_agreement_is_what_is_counted_by_hand() -> None:
    """Differences are (10, 0, 0), (0, 20, 0), (0, 0, 60): 90 over nine channels; two pixels."""
    colors = np.array([(9, 9, 9), (110, 50, 50), (100, 70, 50), (100, 50, 110)], np.uint8)
    image = np.full((4, 5, 3), (100, 50, 50), np.uint8)
    uv = np.array([(0.5, 0.5), (0.9, 0.1), (4.5, 3.5)], np.float32)
    told = agreement(colors, image, ViewLinks("v", np.array([1, 2, 3], np.int32), uv))
    assert (told.view_id, told.points, told.covered) == ("v", 3, 2 / 20)
    assert told.difference == pytest.approx(10.0)
    # All pixels look alike: dealing the points anew changes nothing.
    assert told.chance == pytest.approx(10.0)


def test_a_view_without_a_point_has_no_figure() -> None:
    none = ViewLinks("v", np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    told = agreement(np.zeros((3, 3), np.uint8), pale(4, 4), none)
    assert (told.points, told.covered) == (0, 0.0)
    assert math.isnan(told.difference) and math.isnan(told.chance)


def _pattern(points: Array) -> Array:
    """(n, 3) uint8: smooth waves a metre long in every direction, the same for mesh and picture."""
    waves = np.sin(2 * np.pi * points + np.array([0.3, 1.1, 2.0]))
    mixed = waves @ np.array([[1, 0.5, 0], [0, 1, 0.5], [0.5, 0, 1]])
    return np.asarray(np.rint(127.5 + 80 * mixed).clip(0, 255), np.uint8)


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The tiny room with that pattern on it, and photographs of it by its own cameras."""
    folder = tmp_path_factory.mktemp("painted")
    scene, _ = make_tiny_scene(spacing=0.05)
    views = []
    for view, depth in zip(scene.views, scene.depths, strict=True):
        rays = unproject(view.camera, pixel_centers(view.camera.height, view.camera.width))
        in_camera = rays * depth.reshape(-1, 1)
        pose = np.linalg.inv(view.world_to_camera)
        image = _pattern(in_camera @ pose[:3, :3].T + pose[:3, 3]).reshape(*depth.shape, 3)
        path = folder / f"{view.view_id}.png"
        Image.fromarray(image).save(path)
        views.append(replace(view, image_path=path))
    cloud = replace(scene.cloud, colors=_pattern(scene.cloud.points))
    return replace(scene, cloud=cloud, views=tuple(views))


def _moved(scene: Scene, metres: float) -> Scene:
    """Cameras moved to their right, and the depth that PrepareScene would render from there."""
    shift = np.eye(4)
    shift[0, 3] = -metres
    views = tuple(replace(v, world_to_camera=shift @ v.world_to_camera) for v in scene.views)
    caster = Raycaster(scene.cloud.points, scene.triangles)
    depths = [caster.render(v.camera, v.world_to_camera)[0] for v in views]
    return replace(scene, views=views, depths=depths)


def _linked(scene: Scene) -> FakeLinks:
    pairs = zip(scene.views, scene.depths, strict=True)
    sight = Visibility(scene.cloud.points)
    links = [links_of_view(sight, v, depth, LinkConfig()) for v, depth in pairs]
    return FakeLinks(links, len(scene.cloud))


def test_a_camera_a_tenth_of_a_metre_off_is_a_larger_figure(painted: Scene) -> None:
    figures = {}
    for metres in (0.0, 0.02, 0.1):
        moved = _moved(painted, metres)
        sheets = list(run_links(moved, _linked(moved), range(len(moved.views))))
        assert [name for name, _, _ in sheets] == ["links_1"]
        assert sheets[0][1].width == WIDTH
        figures[metres] = sheets[0][2]
    for true, slight, wrong in zip(*figures.values(), strict=True):
        assert true.points > 500 and true.covered > 0.04
        assert true.difference < slight.difference < wrong.difference
        assert 3 * true.difference < wrong.difference < wrong.chance


def test_a_picture_that_is_not_there_is_named(painted: Scene, tmp_path: Path) -> None:
    first = replace(painted.views[0], image_path=tmp_path / "gone.png")
    scene = replace(painted, views=(first, *painted.views[1:]))
    with pytest.raises(DataError, match="gone.png"):
        list(run_links(scene, _linked(painted), [0]))


def test_a_view_that_sees_nothing_is_drawn_too(painted: Scene) -> None:
    none = ViewLinks("view0", np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    ((_, image, told),) = run_links(painted, FakeLinks([none], len(painted.cloud)), [0])
    assert image.width == WIDTH and told[0].points == 0
    assert isinstance(painted.cloud, PointCloud)
