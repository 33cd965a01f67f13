"""Samples: what augmentation keeps true, what is drawn, and targets of voxels by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from data import batches
from data.artifacts.pseudo import PseudoLabels
from data.batches import Augmentation, CompactScene, SampleSettings, TrainingScene
from data.types import Array
from tests.tiny_scene import make_tiny_prompts, make_tiny_scene

SETTINGS = SampleSettings(0.1, 3, 2, Augmentation())


@cache
def tiny_training_scene(scene_id: str = "00000000aa", token_dim: int = 8) -> TrainingScene:
    """The tiny scene with labels made of its truth; the last query has no token."""
    scene, truth = make_tiny_scene(scene_id)
    prompts, truths = make_tiny_prompts(scene_id)
    soft = np.stack([truth.mask(t.object_ids) for t in truths]).astype(np.float32)
    tokens = np.eye(len(prompts), token_dim, dtype=np.float32)
    tokens[-1] = 0
    labels = PseudoLabels(
        scene_id,
        tuple(prompt.prompt_id for prompt in prompts),
        (),
        soft,
        np.full_like(soft, 0.8),
        np.zeros((len(prompts), 0), np.float32),
        tuple(() for _ in prompts),
        tokens,
    )
    return TrainingScene(scene, prompts, labels)


def hand_made(**changes: Any) -> CompactScene:
    """Four points: two in one voxel of 1 m, one beside it, one unlabelled above."""
    points = np.array([[0.1, 0.1, 0.1], [0.9, 0.2, 0.1], [1.5, 0.5, 0.5], [0.5, 0.5, 1.5]])
    scene = CompactScene(
        "s",
        points.astype(np.float32),
        np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0]], np.uint8),
        np.eye(4, 3, dtype=np.float32),
        np.array([7, 7, 9, 9], np.int32),
        np.array([[255, 0, 255, 255]], np.uint8),
        np.array([[255, 51, 255, 0]], np.uint8),
        np.eye(1, 8, dtype=np.float32),
        np.array([False]),
    )
    return replace(scene, **changes)


STILL = Augmentation(rotate=False, mirror=False, scale=0.0, color=0.0)


def test_voxel_targets_by_hand() -> None:
    settings = SampleSettings(1.0, 5, 5, STILL)
    rng = batches.sample_generator(0, 0, 0)
    sample = batches.draw_sample(hand_made(), np.zeros((0, 8), np.float32), settings, rng)
    assert sample.grid_coords.tolist() == [[0, 0, 0], [0, 0, 1], [1, 0, 0]]
    assert sample.soft[0] == pytest.approx([1 / 1.2, 0, 1])
    assert sample.confidence[0] == pytest.approx([0.6, 0, 1])
    assert sample.superpoint_ids.tolist() == [0, 1, 1]
    assert sample.features[0] == pytest.approx([0, 0, 0, -0.9, 0.5, 0.5, 0])
    assert sample.features[2] == pytest.approx([1, -1, -1, -0.5, 0, 0, 1])
    assert sample.negatives.shape == (0, 8)


@pytest.mark.parametrize(
    "text",
    ["the chair on the LEFT", "left-hand lamp", "rightmost pillow", "the right one", "Right?",
     "the lefthand door", "counterclockwise from the door", "Clockwise", "at 3 o'clock",
     "the bed's left side", "leftward"],
)  # fmt: skip
def test_words_of_side(text: str) -> None:
    assert batches.depends_on_side(text)


@pytest.mark.parametrize(
    "text", ["the bright lamp", "leftovers", "copyright", "the wall clock", ""]
)
def test_other_words(text: str) -> None:
    assert not batches.depends_on_side(text)


def mirrored(scene: CompactScene, sided: bool, seed: int) -> bool:
    """Whether the change of the points turns a right hand into a left hand."""
    rng = np.random.default_rng(seed)
    points, _, normals = batches.augment(scene, Augmentation(), sided, rng)
    change = np.linalg.lstsq(scene.points, points, rcond=None)[0]
    of_normals = np.linalg.lstsq(scene.normals, normals, rcond=None)[0]
    assert np.allclose(of_normals @ of_normals.T, np.eye(3), atol=1e-5)
    scale = np.cbrt(np.abs(np.linalg.det(change)))
    assert 0.9 <= scale <= 1.1 and np.allclose(change, scale * of_normals, atol=1e-5)
    assert np.allclose(change[2], [0, 0, scale], atol=1e-5)
    return bool(np.linalg.det(of_normals) < 0)


def test_sided_queries_are_never_mirrored_and_normals_follow_points() -> None:
    scene = hand_made()
    assert not any(mirrored(scene, True, seed) for seed in range(60))
    assert 10 < sum(mirrored(scene, False, seed) for seed in range(60)) < 50


def test_only_drawn_queries_forbid_the_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    augment = batches.augment

    def spy(scene: CompactScene, how: Augmentation, sided: bool, rng: Any) -> Any:
        told.append(sided)
        return augment(scene, how, sided, rng)

    monkeypatch.setattr(batches, "augment", spy)
    scene = batches.compact(tiny_training_scene(), 0.3)
    assert scene.sided.tolist() == [False, False, False, True]
    for epoch in range(30):
        rng = batches.sample_generator(0, epoch, 0)
        sample = batches.draw_sample(scene, scene.tokens[:0], SETTINGS, rng)
        assert told[-1] == bool((sample.tokens[:, 3] == 1).any())
    assert set(told) == {True, False}


def test_samples_depend_on_seed_epoch_and_scene_only() -> None:
    scene = batches.compact(tiny_training_scene(), 0.3)
    foreign = np.eye(8, dtype=np.float32)[5:]

    def draw(*numbers: int) -> Array:
        rng = batches.sample_generator(*numbers)
        sample = batches.draw_sample(scene, foreign, SETTINGS, rng)
        assert len(sample.negatives) == 2
        return sample.features

    assert np.array_equal(draw(1, 2, 3), draw(1, 2, 3))
    for other in ((0, 2, 3), (1, 3, 3), (1, 2, 0)):
        assert not np.array_equal(draw(1, 2, 3), draw(*other))
    order = batches.scene_order(3, 1, 10)
    assert sorted(order) == list(range(10)) and (order != batches.scene_order(3, 2, 10)).any()


def test_colour_shift_and_scale_stay_in_their_range() -> None:
    scene = hand_made(colors=np.full((4, 3), 100, np.uint8))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        _, colors, _ = batches.augment(scene, Augmentation(color=0.1), False, rng)
        assert np.ptp(colors) == 0 and abs(colors[0, 0] - 100) <= 25.5


def test_compact_keeps_labelled_queries_and_puts_the_floor_at_zero() -> None:
    training = tiny_training_scene()
    scene = batches.compact(training, 0.3)
    assert len(scene.tokens) == 4 and scene.soft.dtype == np.uint8
    assert scene.points[:, 2].min() == 0
    assert scene.num_bytes < 10 * len(scene.points) * 10
    assert len(batches.compact(training, 0.9).tokens) == 0
    with pytest.raises(ValueError, match="prompts without words"):
        batches.compact(replace(training, prompts=training.prompts[1:]), 0.3)


def test_foreign_tokens_are_unlike_all_of_the_scene() -> None:
    bank = np.eye(4, dtype=np.float32)
    bank[3] = [0.8, 0, 0, 0.6]
    foreign = batches.foreign_tokens(bank, bank[:2], 0.5)
    assert np.array_equal(foreign, bank[2:3])
    assert len(batches.foreign_tokens(bank, bank[:0], 0.5)) == 4


def test_a_large_bank_is_thinned_by_seed() -> None:
    many = np.arange(10_000, dtype=np.float32).reshape(5000, 2)
    bank = batches.token_bank([many[:3000], many[3000:]], 0)
    assert bank.shape == (4096, 2) and (np.diff(bank[:, 0]) > 0).all()
    assert np.array_equal(bank, batches.token_bank([many], 0))
