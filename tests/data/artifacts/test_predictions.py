"""Predictions on disk, and those of some prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.artifacts import store
from data.artifacts.soft_masks import Predictions, read_predictions, write_predictions
from data.errors import ArtifactError


def test_predictions_artifact_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((3, 13)).astype(np.float32)
    for rows in (probs, probs[:0]):
        names = tuple(f"p{i}" for i in range(len(rows)))
        scores = np.stack([rows.max(1, initial=0), rows.min(1, initial=1)], axis=1)
        written = Predictions("scène", names, rows, rows > 0.4, rows > 0.7, scores)
        write_predictions(tmp_path, written)
        (tmp_path / store.METADATA).write_text("{}")
        read = read_predictions(tmp_path)
        assert read.scene_id == "scène" and read.prompt_ids == names
        assert np.array_equal(read.masks, written.masks)
        assert np.array_equal(read.together, written.together)
        assert np.array_equal(read.scores, written.scores)
        assert np.allclose(read.probs, rows, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ArtifactError, match="Run PredictMasks again"):
        read_predictions(tmp_path / "nowhere")


def test_ill_fitting_predictions_are_refused() -> None:
    probs = np.random.default_rng(0).random((3, 13)).astype(np.float32)
    masks, scores = probs > 0.4, probs[:, :2]
    with pytest.raises(ValueError, match="probs must be"):
        Predictions("s", ("a",), probs, masks, masks, scores)
    names = ("a", "b", "c")
    for together, three in ((masks[:, :5], scores), (masks, probs[:, :3])):
        with pytest.raises(ValueError, match="probs, masks, together"):
            Predictions("s", names, probs, masks, together, three)


def test_predictions_of_some_prompts() -> None:
    probs = np.random.default_rng(0).random((3, 13)).astype(np.float32)
    masks, scores = probs > 0.4, probs[:, :2]
    names = ("a", "b", "c")
    whole = Predictions("s", names, probs, masks, ~masks, scores)
    some = whole.only(["c", "a"])
    assert np.array_equal(some.probs, probs[[2, 0]]) and np.array_equal(some.masks, masks[[2, 0]])
    assert np.array_equal(some.together, ~masks[[2, 0]]) and some.prompt_ids == ("c", "a")
    assert some.score("student").tolist() == scores[[2, 0], 0].tolist()
    assert some.score("together").tolist() == scores[[2, 0], 1].tolist()
    assert whole.only([]).probs.shape == (0, 13)
    with pytest.raises(ValueError, match="x"):
        whole.only(["x"])
