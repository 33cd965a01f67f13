"""Samples: what augmentation keeps true, what is drawn, and voxels and parts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.types import Array
from stages.student import training_samples
from stages.student.training_samples import Augmentation, CompactScene, SampleSettings
from tests.support.worlds.tiny_training import four_points, tiny_training_scene

SETTINGS = SampleSettings(0.1, 3, 2, Augmentation())
STILL = Augmentation(rotate=False, mirror=False, scale=0.0, color=0.0)
NO_TOKENS = np.zeros((0, 8), np.float32)


def test_sample_by_hand() -> None:
    settings = SampleSettings(1.0, 5, 5, STILL)
    rng = training_samples.sample_generator(0, 0, 0)
    sample = training_samples.draw_sample(four_points(), NO_TOKENS, settings, rng)
    assert sample.grid_coords.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert sample.features[0] == pytest.approx([0, 0, 0, -0.9, 0.5, 0.5, 0])
    assert sample.features[2] == pytest.approx([1, -1, -1, -0.5, 0, 0, 1])
    assert sample.parts.superpoint.tolist() == [0, 1, 1, 1]
    assert sample.parts.voxel.tolist() == [0, 0, 1, 2]
    assert sample.parts.share == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
    assert sample.sizes.tolist() == [1, 3]
    assert sample.soft.tolist() == [[1, 0.25]] and sample.confidence.tolist() == [[1, 0.5]]
    assert sample.thresholds.tolist() == [0.5] and sample.views.weights.tolist() == [[1]]
    assert sample.pairs.tolist() == [[0, 1]] and sample.pairs.dtype == np.int64
    assert sample.affinity.tolist() == [0.5] and sample.negatives.shape == (0, 8)


@given(st.integers(0, 10**6), st.integers(1, 60))
def test_parts_pool_voxels_into_means_over_points(seed: int, num_points: int) -> None:
    rng = np.random.default_rng(seed)
    voxel = np.unique(rng.integers(0, 9, num_points), return_inverse=True)[1]
    superpoint = rng.integers(0, 7, num_points).astype(np.int32)  # Some ids may have no point.
    values = rng.normal(size=(voxel.max() + 1, 4))
    parts = training_samples.find_parts(voxel, superpoint)
    pooled, shares = np.zeros((7, 4)), np.zeros(7)
    np.add.at(pooled, parts.superpoint, parts.share[:, None] * values[parts.voxel])
    np.add.at(shares, parts.superpoint, parts.share)
    for number in range(7):
        inside = superpoint == number
        assert shares[number] == pytest.approx(float(inside.any()), abs=1e-6)
        if inside.any():
            np.testing.assert_allclose(pooled[number], values[voxel[inside]].mean(0), atol=1e-5)
    pairs = set(zip(voxel.tolist(), superpoint.tolist()))
    assert len(parts.voxel) == len(pairs)
    assert set(zip(parts.voxel.tolist(), parts.superpoint.tolist())) == pairs


def test_no_points_have_no_parts() -> None:
    nothing = np.zeros(0, np.int64)
    assert [len(part) for part in training_samples.find_parts(nothing, nothing)] == [0, 0, 0]


def mirrored(scene: CompactScene, sided: bool, seed: int) -> bool:
    """Whether the change of the points turns a right hand into a left hand."""
    rng = np.random.default_rng(seed)
    points, _, normals = training_samples.augment(scene, Augmentation(), sided, rng)
    change = np.linalg.lstsq(scene.points, points, rcond=None)[0]
    of_normals = np.linalg.lstsq(scene.normals, normals, rcond=None)[0]
    assert np.allclose(of_normals @ of_normals.T, np.eye(3), atol=1e-5)
    scale = np.cbrt(np.abs(np.linalg.det(change)))
    assert 0.9 <= scale <= 1.1 and np.allclose(change, scale * of_normals, atol=1e-5)
    assert np.allclose(change[2], [0, 0, scale], atol=1e-5)
    return bool(np.linalg.det(of_normals) < 0)


def test_sided_queries_are_never_mirrored_and_normals_follow_points() -> None:
    scene = four_points()
    assert not any(mirrored(scene, True, seed) for seed in range(60))
    assert 10 < sum(mirrored(scene, False, seed) for seed in range(60)) < 50


def test_only_drawn_queries_forbid_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    augment = training_samples.augment

    def spy(scene: CompactScene, how: Augmentation, sided: bool, rng: Any) -> Any:
        told.append(sided)
        return augment(scene, how, sided, rng)

    monkeypatch.setattr(training_samples, "augment", spy)
    scene = training_samples.compact(tiny_training_scene())
    assert scene.sided.tolist() == [False, False, False, True]
    for epoch in range(30):
        rng = training_samples.sample_generator(0, epoch, 0)
        sample = training_samples.draw_sample(scene, NO_TOKENS, SETTINGS, rng)
        assert told[-1] == bool((sample.tokens[:, 3] > 0).any())
    assert set(told) == {True, False}


def test_all_that_is_drawn_of_a_query_is_of_the_same_query() -> None:
    scene = training_samples.compact(tiny_training_scene())
    for epoch in range(5):
        rng = training_samples.sample_generator(0, epoch, 0)
        sample = training_samples.draw_sample(scene, NO_TOKENS, SETTINGS, rng)
        assert len(sample.tokens) == len(set(sample.tokens.argmax(1))) == 3
        for row, query in enumerate(sample.tokens.argmax(1)):
            assert sample.views.tokens[row, 0, query] == 1
            # Room, bed, table, chair; the fourth query means table and chair.
            wanted = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0, 0, 1, 1]][query]
            assert sample.soft[row].tolist() == wanted


def test_samples_depend_on_seed_epoch_and_scene_only() -> None:
    scene = training_samples.compact(tiny_training_scene())
    foreign = np.eye(8, dtype=np.float32)[5:]

    def draw(*numbers: int) -> Array:
        rng = training_samples.sample_generator(*numbers)
        sample = training_samples.draw_sample(scene, foreign, SETTINGS, rng)
        assert len(sample.negatives) == 2
        return sample.features

    assert np.array_equal(draw(1, 2, 3), draw(1, 2, 3))
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 0)):
        assert not np.array_equal(draw(1, 2, 3), draw(*other))
    order = training_samples.scene_order(3, 1, 10)
    assert (
        sorted(order) == list(range(10)) and (order != training_samples.scene_order(3, 2, 10)).any()
    )


def test_colour_shift_and_scale_stay_in_their_range() -> None:
    scene = four_points(colors=np.full((4, 3), 100, np.uint8))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, colors, _ = training_samples.augment(scene, Augmentation(color=0.1), False, rng)
        assert np.ptp(colors) == 0 and abs(colors[0, 0] - 100) <= 25.5
