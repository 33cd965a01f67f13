"""Trust in links: depth maps of planes, corners and edges whose depth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.types import Array
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.link_trust import link_trust
from stages.fusion.sample_masks import LiftedViews
from tests.support.worlds.teacher_world import random_case

HEIGHT, WIDTH, FOCAL = 60, 80, 70.0
CELL, LOW = 6.0, 0.2


def rays() -> Array:
    """(H, W, 3) rays with z = 1 of a pinhole camera."""
    x, y = np.meshgrid(np.arange(WIDTH) + 0.5 - WIDTH / 2, np.arange(HEIGHT) + 0.5 - HEIGHT / 2)
    return np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], axis=-1)


def plane(normal: tuple[float, float, float], distance: float) -> Array:
    """Depth (H, W) of the plane ``normal`` x = ``distance``, 0 where it is not in front."""
    slope = rays() @ np.array(normal)
    return np.where(slope > 0, distance / np.where(slope > 0, slope, 1), 0).astype(np.float32)


def trust_map(depth: Array, edge: float = LOW) -> Array:
    """Trust of every pixel that sees a surface, as shares; 1 elsewhere."""
    y, x = np.nonzero(depth)
    found = np.ones(depth.shape)
    uv = np.stack([x + 0.5, y + 0.5], axis=1).astype(np.float32)
    found[y, x] = link_trust(depth, uv, depth[y, x], CELL, edge, 0) / 255
    return found


@pytest.mark.parametrize("normal", [(0, 0, 1), (0.8, 0, 0.6), (0.3, -0.7, 0.65), (0, 0.995, 0.1)])
def test_planes_have_no_edges_however_they_tilt(normal: tuple[float, float, float]) -> None:
    depth = plane(normal, 2.0)
    seen = depth > 0
    # The horizon of a plane is an edge; everything else is not.
    inner = np.ones_like(seen)
    for shift in (-6, -3, 3, 6):
        inner &= np.roll(seen, shift, 0) & np.roll(seen, shift, 1)
    inner[[*range(6), *range(-6, 0)]] = inner[:, [*range(6), *range(-6, 0)]] = False
    assert inner.sum() > 500 and (trust_map(depth)[inner] == 1).all()


def test_within_a_cell_of_a_step_trust_is_low_on_both_sides() -> None:
    depth = np.full((HEIGHT, WIDTH), 3.0, np.float32)
    depth[:, 40:] = 2.0
    row = trust_map(depth)[30]
    np.testing.assert_allclose(row[34:46], LOW, atol=1 / 255)
    assert (row[:34] == 1).all() and (row[46:] == 1).all()
    assert (trust_map(depth, edge=1.0) == 1).all()


def test_a_thin_pole_and_a_hole_are_edges_and_a_corner_of_a_room_is_none() -> None:
    pole = np.full((HEIGHT, WIDTH), 3.0, np.float32)
    pole[:, 40:42] = 2.0
    assert (trust_map(pole)[:, 40:42] < 0.5).all()
    hole = np.full((HEIGHT, WIDTH), 3.0, np.float32)
    hole[:, 40:] = 0
    assert (trust_map(hole)[:, 37:40] < 0.5).all() and (trust_map(hole)[:, :34] == 1).all()
    corner = np.minimum(plane((0.7, 0, 0.7), 2.0), plane((-0.7, 0, 0.7), 2.0))
    assert (trust_map(corner) == 1).mean() > 0.8


def test_trust_falls_with_distance_beyond_the_trusted_one() -> None:
    uv = np.full((4, 2), 5.5, np.float32)
    depth = np.ones((10, 10), np.float32)
    found = link_trust(depth, uv, np.array([0, 1, 2.5, 5]), CELL, 1, 2.5)
    np.testing.assert_array_equal(found, [255, 255, 255, 128])
    assert (link_trust(depth, uv, np.array([0, 1, 2.5, 500]), CELL, 1, 0) == 255).all()
    assert link_trust(depth, uv[:0], np.zeros(0), CELL, LOW, 2.5).shape == (0,)


def test_views_are_lifted_with_the_distance_of_each_point(tmp_path: Path) -> None:
    """The points of the scene stand in a row 4 cm apart, the cameras at its beginning."""
    scene, links, cache = random_case(tmp_path)
    for view in LiftedViews(scene, links, cache, FuseConfig(trusted_distance=0.4)):
        away = 0.04 * view.point_ids
        wanted = 255 * np.minimum(1, 0.4 / np.maximum(away, 1e-6))
        np.testing.assert_allclose(view.trust, wanted, atol=0.51)


def test_full_trust_is_what_is_computed_without_any(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    plain = fuse_masks.run(scene, links, cache, FuseConfig())
    far = fuse_masks.run(scene, links, cache, FuseConfig(trusted_distance=1e6))
    near = fuse_masks.run(scene, links, cache, FuseConfig(trusted_distance=0.1))
    assert plain.soft.tobytes() == far.soft.tobytes()
    assert plain.soft.tobytes() != near.soft.tobytes()
