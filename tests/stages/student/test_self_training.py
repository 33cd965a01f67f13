"""Mended labels, by hand: what a student that is known makes of four points' labels."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data.types import Array
from stages.network_configs import SelfTrainingConfig
from stages.student import train_student
from stages.student.answering import Answers
from stages.student.train_student import LabelRefiner
from tests.support.worlds.tiny_training import four_points

SCENE = replace(
    four_points(),
    superpoint_ids=np.array([0, 1, 1, 2], np.int32),
    soft=np.array([[0.2, 0.1, 0.9]], np.float32),
    confidence=np.array([[1, 0.5, 0]], np.float32),
    thresholds=np.array([0.2], np.float32),
)
"""Half of twice 0.2 is one half, so labels are levelled to 0.5, 0.25 and (unseen) 1."""


@pytest.fixture
def mend(monkeypatch: pytest.MonkeyPatch) -> Any:
    def mended(probs: list[float], alike: float = 0.0, **cfg: float) -> Any:
        features = np.array([[1, 0], [alike, (1 - alike**2) ** 0.5], [0, 1]], np.float32)
        answers = Answers(np.array([probs], np.float32), features)
        monkeypatch.setattr(train_student, "answer_superpoints", lambda *given: answers)
        tokens = SimpleNamespace(tokens=torch.zeros(1, 8))
        monkeypatch.setattr(train_student, "fuse_views", lambda *given: tokens)
        model: Any = None
        return LabelRefiner(model, 0.1, SelfTrainingConfig(**cfg))(SCENE)

    return mended


def close(found: Array, expected: list[float]) -> None:
    np.testing.assert_allclose(found, [expected], atol=1e-6)


def test_labels_and_answers_meet_in_their_geometric_mean(mend: Any) -> None:
    """Roots of 0.5 * 0.98 and 0.25 * 0.16; the unseen superpoint is the student's, sure to 0.9.

    By root of their points they weigh 1, 1.41 and 1: of 0.95, 0.7, 0.2 the first two have the
    best expected Dice, 2 * 1.65 / (2 + 1.93).
    """
    scene = mend([0.98, 0.16, 0.95], sure=0.8)
    close(scene.soft, [0.7, 0.2, 0.95])
    close(scene.confidence, [1, 0.5, 0.9])
    close(scene.thresholds[None], [0.7])
    assert scene.points is SCENE.points and scene.tokens is SCENE.tokens


def test_parts_of_one_object_are_drawn_together(mend: Any) -> None:
    """The first two touch; their mean by root of size is (0.7 + 1.414 * 0.2) / 2.414 = 0.4071."""
    scene = mend([0.98, 0.16, 0.95], alike=0.9, object_cosine=0.8, object_share=0.5)
    close(scene.soft, [(0.7 + 0.407107) / 2, (0.2 + 0.407107) / 2, 0.95])
    close(scene.thresholds[None], [(0.7 + 0.407107) / 2])
    apart = mend([0.98, 0.16, 0.95], alike=0.7, object_cosine=0.8)
    close(apart.soft, [0.7, 0.2, 0.95])


def test_an_unsure_student_says_nothing_of_what_no_view_saw(mend: Any) -> None:
    close(mend([0.98, 0.16, 0.85], sure=0.8).confidence, [1, 0.5, 0])
    close(mend([0.98, 0.16, 0.03], sure=0.8).confidence, [1, 0.5, 0.94])


def test_queries_of_which_nothing_is_left_have_no_object(mend: Any) -> None:
    assert mend([0.08, 0.16, 0.1], presence=0.25).thresholds[0] > 1
    assert mend([0.08, 0.16, 0.1], presence=0.15).thresholds[0] == pytest.approx(0.2)
