"""Rendered scans: their pixels are checked against the masks they show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.types import Array, Scene
from stages.report.pictures import BOTH, MISSED, ONLY, best_viewpoint, paint, paint_query
from stages.report.scan_renderer import render_upper_corners
from tests.support.scans.tiny_scene import make_tiny_scene

WIDTH, HEIGHT = 96, 72


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_tiny_scene()[0]


def _object_mask(scene: Scene, name: int) -> Array:
    return make_tiny_scene()[1].mask([name])


def test_pixels_are_tinted_where_the_mask_is_and_nowhere_else(scene: Scene) -> None:
    viewpoints = render_upper_corners(scene, WIDTH, HEIGHT)
    bed = _object_mask(scene, 11)
    viewpoint, visible = best_viewpoint(viewpoints, [bed])
    assert visible
    plain = viewpoint.picture.astype(int)
    share = viewpoint.shown(bed).mean(axis=1).reshape(HEIGHT, WIDTH)
    for other, color in ((np.zeros_like(bed), ONLY), (bed, BOTH)):
        picture = paint(viewpoint, bed, other, ONLY).astype(int)
        np.testing.assert_array_equal(picture[share == 0], plain[share == 0])
        tinted = picture[share == 1][:, :3]
        assert len(tinted) > 150
        distance = np.abs(tinted - np.array(color)).max(axis=1)
        assert distance.max() < 80
        assert (distance < np.abs(plain[share == 1][:, :3] - np.array(color)).max(axis=1)).all()


def test_prediction_and_truth_colours_tell_right_wrong_and_missed(scene: Scene) -> None:
    bed, table = _object_mask(scene, 11), _object_mask(scene, 12)
    viewpoint, _ = best_viewpoint(render_upper_corners(scene, WIDTH, HEIGHT), [bed | table])
    pictures = paint_query(viewpoint, {"student": table}, bed)

    def nearest(picture: Array, mask: Array) -> set[int]:
        pixels = picture.reshape(-1, 4)[viewpoint.shown(mask).all(axis=1)][:, None, :3].astype(int)
        colors = np.array([BOTH, ONLY, MISSED])
        return set(np.abs(pixels - colors).sum(axis=2).argmin(axis=1).tolist())

    assert nearest(pictures["student"], table) == {1}
    assert nearest(pictures["truth"], bed) == {2}
    right = paint_query(viewpoint, {"student": bed}, bed)
    assert nearest(right["student"], bed) == nearest(right["truth"], bed) == {0}


def test_near_walls_and_ceiling_are_open_and_far_walls_are_there(scene: Scene) -> None:
    normals, points = scene.cloud.normals, scene.cloud.points
    ceiling = (normals[:, 2] < -0.5) & (points[:, 2] > 2.3)
    for viewpoint in render_upper_corners(scene, WIDTH, HEIGHT):
        assert not viewpoint.shown(ceiling).any()
        walls = [
            viewpoint.shown((np.abs(points[:, axis] - at) < 1e-4)).any()
            for axis, at in ((0, 0.0), (0, 4.0), (1, 0.0), (1, 3.0))
        ]
        assert sum(walls) >= 2
        assert viewpoint.shown(_object_mask(scene, 11)).sum() > 500
        assert viewpoint.picture[..., 3].max() == 255
        assert viewpoint.picture[0, 0, 3] == 0  # outside the scene: transparent


@pytest.mark.parametrize("winding", ["reversed", "random"])
def test_wrong_or_mixed_winding_still_opens_the_room(scene: Scene, winding: str) -> None:
    triangles = scene.triangles.copy()
    flip = np.ones(len(triangles), bool)
    if winding == "random":
        flip = np.random.default_rng(0).random(len(triangles)) < 0.5
    triangles[flip] = triangles[flip][:, ::-1]
    good = render_upper_corners(scene, WIDTH, HEIGHT)
    bed = _object_mask(scene, 11)
    for expected, viewpoint in zip(
        good, render_upper_corners(replace(scene, triangles=triangles), 96, 72)
    ):
        seen = viewpoint.shown(bed).sum() / expected.shown(bed).sum()
        assert seen > (0.99 if winding == "reversed" else 0.6)


def test_a_hidden_target_and_an_empty_scene_are_told(scene: Scene) -> None:
    viewpoints = render_upper_corners(scene, WIDTH, HEIGHT)
    under = np.zeros(len(scene.cloud), bool)
    under[np.flatnonzero(_object_mask(scene, 11) & (scene.cloud.normals[:, 2] < -0.5))[40]] = True
    assert best_viewpoint(viewpoints, [under]) == (viewpoints[0], False)
    assert best_viewpoint(viewpoints, []) == (viewpoints[0], False)
    assert render_upper_corners(replace(scene, triangles=scene.triangles[:0]), WIDTH, HEIGHT) == []
