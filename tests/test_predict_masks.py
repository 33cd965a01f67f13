"""Prediction: the loop from training to masks, empty queries, smoothing, files it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.artifacts import store
from data.artifacts import student as artifact
from data.artifacts.predictions import Predictions, read_predictions, write_predictions
from data.errors import ArtifactError, UserError
from stages import predict_masks, train_student
from stages.configs import AugmentConfig, LossConfig, PredictConfig, StudentConfig
from tests.test_batches import tiny_training_scene
from tests.tiny_scene import make_tiny_scene

CFG = StudentConfig(preset="tiny", voxel_size=0.2, feature_dim=8, epochs=1, batch_scenes=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("student")
    train_student.run([tiny_training_scene()], CFG, folder)
    (folder / store.METADATA).write_text("{}")
    return folder


def test_learns_the_tiny_room_and_predicts_its_objects(tmp_path: Path) -> None:
    cfg = CFG.model_copy(
        update={
            "epochs": 30, "lr": 0.03, "batch_scenes": 1, "feature_dim": 16, "voxel_size": 0.13,
            "queries_per_scene": 4, "augment": AugmentConfig(mirror=False),
            "loss": LossConfig(absent=0.0),
        }
    )  # fmt: skip
    training = tiny_training_scene()
    train_student.run([training], cfg, tmp_path)
    (tmp_path / store.METADATA).write_text("{}")
    predictions = predict_masks.run(
        training.scene, training.labels, tmp_path, PredictConfig(superpoints=False)
    )
    truth = training.labels.soft > 0.5
    overlap = (predictions.masks & truth).sum(1)[:4] / (predictions.masks | truth).sum(1)[:4]
    assert (overlap > 0.7).all(), overlap
    assert not predictions.masks[4].any() and not predictions.probs[4].any()


def test_predictions_hold_their_shapes_and_smooth(finished: Path, tmp_path: Path) -> None:
    training = tiny_training_scene()
    plain, smooth, everything = (
        predict_masks.run(training.scene, training.labels, finished, cfg)
        for cfg in (
            PredictConfig(superpoints=False, adaptive=False, turns=1),
            PredictConfig(superpoints=True, adaptive=False, turns=1),
            PredictConfig(threshold=0.0, adaptive=False),
        )
    )
    assert plain.probs.shape == (5, len(training.scene.cloud))
    assert plain.prompt_ids == training.labels.prompt_ids
    assert np.array_equal(plain.masks, plain.probs >= 0.5)
    for superpoint in range(4):
        inside = training.scene.superpoint_ids == superpoint
        assert np.ptp(smooth.probs[:, inside], axis=1).max() == 0
        means = plain.probs[:, inside].mean(1)
        assert np.allclose(smooth.probs[:, inside][:, 0], means, atol=1e-5)
    assert everything.masks[:4].all() and not everything.masks[4].any()


def test_prediction_needs_no_labels(finished: Path) -> None:
    training = tiny_training_scene()
    blind = replace(
        training.labels,
        soft=np.zeros_like(training.labels.soft),
        confidence=np.zeros_like(training.labels.confidence),
    )
    a = predict_masks.run(training.scene, training.labels, finished, PredictConfig())
    b = predict_masks.run(training.scene, blind, finished, PredictConfig())
    assert np.array_equal(a.probs, b.probs)


def test_predictions_artifact_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((3, 13)).astype(np.float32)
    for rows in (probs, probs[:0]):
        names = tuple(f"p{i}" for i in range(len(rows)))
        written = Predictions("scène", names, rows, rows > 0.4)
        write_predictions(tmp_path, written)
        (tmp_path / store.METADATA).write_text("{}")
        read = read_predictions(tmp_path)
        assert read.scene_id == "scène" and read.prompt_ids == names
        assert np.array_equal(read.masks, written.masks)
        assert np.allclose(read.probs, rows, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ValueError, match="probs must be"):
        Predictions("s", ("a",), probs, probs > 0.4)
    with pytest.raises(ArtifactError, match="Run PredictMasks again"):
        read_predictions(tmp_path / "nowhere")


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


def test_smoothing_by_hand() -> None:
    probs = np.array([[0.0, 1.0, 0.5]], np.float32)
    assert predict_masks.smooth(probs, np.array([0, 0, 1])).tolist() == [[0.5, 0.5, 0.5]]
    assert predict_masks.smooth(probs[:0], np.array([0, 0, 1])).shape == (0, 3)


def test_tiny_scene_has_one_superpoint_an_object() -> None:
    assert set(make_tiny_scene()[0].superpoint_ids) == {0, 1, 2, 3}


def test_best_threshold_by_hand_and_by_trying_all() -> None:
    # One point: 2 * 0.6 / (1 + 0.8) = 0.67; two: 2 * 0.8 / (2 + 0.8) = 0.57.
    assert predict_masks.best_threshold(np.array([0.2, 0.6, 0.0])) == 0.6
    assert predict_masks.best_threshold(np.array([0.3, 0.4, 0.35])) == 0.3
    probs = np.random.default_rng(0).random(50) ** 3
    overlap = {t: 2 * probs[probs >= t].sum() / ((probs >= t).sum() + probs.sum()) for t in probs}
    assert predict_masks.best_threshold(probs) == max(overlap, key=lambda t: overlap[t])


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
    labels = training.labels
    none = replace(
        labels,
        prompt_ids=(),
        drop_reasons=(),
        **{
            name: getattr(labels, name)[:0]
            for name in ("soft", "confidence", "view_weights", "query_tokens")
        },
    )
    predictions = predict_masks.run(training.scene, none, finished, PredictConfig())
    assert predictions.masks.shape == predictions.probs.shape == (0, len(training.scene.cloud))
