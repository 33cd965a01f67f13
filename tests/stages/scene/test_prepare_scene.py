"""View selection by hand, and a scan prepared: views, superpoints, depth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.artifacts.scene import read_ground_truth, read_scene, write_scene
from data.artifacts.store import ArtifactKey, writing
from data.geometry.cameras import pixel_centers, transform, unproject
from data.readers.scannetpp import read_scan
from data.readers.scannetpp_layout import CameraChoice
from data.types import Array, Scan
from stages.configs import PrepareConfig
from stages.scene import prepare_scene
from stages.scene.prepare_scene import cover_greedily
from tests.support.scans.scannetpp_tree import SCENE, write_tree
from tests.support.scans.tiny_scene import BOXES, ROOM


def sets(*rows: str) -> Array:
    return np.array([[letter == "x" for letter in row] for row in rows])


def test_each_view_adds_most_unseen_points() -> None:
    visible = sets("xxx.....", ".xxxx...", "....xxxx", ".....xxx")
    assert cover_greedily(visible, 1) == [1]
    assert cover_greedily(visible, 2) == [1, 2]
    assert cover_greedily(visible, 3) == [0, 1, 2]


def test_the_first_of_equals_wins() -> None:
    assert cover_greedily(sets("xx..", "..xx", "xx..", "..xx"), 2) == [0, 1]


def test_when_all_is_seen_a_second_round_begins() -> None:
    assert cover_greedily(sets("xxxx", "x...", "xx..", "...."), 2) == [0, 2]
    assert cover_greedily(sets("....", "xxxx", "x...", "...."), 3) == [0, 1, 2]


def test_few_views_are_all_kept() -> None:
    assert cover_greedily(sets("....", "x..."), 2) == [0, 1]
    assert cover_greedily(np.zeros((5, 0), bool), 3) == [0, 1, 2]


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_greedy_cover_equals_the_textbook(seed: int, max_views: int) -> None:
    visible = np.random.default_rng(seed).random((8, 40)) < 0.3
    chosen: list[int] = []
    unseen = set(range(40))
    while len(chosen) < max_views:
        gains = {
            i: len(unseen & set(np.flatnonzero(visible[i]).tolist()))
            for i in range(8)
            if i not in chosen
        }
        if max(gains.values()) == 0:
            unseen = set(range(40))
            continue
        best = max(gains, key=lambda i: (gains[i], -i))
        chosen.append(best)
        unseen -= set(np.flatnonzero(visible[best]).tolist())
    assert cover_greedily(visible, max_views) == sorted(chosen)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[CameraChoice, Scan]:
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    choices: tuple[CameraChoice, ...] = ("undistorted", "fisheye")
    return {choice: read_scan(root, SCENE, choice) for choice in choices}


def boxes_depth(center: Array, directions: Array) -> Array:
    """Distance (R,) along rays to the tiny room's walls and boxes, by slabs."""
    with np.errstate(divide="ignore"):
        inverse = 1 / directions
    best = np.full(len(directions), np.inf)
    boxes = [(np.array(low), np.array(high), False) for _, low, high, _ in BOXES.values()]
    for low, high, inside in [(np.array(ROOM[0]), np.array(ROOM[1]), True), *boxes]:
        a, b = (low - center) * inverse, (high - center) * inverse
        enter, leave = np.minimum(a, b).max(axis=1), np.maximum(a, b).min(axis=1)
        hit = leave if inside else np.where((enter <= leave) & (enter > 0), enter, np.inf)
        best = np.minimum(best, hit)
    return best


@pytest.mark.parametrize("choice", ["undistorted", "fisheye"])
def test_depth_is_the_nearest_surface_along_z(
    scans: dict[CameraChoice, Scan], choice: CameraChoice
) -> None:
    seen = []
    prepared = prepare_scene.run(
        scans[choice], PrepareConfig(camera=choice), lambda done, total: seen.append((done, total))
    )
    assert seen == []  # nothing is rendered before it is asked for
    for view, depth in zip(prepared.views, prepared.depths):
        camera = view.camera
        rays = unproject(camera, pixel_centers(camera.height, camera.width))
        directions = rays @ view.world_to_camera[:3, :3]
        expected = boxes_depth(view.camera_center, directions).reshape(depth.shape)
        far = np.abs(depth - expected) > 1e-3
        assert far.mean() < 0.002  # rays that graze an edge may fall either way
        assert depth.dtype == np.float32
    assert seen == [(i + 1, 6) for i in range(6)]


def test_pixels_that_hit_nothing_have_depth_zero(scans: dict[CameraChoice, Scan]) -> None:
    scan = scans["undistorted"]
    floor = scan.cloud.points[scan.triangles].max(axis=1)[:, 2] < 0.01
    prepared = prepare_scene.run(replace(scan, triangles=scan.triangles[floor]), PrepareConfig())
    depth = next(prepared.depths)
    assert 0 < (depth == 0).mean() < 1


def test_views_are_chosen_and_stay_in_order(scans: dict[CameraChoice, Scan]) -> None:
    scan = scans["undistorted"]
    prepared = prepare_scene.run(scan, PrepareConfig(max_views=3))
    names = [view.view_id for view in prepared.views]
    assert len(names) == 3 and names == sorted(names)
    assert len(list(prepared.depths)) == 3
    again = prepare_scene.run(scan, PrepareConfig(max_views=3))
    assert [view.view_id for view in again.views] == names


def test_a_view_that_looks_at_nothing_new_is_not_chosen(scans: dict[CameraChoice, Scan]) -> None:
    scan = scans["undistorted"]
    away = np.diag([1.0, -1, -1, 1])
    away[2, 3] = -1.0  # a metre below the floor, looking down
    blind = replace(scan.views[0], view_id="aaa", world_to_camera=away)
    cloned = replace(scan.views[0], view_id="zzz")
    crowd = replace(scan, views=(blind, *scan.views[:2], cloned))
    names = [view.view_id for view in prepare_scene.run(crowd, PrepareConfig(max_views=2)).views]
    assert names == ["view0", "view1"]


def test_a_datasets_own_segments_are_its_superpoints(
    scans: dict[CameraChoice, Scan], tmp_path: Path
) -> None:
    write_tree(tmp_path, vertex_segments=False)
    scan = read_scan(tmp_path, SCENE, "undistorted")
    ids = prepare_scene.run(scan, PrepareConfig()).superpoint_ids
    assert ids.dtype == np.int32 and ids.max() == 3
    assert len(np.unique(np.stack([ids, scan.segment_ids]), axis=1).T) == 4
    graph = prepare_scene.run(scans["undistorted"], PrepareConfig()).superpoint_ids
    assert graph.max() > 3


def test_a_prepared_scene_fits_the_artifact(
    scans: dict[CameraChoice, Scan], tmp_path: Path
) -> None:
    prepared = prepare_scene.run(scans["fisheye"], PrepareConfig(max_views=2))
    key = ArtifactKey.make(tmp_path, "prepare_scene", 1, {}, {})
    with writing(key) as folder:
        assert folder is not None
        write_scene(folder, **vars(prepared))
    scene = read_scene(key.folder)
    assert len(scene.views) == 2 and scene.scene_id == SCENE
    assert read_ground_truth(key.folder).labels == ("bed", "table", "office chair", "pillow")
    points = transform(scene.views[0].world_to_camera, scene.cloud.points.astype(np.float64))
    assert np.isfinite(points).all()
