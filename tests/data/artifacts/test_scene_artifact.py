"""Scene artifact: what is written comes back, lazily, and labels stay behind their own door."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from data.artifacts.scene import FILE, read_ground_truth, read_scene, write_scene
from data.artifacts.store import ArtifactKey, writing
from data.errors import ArtifactError
from data.types import Camera, Neighbours, SurfaceTruth, View
from tests.support.scans.tiny_scene import make_tiny_scene
from tests.support.sealed import seal

_NEAR = Neighbours(np.array([[0, 1], [0, 2]], np.int32), np.array([0.5, 0.125], np.float32), 3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    lens = Camera("OPENCV_FISHEYE", np.diag([9.0, 9, 1]), 24, 32, (0.1, 0.2, 0.3, 0.4))
    views = list(scene.views)
    views[1] = View("fish", lens, views[1].world_to_camera, Path("a/fish.JPG"))
    key = ArtifactKey.make(tmp_path, "prepare_scene", 1, {}, {})
    with writing(key) as path:
        assert path is not None
        write_scene(
            path,
            scene.cloud,
            scene.triangles,
            scene.superpoint_ids,
            views,
            iter(scene.depths),
            truth,
            scene.scene_id,
            neighbours=_NEAR,
        )
    return key.folder


def test_a_scene_comes_back(folder: Path) -> None:
    scene, _ = make_tiny_scene(spacing=0.3, height=24, width=32)
    found = read_scene(folder)
    assert found.scene_id == scene.scene_id
    for name in ("points", "colors", "normals"):
        np.testing.assert_array_equal(getattr(found.cloud, name), getattr(scene.cloud, name))
    np.testing.assert_array_equal(found.triangles, scene.triangles)
    np.testing.assert_array_equal(found.superpoint_ids, scene.superpoint_ids)
    assert [view.view_id for view in found.views][:3] == ["view0", "fish", "view2"]
    assert found.views[1].camera.distortion == (0.1, 0.2, 0.3, 0.4)
    assert found.views[1].image_path == Path("a/fish.JPG")
    for old, new in zip(scene.views, found.views):
        np.testing.assert_array_equal(new.world_to_camera, old.world_to_camera)
    np.testing.assert_array_equal(found.views[0].camera.K, scene.views[0].camera.K)
    assert found.neighbours is not None
    np.testing.assert_array_equal(found.neighbours.pairs, _NEAR.pairs)
    np.testing.assert_array_equal(found.neighbours.affinity, _NEAR.affinity)
    assert found.neighbours.num_superpoints == scene.superpoint_ids.max() + 1


def test_lens_and_mask_come_back_wherever_the_dataset_lies(tmp_path: Path) -> None:
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    lens = Camera("OPENCV_FISHEYE", np.diag([9.0, 8, 1]), 24, 32, (0.1, 0.2, 0.3, 0.4))
    old, first = tmp_path / "old", scene.views[0]
    views = [
        replace(first, lens=lens, is_distorted=True, image_path=old / "a.JPG"),
        replace(first, lens=lens, image_path=old / "a.JPG", mask_path=old / "m" / "a.png"),
        replace(first, image_path=old / "a.JPG"),
    ]
    parts = (scene.cloud, scene.triangles, scene.superpoint_ids, views)
    write_scene(tmp_path, *parts, [scene.depths[0]] * 3, truth, "s", old)
    (tmp_path / "metadata.json").write_text("{}")
    found = read_scene(tmp_path, Path("/new")).views
    assert [view.is_distorted for view in found] == [True, False, False]
    assert [view.mask_path for view in found] == [None, Path("/new/m/a.png"), None]
    assert found[2].lens is None and found[0].file_camera is found[0].lens
    for view in found[:2]:
        assert view.lens is not None and view.lens.distortion == lens.distortion
        np.testing.assert_array_equal(view.lens.K, lens.K)


def test_depth_comes_back_to_half_a_millimetre_and_zero_stays_zero(tmp_path: Path) -> None:
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    depth = np.array([[0.0, 1.2344, 1.2346], [65.535, 99.0, 0.0004]], np.float32)
    with h5py.File(tmp_path / FILE, "w"):
        pass
    depths = [depth] * len(scene.views)
    write_scene(
        tmp_path,
        scene.cloud,
        scene.triangles,
        scene.superpoint_ids,
        scene.views,
        depths,
        truth,
        "s",
    )
    (tmp_path / "metadata.json").write_text("{}")
    found = read_scene(tmp_path).depths[2]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 1.234, 1.235], [65.535, 65.535, 0]], atol=1e-6)


def test_what_a_scan_holds_of_the_surface_comes_back_where_it_is_known(
    folder: Path, tmp_path: Path
) -> None:
    assert read_ground_truth(folder).surface is None
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    surface = SurfaceTruth(0.875, 0.0078125, 0.03125)
    key = ArtifactKey.make(tmp_path, "prepare_scene", 2, {}, {})
    with writing(key) as path:
        assert path is not None
        parts = scene.cloud, scene.triangles, scene.superpoint_ids
        write_scene(path, *parts, (), (), replace(truth, surface=surface), scene.scene_id)
    assert read_ground_truth(key.folder).surface == surface


def test_ground_truth_comes_back(folder: Path) -> None:
    _, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    found = read_ground_truth(folder)
    assert (found.object_ids, found.labels) == (truth.object_ids, truth.labels)
    assert found.num_points == truth.num_points
    for object_id in truth.object_ids:
        np.testing.assert_array_equal(found.points_of(object_id), truth.points_of(object_id))
    with pytest.raises(KeyError):
        found.points_of(99)
    assert found.mask([11, 12]).sum() == found.mask([11]).sum() + found.mask([12]).sum()


def test_a_scene_is_read_without_touching_its_labels(folder: Path) -> None:
    with h5py.File(folder / FILE, "a") as file:
        del file["ground_truth"]
    (folder / "metadata.json").write_text("{}")  # Which lists no file to compare.
    scene = read_scene(folder)
    assert len(scene.cloud) > 0 and scene.depths[0].shape == (24, 32)
    with pytest.raises(ArtifactError, match="PrepareScene"):
        read_ground_truth(folder)


def test_depth_is_read_one_map_at_a_time(folder: Path) -> None:
    depths = read_scene(folder).depths
    assert len(depths) == 6
    with pytest.raises(IndexError):
        depths[6]
    with pytest.raises(TypeError):
        depths[:2]
    assert sum(1 for _ in depths) == 6


def test_unfinished_and_damaged_scenes_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="metadata.json"):
        read_scene(tmp_path / "nowhere")
    os.truncate(folder / FILE, 1000)
    seal(folder)
    with pytest.raises(ArtifactError, match="scene.h5"):
        read_scene(folder)
    with pytest.raises(ArtifactError, match="scene.h5"):
        read_ground_truth(folder)


def test_as_many_depth_maps_as_views(tmp_path: Path) -> None:
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    with pytest.raises(ValueError):
        write_scene(
            tmp_path,
            scene.cloud,
            scene.triangles,
            scene.superpoint_ids,
            scene.views,
            [scene.depths[0]],
            truth,
            "s",
        )


def test_image_paths_follow_a_dataset_that_moves(tmp_path: Path) -> None:
    scene, truth = make_tiny_scene(spacing=0.3, height=24, width=32)
    view = replace(scene.views[0], image_path=Path("/old/place/data/x/dslr/a.JPG"))
    key = ArtifactKey.make(tmp_path, "prepare_scene", 1, {}, {})
    with writing(key) as path:
        assert path is not None
        depths = [scene.depths[0]]
        parts = (scene.cloud, scene.triangles, scene.superpoint_ids, [view], depths, truth)
        write_scene(path, *parts, scene.scene_id, Path("/old/place"))
    moved = read_scene(key.folder, Path("/new"))
    assert moved.views[0].image_path == Path("/new/data/x/dslr/a.JPG")
