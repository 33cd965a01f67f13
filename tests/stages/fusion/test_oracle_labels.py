"""Ground truth in the shape of soft labels: masks of queries and of the bank's categories."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from data.artifacts.soft_masks import PseudoLabels
from data.errors import DataError
from data.queries.prompts import BANK_TASK
from data.types import GroundTruth, Prompt, PromptTruth
from stages.fusion import oracle_labels

SCENE = "s"
# Ten points; two chairs, of which the second shares point 4 with the table; point 9 is no object.
TRUTH = GroundTruth(
    (3, 5, 8),
    ("chair", "chair", "table"),
    np.array([0, 1, 4, 5, 4, 6, 7], np.int32),
    np.array([0, 2, 4, 7]),
    10,
)
PROMPTS = [
    Prompt("q0", SCENE, "the seat by the window", "referring"),
    Prompt("q1", SCENE, "all of it", "multiple"),
    Prompt("q2", SCENE, "the toilet", "absent"),
    Prompt("b0", SCENE, "the chair", BANK_TASK),
    Prompt("b1", SCENE, "the sofa", BANK_TASK),
    Prompt("q3", SCENE, "the chair", "referring"),
]
TRUTHS = {
    "q0": PromptTruth("q0", (5,), "chair"),
    "q1": PromptTruth("q1", (8, 3), "furniture"),
    "q2": PromptTruth("q2", (), "toilet"),
    "q3": PromptTruth("q3", (3,), "chair"),
}
POINTS = {"q0": [4, 5], "q1": [0, 1, 4, 6, 7], "q2": [], "b0": [0, 1, 4, 5], "b1": [], "q3": [0, 1]}


def make_labels(*prompt_ids: str) -> PseudoLabels:
    """Fusion's wrong labels of some prompts."""
    rng, count = np.random.default_rng(0), len(prompt_ids)
    return PseudoLabels(
        SCENE,
        prompt_ids,
        ("v0", "v1"),
        rng.random((count, 10)).astype(np.float32),
        np.zeros((count, 10), np.float32),
        rng.random((count, 2)).astype(np.float32),
        (("", "dropped"),) * count,
        rng.random((count, 4)).astype(np.float32),
        np.full(count, 2.0, np.float32),
        rng.random((count, 2, 4)).astype(np.float32),
        rng.random((count, 2)).astype(np.float32),
        rng.random((count, 3)).astype(np.float32),
    )


def test_masks_are_true_and_categories_are_all_objects_of_the_name() -> None:
    asked = ("b1", "q3", "q0", "b0", "q2", "q1")  # Found by id, not by place.
    labels = make_labels(*asked)
    made = oracle_labels.run(labels, TRUTH, PROMPTS, TRUTHS)
    for name, row in zip(asked, made.soft, strict=True):
        assert np.flatnonzero(row).tolist() == POINTS[name]
    assert set(np.unique(made.soft)) == {0, 1} and made.soft.dtype == np.float32
    assert (made.confidence == 1).all() and (made.thresholds == 0.5).all()
    answers = [np.flatnonzero(row).tolist() for row in made.answers()]
    assert answers == [POINTS[name] for name in asked]
    for name in ("query_tokens", "view_tokens", "view_weights", "view_confidences"):
        assert np.array_equal(getattr(made, name), getattr(labels, name))
    assert made.drop_reasons == labels.drop_reasons and made.prompt_ids == asked


def test_no_queries_stay_none() -> None:
    made = oracle_labels.run(make_labels(), TRUTH, PROMPTS, TRUTHS)
    assert made.soft.shape == made.confidence.shape == (0, 10)


@pytest.mark.parametrize("damage", ["no truth", "unknown object", "other scene"])
def test_truth_that_does_not_fit_is_refused(damage: str) -> None:
    prompts, truths = list(PROMPTS), dict(TRUTHS)
    if damage == "no truth":
        del truths["q0"]
    if damage == "unknown object":
        truths["q0"] = PromptTruth("q0", (5, 77), "chair")
    if damage == "other scene":
        prompts[0] = replace(prompts[0], scene_id="t")
    with pytest.raises(DataError, match="77" if damage == "unknown object" else "q0"):
        oracle_labels.run(make_labels("q0"), TRUTH, prompts, truths)


def test_a_category_needs_no_truth_and_hides_no_query_of_the_same_words() -> None:
    made = oracle_labels.run(make_labels("b0", "q3"), TRUTH, PROMPTS, {"q3": TRUTHS["q3"]})
    assert [np.flatnonzero(row).tolist() for row in made.soft] == [POINTS["b0"], POINTS["q3"]]
