"""Prediction: from training to masks, with labels together, by words, files it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.artifacts import store
from data.artifacts import student as artifact
from data.artifacts.soft_masks import PseudoLabels, StudentTrust
from data.errors import ArtifactError, UserError
from data.geometry.superpoints import REACH, touching_superpoints
from data.types import Array
from stages.configs import (
    LABEL_FEATURES,
    CertaintyConfig,
    PredictConfig,
    StudentConfig,
)
from stages.fusion import thresholds
from stages.network_configs import AugmentConfig, LossConfig
from stages.student import predict_masks, train_student
from stages.student.answering import LabelAnswers, SceneMasks
from tests.support.scans.tiny_scene import make_tiny_scene
from tests.support.worlds.teacher_world import flat_scene
from tests.support.worlds.tiny_training import only_queries, tiny_training_scene
from tests.support.worlds.training_runs import shallow

CFG = StudentConfig(preset="nano", voxel_size=0.2, feature_dim=8, epochs=1, batch_scenes=1)


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """The student is of one level."""
    with shallow():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    train_student.run([tiny_training_scene()], CFG, folder)
    (folder / store.METADATA).write_text("{}")
    return folder


def test_learns_the_tiny_room_and_predicts_its_objects(tmp_path: Path) -> None:
    cfg = CFG.model_copy(
        update={
            "epochs": 30, "lr": 0.03, "feature_dim": 32, "queries_per_scene": 4,
            "augment": AugmentConfig(mirror=False), "loss": LossConfig(absent=0.0),
        }
    )  # fmt: skip
    training = tiny_training_scene()
    train_student.run([training], cfg, tmp_path)
    (tmp_path / store.METADATA).write_text("{}")
    predictions = predict_masks.run(training.scene, training.labels, tmp_path, PredictConfig())
    # Superpoints are objects here, so masks are right to the point or wrong.
    assert np.array_equal(predictions.masks, training.labels.soft > 0.5)
    assert np.array_equal(predictions.together, training.labels.soft > 0.5)
    largest = predictions.probs.max(axis=1)
    assert (largest[:4] > 0.5).all() and largest[4] == 0
    assert (predictions.presences[:4] > predictions.presences[4]).all()


def test_predictions_hold_their_shapes_and_end_at_superpoints(finished: Path) -> None:
    training = tiny_training_scene()
    cfg = PredictConfig(threshold="half", presence=0.0, turns=1)
    found = predict_masks.run(training.scene, training.labels, finished, cfg)
    assert found.probs.shape == (5, len(training.scene.cloud))
    assert found.prompt_ids == training.labels.prompt_ids
    assert np.array_equal(found.masks, found.probs >= 0.5)
    for superpoint in range(4):
        inside = training.scene.superpoint_ids == superpoint
        assert np.ptp(found.probs[:, inside], axis=1).max() == 0
    steps = found.probs * 255
    assert np.allclose(steps, np.rint(steps), atol=1e-4)


def test_labels_change_the_answer_together_only(finished: Path) -> None:
    training = tiny_training_scene()
    blind = replace(
        training.labels,
        soft=np.zeros_like(training.labels.soft),
        confidence=np.zeros_like(training.labels.confidence),
    )
    cfg = PredictConfig(presence=0.0)
    a = predict_masks.run(training.scene, training.labels, finished, cfg)
    b = predict_masks.run(training.scene, blind, finished, cfg)
    assert np.array_equal(a.probs, b.probs) and np.array_equal(a.masks, b.masks)
    for one, other in ((a.presence, b.presence), (a.quality, b.quality)):
        assert np.array_equal(one("student"), other("student"))
        assert not np.array_equal(one("together"), other("together"))


def trust_always(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let the student count by ``share`` whatever the labels say."""
    monkeypatch.setattr(SceneMasks, "_trust", lambda *_: StudentTrust(1.0, share))


def test_together_is_a_geometric_mean(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_always(monkeypatch, 0.5)
    training = tiny_training_scene()
    # Labels are averaged inside superpoints; these already are.
    soft = np.random.default_rng(0).random((5, 4)).astype("f4")[:, training.scene.superpoint_ids]
    chosen = np.array([0.2, 0.5, 0.8, 0.4, 2.0], np.float32)
    labels = replace(training.labels, soft=soft, thresholds=chosen)
    cfg = PredictConfig(threshold="half", object_share=0.0)
    found = predict_masks.run(training.scene, labels, finished, cfg)
    for query, threshold in enumerate([0.2, 0.5, 0.8, 0.4, np.inf]):  # The last has no object.
        scaled = [min(value / (2 * threshold), 1) for value in soft[query]]
        mean = np.sqrt(found.probs[query].astype(np.float64) * scaled)
        clear = np.abs(mean - 0.5) > 4e-3  # Both are stored in steps of 1/255.
        assert np.array_equal(found.together[query][clear], (mean >= 0.5)[clear])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_shares_weigh_student_and_labels(
    finished: Path, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    trust_always(monkeypatch, share)
    training = tiny_training_scene()
    soft = np.random.default_rng(1).random((5, 4)).astype("f4")[:, training.scene.superpoint_ids]
    labels = replace(training.labels, soft=soft, thresholds=np.full(5, 0.5, np.float32))
    cfg = PredictConfig(threshold="half", object_share=0.0)
    found = predict_masks.run(training.scene, labels, finished, cfg)
    mean = found.probs.astype(np.float64) ** share * soft ** (1 - share)
    wanted = (mean >= 0.5) & (found.masks | (soft >= 0.5))
    clear = np.abs(mean - 0.5) > 4e-3
    assert np.array_equal(found.together[clear], wanted[clear]) and clear.mean() > 0.5


def test_a_student_counts_by_its_agreement_with_the_labels() -> None:
    """Superpoints of 1, 2 and 3 points; the labels answer the first two queries only.

    The masks of these have an IoU of 1/3 and of 1, so the agreement is 2/3, which is two thirds
    of the way from 0.4 to 0.8.
    """
    ids = np.repeat(np.arange(3), [1, 2, 3]).astype(np.int32)
    scene = replace(flat_scene(len(ids), 1, 4, 4), superpoint_ids=ids)
    cfg = PredictConfig(student_share=0.3, least_agreement=0.4, full_agreement=0.8)
    masks = SceneMasks(scene, np.eye(3, dtype=np.float32), cfg)
    of_student = np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]], bool)
    of_labels = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0]], bool)
    trust = masks._trust(of_student, of_labels)
    assert trust.agreement == pytest.approx(2 / 3) and trust.share == pytest.approx(0.2)
    assert masks._trust(of_labels, of_labels) == StudentTrust(1.0, 0.3)
    assert masks._trust(~of_labels, of_labels) == StudentTrust(0.0, 0.0)
    assert masks._trust(of_student[2:], of_labels[2:]) == StudentTrust(0.0, 0.0)


def test_a_scan_unlike_those_learnt_from_is_answered_by_its_labels(finished: Path) -> None:
    training = tiny_training_scene()
    labels = replace(training.labels, soft=1 - training.labels.soft)
    found = predict_masks.run(training.scene, labels, finished, PredictConfig())
    assert found.trust is not None and found.trust.share == 0
    assert np.array_equal(found.together, labels.answers())
    assert not np.array_equal(found.masks, found.together)


def test_a_share_below_one_half_smooths_less(finished: Path) -> None:
    """At a share of 1/4, half of an object's smoothing; all superpoints are one object here."""
    training = tiny_training_scene()
    ids = training.scene.superpoint_ids
    soft = np.random.default_rng(2).random((5, 4)).astype("f4")[:, ids]
    labels = replace(training.labels, soft=soft, thresholds=np.full(5, 0.5, np.float32))
    cfg = PredictConfig(object_share=0.0)
    probs = predict_masks.run(training.scene, labels, finished, cfg).probs.astype(np.float64)
    whole = cfg.model_copy(update={"object_share": 1.0, "object_cosine": -1.0})
    masks, raw = predict_masks.read_by_views(training.scene, labels, finished, whole)
    found = masks._combined(raw, masks.superpoint_means(soft), 0.25)
    combined = probs**0.25 * soft**0.75
    weights = np.sqrt(np.bincount(ids))[ids] / np.bincount(ids)[ids]
    for query in range(4):
        mean = np.average(combined[query], weights=weights)
        largest = (combined[query].max() + mean) / 2
        assert found[query].max() == pytest.approx(largest, abs=8e-3)
        assert combined[query].max() - mean > 0.03


def test_together_ends_within_what_student_or_labels_hold() -> None:
    """Thirty superpoints of 200 points and six of 1,000, of which neither answer holds one.

    Their labels are 0.15 where the threshold is 0.208, so 0.36 of one half after scaling. With the
    student's 0.39 the geometric mean is 0.37, and the mask of the largest expected Dice of such
    means holds them.
    """
    sizes = np.repeat([200, 1000], [30, 6])
    ids = np.repeat(np.arange(36), sizes).astype(np.int32)
    scene = replace(flat_scene(len(ids), 1, 4, 4), superpoint_ids=ids)
    cfg = PredictConfig(object_share=0)
    soft = np.repeat([0.6, 0.25, 0.15], [15, 15, 6]).astype(np.float32)[None]
    probs = np.repeat([0.9, 0.45, 0.39], [15, 15, 6]).astype(np.float32)[None]
    labels = thresholds.rescale_by_threshold(soft, np.array([0.208], np.float32))
    masks = SceneMasks(scene, np.zeros((36, 1)), cfg)
    means = thresholds.geometric_mean(probs, labels)
    assert (means >= masks._thresholds(means, 0, 0)).all(), "the means alone hold all"
    features = {name: np.zeros(1) for name in LABEL_FEATURES}
    found = masks.predictions(("q",), probs, LabelAnswers(labels, features))
    assert found.trust is not None and found.trust.share > 0
    assert found.together[0].tolist() == (scene.superpoint_ids < 30).tolist()


def test_objects_pull_their_parts_together(finished: Path) -> None:
    """With a cosine that all touching superpoints have, they are one object."""
    training = tiny_training_scene()
    cloud, ids = training.scene.cloud, training.scene.superpoint_ids
    assert len(touching_superpoints(cloud, ids, REACH).pairs) >= 3, "the room hangs together"
    apart, half, one = (
        predict_masks.run(
            training.scene,
            training.labels,
            finished,
            PredictConfig(object_cosine=-1, object_share=share),
        ).probs
        for share in (0.0, 0.5, 1.0)
    )
    weights = np.sqrt(np.bincount(ids))[ids] / np.bincount(ids)[ids]
    for query in range(4):
        mean = np.average(apart[query], weights=weights)
        np.testing.assert_allclose(one[query], mean, atol=5e-3)
        np.testing.assert_allclose(half[query], (apart[query] + mean) / 2, atol=5e-3)
    assert np.ptp(apart[:4], axis=1).min() > 0.02


def test_together_by_hand() -> None:
    probs, labels = np.array([[0.5, 0.9, 0.0, 1.0]]), np.array([[0.5, 0.4, 1.0, 1.0]])
    both = thresholds.geometric_mean(probs.astype(np.float32), labels.astype(np.float32))
    np.testing.assert_allclose(both, [[0.5, 0.6, 0, 1]], atol=1e-6)
    assert both.dtype == np.float32


def test_levelled_labels_by_hand() -> None:
    soft = np.array([[0, 0.1, 0.2, 0.4, 1], [0, 0.4, 0.8, 0.9, 1], [0, 0.1, 0.2, 0.3, 1]], "f4")
    level = thresholds.rescale_by_threshold(soft, np.array([0.2, 0.8, 2.0], np.float32))
    expected = np.array([[0, 0.25, 0.5, 1, 1], [0, 0.25, 0.5, 0.5625, 0.625], [0] * 5])
    np.testing.assert_allclose(level, expected, atol=1e-6)
    assert level.dtype == np.float32


@pytest.mark.parametrize("threshold", [1 / 255, 0.3, 254 / 255, 1.0])
def test_levelled_labels_rise_and_begin_where_labels_do(threshold: float) -> None:
    soft = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    chosen = np.array([threshold], np.float32)
    level = thresholds.rescale_by_threshold(soft, chosen)
    assert (np.diff(level[0]) >= 0).all() and level.min() == 0 and level.max() <= 1
    assert np.array_equal(level >= 0.5, soft >= chosen)


def words_of(labels: PseudoLabels) -> Array:
    """(Q, T) tokens of labels whose queries have one view at most."""
    return np.asarray((labels.view_tokens * labels.view_weights[..., None]).sum(1), np.float32)


def test_words_with_the_tokens_of_the_views_give_the_same_answers(finished: Path) -> None:
    training = tiny_training_scene()
    weights = np.zeros_like(training.labels.view_weights)
    weights[:4, 0] = 1
    # Of a single view, any fusion is that view's token.
    labels = replace(training.labels, view_weights=weights)
    cfg = PredictConfig(presence=0, presence_by_words=0)
    views = predict_masks.run(training.scene, labels, finished, cfg)
    known = np.ones(len(labels.prompt_ids), np.float32)
    words = predict_masks.run_by_words(
        training.scene, labels.prompt_ids, (words_of(labels), known), finished, cfg
    )
    assert words.prompt_ids == views.prompt_ids and words.scene_id == views.scene_id
    assert np.array_equal(words.probs, views.probs) and np.array_equal(words.masks, views.masks)
    assert np.array_equal(words.masks, words.together)
    assert np.array_equal(words.presence("together"), words.presence("student"))
    assert np.isnan(words.presence("fusion_only")).all() and not words.masks[4].any()


def test_words_need_no_view(finished: Path) -> None:
    scene = replace(tiny_training_scene().scene, views=(), depths=())
    tokens = np.eye(2, 8, dtype=np.float32)
    plain = CertaintyConfig(words_presence={"peak": 1, "known": 1, "bias": -6})
    words = tokens, np.ones(2, np.float32)
    cfg = PredictConfig(presence_by_words=0.4, certainty=plain)
    found = predict_masks.run_by_words(scene, ("a", "b"), words, finished, cfg)
    assert found.probs.shape == (2, len(scene.cloud)) and found.masks.any(1).all()
    # A sentence that the text encoder does not know has no answer, whatever the student thinks.
    doubted = (tokens, np.array([1, 0.25], np.float32))
    unknown = predict_masks.run_by_words(scene, ("a", "b"), doubted, finished, cfg)
    assert np.array_equal(unknown.masks[0], found.masks[0]) and not unknown.masks[1].any()
    assert unknown.presence("student")[0] == found.presence("student")[0]
    # The odds of 0.25 are a third; those of 1 are 9,999, the most that is told.
    odds = [p / (1 - p) for p in (each.presence("student")[1] for each in (found, unknown))]
    assert odds[0] / odds[1] == pytest.approx(3 * 9999, rel=1e-3)
    short = (tokens[:1, :6], np.ones(1, np.float32))
    with pytest.raises(UserError, match="length 6"):
        predict_masks.run_by_words(scene, ("a",), short, finished, PredictConfig())


def test_missing_or_damaged_students_are_refused(finished: Path, tmp_path: Path) -> None:
    training = tiny_training_scene()

    def predict() -> None:
        predict_masks.run(training.scene, training.labels, tmp_path, PredictConfig())

    with pytest.raises(ArtifactError, match="Run TrainStudent"):
        predict()
    (tmp_path / store.METADATA).write_text("{}")
    with pytest.raises(ArtifactError, match=r"config\.yaml"):
        predict()
    (tmp_path / artifact.CONFIG).write_bytes((finished / artifact.CONFIG).read_bytes())
    (tmp_path / artifact.MODEL).write_bytes((finished / artifact.MODEL).read_bytes()[:999])
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        predict()
    (tmp_path / artifact.CONFIG).write_text("network: {preset: tiny}\n")
    (tmp_path / artifact.MODEL).write_bytes((finished / artifact.MODEL).read_bytes())
    with pytest.raises(ArtifactError, match="config of these weights"):
        predict()


def test_tokens_of_another_teacher_are_refused(finished: Path) -> None:
    training = tiny_training_scene(token_dim=6)
    with pytest.raises(UserError, match="length 6"):
        predict_masks.run(training.scene, training.labels, finished, PredictConfig())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_said(finished: Path) -> None:
    training = tiny_training_scene()
    with pytest.raises(UserError, match="no CUDA"):
        predict_masks.run(training.scene, training.labels, finished, PredictConfig(), "cuda")


def test_tiny_scene_has_one_superpoint_an_object() -> None:
    assert set(make_tiny_scene()[0].superpoint_ids) == {0, 1, 2, 3}


def test_presence_empties_masks_of_unsure_queries(finished: Path) -> None:
    training = tiny_training_scene()
    for presence, expected in ((0.0, True), (1.0, False)):
        cfg = PredictConfig(presence=presence)
        predictions = predict_masks.run(training.scene, training.labels, finished, cfg)
        assert predictions.masks[:4].any(1).tolist() == [expected] * 4
        assert not predictions.masks[4].any()


def test_more_turns_are_averaged_and_repeatable(finished: Path) -> None:
    training = tiny_training_scene()
    one, three, again = (
        predict_masks.run(training.scene, training.labels, finished, PredictConfig(turns=turns))
        for turns in (1, 3, 3)
    )
    assert np.array_equal(three.probs, again.probs) and not np.array_equal(one.probs, three.probs)


def test_no_queries_give_no_masks(finished: Path) -> None:
    training = tiny_training_scene()
    none = only_queries(training.labels, np.zeros(0, int))
    predictions = predict_masks.run(training.scene, none, finished, PredictConfig())
    assert predictions.masks.shape == predictions.probs.shape == (0, len(training.scene.cloud))
    assert predictions.together.shape == predictions.probs.shape
    assert predictions.presences.shape == predictions.qualities.shape == (0, 3)
