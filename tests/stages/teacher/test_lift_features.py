"""Image features on superpoints: by plain loops, what is unseen, the artifact, and refusals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.artifacts import store
from data.artifacts.embeddings import FILE, LiftedFeatures, read_features, write_features
from data.artifacts.links import ViewLinks
from data.errors import ArtifactError, UserError
from data.types import Array, Scene
from models.teacher import MaskGrid
from stages.teacher import lift_features
from tests.support.worlds.lisa_golden import Golden
from tests.support.worlds.teacher_world import FakeLinks, flat_scene

SIZE = (40, 60)
GRID = MaskGrid(5, 6, (6.0, 4.0))
NUM_POINTS = 30


@dataclass
class Eyes:
    """Features of a view are those of the number its picture is painted with."""

    maps: Array
    grid: MaskGrid = GRID
    name: str = "eyes"

    def feature_grid(self, height: int, width: int) -> MaskGrid:
        assert (height, width) == SIZE
        return self.grid

    def image_features(self, image: Array) -> Array:
        return np.asarray(self.maps[int(image[0, 0, 0])])


def world(folder: Path, num_views: int, seed: int = 0) -> tuple[Scene, FakeLinks]:
    """Pictures painted with their view's number; the last three superpoints are never seen."""
    scene = flat_scene(NUM_POINTS, num_views, *SIZE)
    rng, views, links = np.random.default_rng(seed), [], []
    for index, view in enumerate(scene.views):
        path = folder / f"{index}.png"
        Image.fromarray(np.full((*SIZE, 3), index, np.uint8)).save(path)
        views.append(replace(view, image_path=path))
        ids = np.flatnonzero(rng.random(NUM_POINTS - 6) < 0.4).astype(np.int32)
        ids = ids[ids % 7 != 0]  # Of some superpoints, half the points are seen.
        uv = rng.uniform(0, 1, (len(ids), 2)) * SIZE[::-1]
        links.append(ViewLinks(view.view_id, ids, uv.astype(np.float32)))
    return replace(scene, views=tuple(views)), FakeLinks(links, NUM_POINTS)


def run(scene: Scene, links: FakeLinks, teacher: Any, **arguments: Any) -> LiftedFeatures:
    return lift_features.run(scene, links, teacher, **arguments)


def at(grid: Array, x: float, y: float) -> Array:
    """Bilinear, cell centres at whole numbers, the border continued."""
    x, y = min(max(x, 0), grid.shape[2] - 1), min(max(y, 0), grid.shape[1] - 1)
    total = np.zeros(len(grid))
    for row in range(grid.shape[1]):
        for column in range(grid.shape[2]):
            weight = max(0, 1 - abs(x - column)) * max(0, 1 - abs(y - row))
            total += weight * grid[:, row, column]
    return total


def by_loops(scene: Scene, links: FakeLinks, maps: Array) -> Array:
    """(S, C): mean over seen points of means over views."""
    said: dict[int, list[Array]] = {}
    for view, grid in zip(links.views, maps):
        for point, (u, v) in zip(view.point_ids, view.uv):
            x = u / SIZE[1] * GRID.extent[0] - 0.5
            y = v / SIZE[0] * GRID.extent[1] - 0.5
            said.setdefault(int(point), []).append(at(grid, x, y))
    rows = []
    for superpoint in range(NUM_POINTS // 2):
        points = np.flatnonzero(scene.superpoint_ids == superpoint).tolist()
        means = [np.mean(said[point], axis=0) for point in points if point in said]
        rows.append(np.mean(means, axis=0) if means else np.zeros(maps.shape[1]))
    return np.array(rows)


@pytest.mark.parametrize("at_once", [4, 1 << 15])
def test_means_by_plain_loops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(lift_features, "_LINKS_AT_ONCE", at_once)
    scene, links = world(tmp_path, 5)
    maps = np.random.default_rng(1).normal(size=(5, 3, 5, 6)).astype(np.float32)
    told: list[tuple[int, int]] = []
    found = run(scene, links, Eyes(maps), progress=lambda *step: told.append(step))
    np.testing.assert_allclose(found.features, by_loops(scene, links, maps), atol=1e-5)
    assert found.scene_id == "flat" and told == [(done, 5) for done in range(1, 6)]


def test_constant_features_stay_and_what_is_unseen_is_zero(tmp_path: Path) -> None:
    scene, links = world(tmp_path, 4)
    maps = np.broadcast_to(np.array([2.0, -0.5], np.float32)[:, None, None], (4, 2, 5, 6))
    found = run(scene, links, Eyes(maps))
    assert found.seen.sum() > 6 and not found.seen[-3:].any()
    np.testing.assert_allclose(found.features[found.seen], [[2, -0.5]] * found.seen.sum(), 1e-6)
    assert not found.features[~found.seen].any()


def test_no_view_sees_a_point(tmp_path: Path) -> None:
    scene, links = world(tmp_path, 2)
    none = [ViewLinks(v.view_id, v.point_ids[:0], v.uv[:0]) for v in links.views]
    found = run(scene, FakeLinks(none, NUM_POINTS), Eyes(np.ones((2, 3, 5, 6), np.float32)))
    assert found.features.shape == (15, 3) and not found.features.any() and not found.seen.any()


def test_lisa_gives_the_embedding_that_its_masks_are_made_of() -> None:
    run_of = Golden("v1")
    teacher, image = run_of.teacher(), run_of.image(0)
    features = teacher.image_features(image)
    embedding = teacher.encode_view(image, "view").sam_embedding[0]
    assert np.array_equal(features, embedding.numpy()) and features.dtype == np.float32
    cells, masks = teacher.feature_grid(82, 128), teacher.mask_grid(82, 128)
    assert features.shape[1:] == (cells.height, cells.width) == (8, 8)
    assert cells.extent == tuple(cells_of / 4 for cells_of in masks.extent)


def test_a_teacher_without_features_is_refused(tmp_path: Path) -> None:
    scene, links = world(tmp_path, 2)

    class Blind:
        name = "blind"

    with pytest.raises(UserError, match=r"(?s)'blind' has no image features.*loss\.image=0"):
        run(scene, links, Blind())


def test_unusable_features_are_refused(tmp_path: Path) -> None:
    scene, links = world(tmp_path, 2)
    maps = np.zeros((2, 3, 5, 6), np.float32)
    for value in (np.nan, np.inf, 7e4):
        bad = maps.copy()
        bad[1, 2, 3, 4] = value
        with pytest.raises(UserError, match="view1.*not finite, or beyond"):
            run(scene, links, Eyes(bad))
    for other in (maps[..., :5], maps[:, 0], maps[:, :0]):
        with pytest.raises(UserError, match="for a grid of 5x6 cells"):
            run(scene, links, Eyes(other))
    ragged: Any = [maps[0], maps[1, :2]]
    with pytest.raises(UserError, match="3 channels for the first view and 2 for"):
        run(scene, links, Eyes(ragged))


def test_links_of_another_scene_are_refused(tmp_path: Path) -> None:
    scene, links = world(tmp_path, 2)
    eyes = Eyes(np.zeros((2, 3, 5, 6), np.float32))
    with pytest.raises(ValueError, match="other views"):
        run(scene, FakeLinks(links.views[::-1], NUM_POINTS), eyes)
    with pytest.raises(ValueError, match="30 points, links 31"):
        run(scene, FakeLinks(links.views, 31), eyes)


def lifted(num: int = 5) -> LiftedFeatures:
    features = np.random.default_rng(0).normal(size=(num, 3)).astype(np.float16)
    seen = np.arange(num) != 2
    return LiftedFeatures("scène", features.astype(np.float32) * seen[:, None], seen)


@pytest.mark.parametrize("num", [5, 0, 5000])
def test_the_artifact_comes_back(tmp_path: Path, num: int) -> None:
    write_features(tmp_path, lifted(3))
    write_features(tmp_path, lifted(num))
    (tmp_path / store.METADATA).write_text("{}")
    read = read_features(tmp_path)
    assert read.scene_id == "scène" and read.features.dtype == np.float32
    assert np.array_equal(read.features, lifted(num).features)
    assert np.array_equal(read.seen, lifted(num).seen)


def test_damage_is_told(tmp_path: Path) -> None:
    write_features(tmp_path, lifted())
    with pytest.raises(ArtifactError, match="Run LiftFeatures again"):
        read_features(tmp_path)  # unfinished
    (tmp_path / store.METADATA).write_text("{}")
    (chunk,) = (tmp_path / FILE / "features" / "c").rglob("0/0")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=FILE):
        read_features(tmp_path)
    chunk.write_bytes(whole)
    read_features(tmp_path)
    (tmp_path / FILE / "seen" / "zarr.json").unlink()
    with pytest.raises(ArtifactError, match=FILE):
        read_features(tmp_path)


def test_ill_fitting_features_are_refused() -> None:
    good = lifted()
    for features in (good.features.astype(np.float64), good.features[0], good.features[:, :0]):
        with pytest.raises(ValueError, match="features must be float32"):
            replace(good, features=features)
    for seen in (good.seen[1:], good.seen.astype(np.uint8)):
        with pytest.raises(ValueError, match="seen must be bool"):
            replace(good, seen=seen)
    for bad in (np.nan, np.inf, 1e5):
        with pytest.raises(ValueError, match="within 65504"):
            replace(good, features=np.full((5, 3), bad, np.float32))
    with pytest.raises(ValueError, match="0 where nothing was seen"):
        replace(good, seen=np.zeros(5, bool))
