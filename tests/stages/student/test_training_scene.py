"""What is kept of a scene to learn from: queries, superpoints' labels, views, token banks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stages.student import training_samples
from tests.support.worlds.tiny_training import only_queries, tiny_training_scene


@pytest.mark.parametrize(
    "text",
    ["the chair on the LEFT", "left-hand lamp", "rightmost pillow", "the right one", "Right?",
     "the lefthand door", "counterclockwise from the door", "Clockwise", "at 3 o'clock",
     "the bed's left side", "leftward"],
)  # fmt: skip
def test_words_of_side(text: str) -> None:
    assert training_samples.depends_on_side(text)


@pytest.mark.parametrize(
    "text", ["the bright lamp", "leftovers", "copyright", "the wall clock", ""]
)
def test_other_words(text: str) -> None:
    assert not training_samples.depends_on_side(text)


def test_queries_without_a_token_or_a_label_are_left_out() -> None:
    training = tiny_training_scene()
    scene = training_samples.compact(training)
    # The fifth has no token; the words of the fourth say "right".
    assert len(scene.tokens) == 4 and scene.sided.tolist() == [False, False, False, True]
    assert scene.views.tokens.shape == (4, 6, 8)
    confidence = training.labels.confidence.copy()
    confidence[1] = 0
    labels = replace(training.labels, confidence=confidence)
    fewer = training_samples.compact(replace(training, labels=labels))
    assert fewer.soft.argmax(1).tolist() == [1, 3, 2]
    assert fewer.sided.tolist() == [False, False, True]


def test_words_are_found_by_id_not_by_place() -> None:
    training = tiny_training_scene()
    labels = only_queries(training.labels, np.array([3, 0]))
    scene = training_samples.compact(
        replace(training, labels=labels, prompts=training.prompts[::-1])
    )
    assert scene.sided.tolist() == [True, False]


def test_superpoints_hold_the_means_of_their_points() -> None:
    training = tiny_training_scene()
    rng = np.random.default_rng(0)
    shape = training.labels.soft.shape
    soft, confidence = rng.random((2, *shape)).astype(np.float32)
    labels = replace(training.labels, soft=soft, confidence=confidence)
    scene = training_samples.compact(replace(training, labels=labels))
    for superpoint in range(4):
        inside = training.scene.superpoint_ids == superpoint
        for query in range(4):
            assert scene.soft[query, superpoint] == pytest.approx(soft[query][inside].mean(), 1e-4)
            known = confidence[query][inside].mean()
            assert scene.confidence[query, superpoint] == pytest.approx(known, 1e-4)
    # The three boxes stand on the floor, more than 0.1 m from each other.
    assert scene.pairs.tolist() == [[0, 1], [0, 2], [0, 3]]


def test_the_floor_is_at_zero_and_memory_is_counted() -> None:
    training = tiny_training_scene()
    cloud = training.scene.cloud
    lifted = replace(cloud, points=cloud.points + np.array([0, 0, 7.5], np.float32))
    scene = training_samples.compact(replace(training, scene=replace(training.scene, cloud=lifted)))
    np.testing.assert_allclose(scene.points, cloud.points, atol=1e-5)
    per_point = 12 + 3 + 12 + 4
    per_query = 4 * (4 + 4) + 4 + 8 * 4 + 6 * (8 * 4 + 4 + 4) + 1
    whole = per_point * len(cloud) + 4 * per_query + 6 * 6 * 4 + 3 * (8 + 4)
    assert scene.num_bytes == whole


def test_views_by_hand() -> None:
    training = tiny_training_scene()
    views = training_samples.query_views(training.labels, training.scene)
    assert views.poses.shape == (6, 6) and views.poses.dtype == np.float32
    middle = training.scene.cloud.points[:, :2].mean(0)
    eye = np.array([0.2, 0.2, 1.6])  # The first camera, which looks at (2.1, 1.4, 0.4).
    forward = np.array([2.1, 1.4, 0.4]) - eye
    np.testing.assert_allclose(views.poses[0, :3], eye - np.append(middle, 0), atol=1e-5)
    np.testing.assert_allclose(views.poses[0, 3:], forward / np.linalg.norm(forward), atol=1e-5)
    assert views.weights[0].tolist() == pytest.approx([0.6, 0.4, 0, 0, 0, 0])
    some = views.of(np.array([4, 1]))
    assert not some.tokens[0].any() and some.tokens[1, 0, 1] == 1
    assert np.array_equal(some.poses, views.poses)


def test_views_are_found_by_id_not_by_place() -> None:
    training = tiny_training_scene()
    plain = training_samples.query_views(training.labels, training.scene)
    named = replace(training.labels, view_ids=training.labels.view_ids[::-1])
    turned = training_samples.query_views(named, training.scene)
    assert np.array_equal(turned.poses, plain.poses[::-1])


def test_labels_of_another_scene_and_missing_words_are_refused() -> None:
    training = tiny_training_scene()
    with pytest.raises(ValueError, match="prompts without words"):
        training_samples.compact(replace(training, prompts=training.prompts[1:]))
    labels = training.labels
    short = replace(labels, soft=labels.soft[:, 1:], confidence=labels.confidence[:, 1:])
    with pytest.raises(ValueError, match="do not fit"):
        training_samples.compact(replace(training, labels=short))


def test_unit_rows_keep_zero() -> None:
    rows = training_samples.unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(rows, np.array([[0.6, 0.8], [0, 0]]), atol=1e-6)


def test_foreign_tokens_are_unlike_all_of_the_scene() -> None:
    bank = np.eye(4, dtype=np.float32)
    bank[3] = [0.8, 0, 0, 0.6]
    assert training_samples.foreign_rows(bank, bank[:2], 0.5).tolist() == [2]
    assert len(training_samples.foreign_rows(bank, bank[:0], 0.5)) == 4


def test_a_large_bank_is_thinned_by_seed() -> None:
    many = np.arange(10_000, dtype=np.float32).reshape(5000, 2)
    bank = training_samples.token_bank([many[:3000], many[3000:]], 0)
    assert bank.shape == (4096, 2) and (np.diff(bank[:, 0]) > 0).all()
    assert np.array_equal(bank, training_samples.token_bank([many], 0))
