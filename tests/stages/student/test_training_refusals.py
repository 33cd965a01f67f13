"""What training refuses, and how it says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.artifacts import student as artifact
from data.errors import ArtifactError, UserError
from models import student
from stages.student import train_student
from tests.support.worlds.tiny_training import tiny_training_scene
from tests.support.worlds.training_runs import CFG, shallow, train


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """Training is of a network of one level."""
    with shallow():
        yield


@pytest.mark.parametrize("damage", ["no labels", "no token", "no scene"])
def test_nothing_to_learn_from_is_refused(tmp_path: Path, damage: str) -> None:
    training = tiny_training_scene()
    labels = training.labels
    if damage == "no labels":
        labels = replace(labels, confidence=np.zeros_like(labels.confidence))
    if damage == "no token":
        labels = replace(labels, query_tokens=np.zeros_like(labels.query_tokens))
    scenes = [] if damage == "no scene" else [replace(training, labels=labels)]
    with pytest.raises(
        UserError, match="no scene" if damage == "no scene" else "a token and a label"
    ):
        train_student.run(scenes, CFG, tmp_path)


def test_tokens_of_two_lengths_are_refused(tmp_path: Path) -> None:
    scenes = [tiny_training_scene(), tiny_training_scene("00000000bb", token_dim=6)]
    with pytest.raises(UserError, match=r"\[6, 8\]"):
        train_student.run(scenes, CFG, tmp_path)


def test_a_loss_that_is_not_finite_ends_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice, calls = student.dice, []

    def breaks(*arguments: Any) -> Any:
        calls.append(1)
        return dice(*arguments) * (float("nan") if len(calls) > 4 else 1)

    monkeypatch.setattr(student, "dice", breaks)
    with pytest.raises(UserError, match="epoch 2.*student.lr"):
        train(tmp_path / "a")
    state = artifact.read_state(tmp_path / "a")
    assert state is not None and len(state["log"]) == 1
    assert all(torch.isfinite(value).all() for value in state["model"].values())


def test_foreign_or_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    train(tmp_path, CFG.model_copy(update={"epochs": 1}))
    state = (tmp_path / artifact.STATE).read_bytes()
    with pytest.raises(ArtifactError, match="another run"):
        train(tmp_path, CFG.model_copy(update={"lr": 0.5}))
    (tmp_path / artifact.STATE).write_bytes(state[: len(state) // 2])
    with pytest.raises(ArtifactError, match=r"state\.pt"):
        train(tmp_path, CFG.model_copy(update={"epochs": 1}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_missing_cuda_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no CUDA"):
        train(tmp_path / "a", device="cuda")


def test_the_wrong_wheel_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ImportError("The CPU-only wheel 'spconv' is installed")

    monkeypatch.setattr("models.sparse.layers.load_spconv", refuse)
    with pytest.raises(UserError, match="CPU-only wheel"):
        train(tmp_path / "a")
