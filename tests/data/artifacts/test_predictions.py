"""Predictions on disk, and those of some prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.artifacts import store
from data.artifacts.evaluation import SOURCES
from data.artifacts.soft_masks import (
    Predictions,
    StudentTrust,
    read_predictions,
    write_predictions,
)
from data.errors import ArtifactError


def test_predictions_artifact_round_trip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((3, 13)).astype(np.float32)
    for rows in (probs, probs[:0]):
        names = tuple(f"p{i}" for i in range(len(rows)))
        presences, qualities = rows[:, :3], rows[:, 3:6]
        trust = StudentTrust(0.75, 0.25) if len(rows) else None
        given = names, rows, rows > 0.4, rows > 0.7, presences, qualities
        written = Predictions("scène", *given, trust)
        write_predictions(tmp_path, written)
        (tmp_path / store.METADATA).write_text("{}")
        read = read_predictions(tmp_path)
        assert read.scene_id == "scène" and read.prompt_ids == names and read.trust == trust
        assert np.array_equal(read.masks, written.masks)
        assert np.array_equal(read.together, written.together)
        assert np.array_equal(read.presences, written.presences)
        assert np.array_equal(read.qualities, written.qualities)
        assert np.allclose(read.probs, rows, atol=0.5 / 255 + 1e-6)
    with pytest.raises(ArtifactError, match="Run PredictMasks again"):
        read_predictions(tmp_path / "nowhere")


def test_ill_fitting_predictions_are_refused() -> None:
    probs = np.random.default_rng(0).random((3, 13)).astype(np.float32)
    masks, sure = probs > 0.4, probs[:, :3]
    with pytest.raises(ValueError, match="probs must be"):
        Predictions("s", ("a",), probs, masks, masks, sure, sure)
    names = ("a", "b", "c")
    with pytest.raises(ValueError, match="probs, masks, together"):
        Predictions("s", names, probs, masks, masks[:, :5], sure, sure)
    for presences, qualities in ((probs[:, :2], sure), (sure, probs[:, :2])):
        with pytest.raises(ValueError, match="are of 3 sources"):
            Predictions("s", names, probs, masks, masks, presences, qualities)


def test_predictions_of_some_prompts() -> None:
    probs = np.random.default_rng(0).random((3, 13)).astype(np.float32)
    masks, presences, qualities = probs > 0.4, probs[:, :3], probs[:, 3:6]
    names = ("a", "b", "c")
    whole = Predictions("s", names, probs, masks, ~masks, presences, qualities)
    some = whole.only(["c", "a"])
    assert np.array_equal(some.probs, probs[[2, 0]]) and np.array_equal(some.masks, masks[[2, 0]])
    assert np.array_equal(some.together, ~masks[[2, 0]]) and some.prompt_ids == ("c", "a")
    for column, source in enumerate(SOURCES):
        assert some.presence(source).tolist() == presences[[2, 0], column].tolist()
        assert some.quality(source).tolist() == qualities[[2, 0], column].tolist()
    assert whole.only([]).probs.shape == (0, 13)
    with pytest.raises(ValueError, match="x"):
        whole.only(["x"])
