"""Queries that relate things, resolved in labels and predictions of a room of boxes."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from data.artifacts.evaluation import SOURCES
from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.queries.prompts import ATOM_TASK
from data.queries.relation_trees import Phrase, atom_prompts
from data.types import Array, Prompt
from stages.relations.by_labels import Related, relate_labels, relate_predictions
from stages.relations.parse import parse
from tests.support.worlds.boxes import BoxRoom

ROOM = BoxRoom(
    {
        "lamp": [(0.5, 0.5, 0.5, 0.3, 0.3, 0.4), (4.0, 3.0, 0.7, 0.3, 0.3, 0.4)],
        "desk": [(3.6, 2.8, 0, 1.0, 0.9, 0.7)],
        "shelf": [(0.3, 0.3, 0, 0.6, 0.6, 0.5)],
    }
)
TEXTS = ("the lamp on the desk", "the lamp", "the unicorn on the desk", "the desk")
IDS = ("q0", "q1", "q2", "atom0")
LAMPS, DESK = ROOM.superpoints["lamp"], ROOM.superpoints["desk"]


def related() -> Related:
    prompts = [Prompt(name, "boxes", text, "t") for name, text in zip(IDS, TEXTS, strict=True)]
    trees = {name: parse(text) for name, text in zip(IDS, TEXTS, strict=True)}
    return Related.of(IDS, prompts, {key: tree for key, tree in trees.items() if tree})


def on_points(rows: list[list[int]], value: float) -> Array:
    """Values (Q, N) that are ``value`` at the points of each row's superpoints, else 0."""
    ids = ROOM.scene.superpoint_ids
    return np.stack([value * np.isin(ids, row) for row in rows]).astype(np.float32)


def labels() -> PseudoLabels:
    """The sentence is answered by the desk, as teachers do; "the lamp" by both lamps."""
    soft = on_points([DESK, LAMPS, LAMPS, DESK], 0.8)
    ones, views = np.ones((4, 1), np.float32), np.ones((4, 1, 2), np.float32)
    evidence = np.tile(np.array([[0.5, 3, 2]], np.float32), (4, 1))
    evidence[1] = 0.5, 9, 8
    thresholds = np.array([0.5, 0.4, 0.5, 0.5], np.float32)
    tokens = np.eye(4, 2, dtype=np.float32)
    reasons = (("",),) * 4
    confidence = np.tile(np.array([[0.1], [0.9], [0.1], [0.1]], np.float32), soft.shape[1])
    return PseudoLabels(
        *("boxes", IDS, ("v",), soft, confidence, ones, reasons),
        *(tokens, thresholds, views, ones, evidence),
    )


def test_only_trees_with_all_their_phrases_are_kept() -> None:
    found = related()
    assert list(found.trees) == [0] and found.row_of("lamp") == 1 and found.row_of("desk") == 3


def test_a_resolved_label_is_that_of_the_chosen_thing() -> None:
    given, found = labels(), labels()
    relate_labels(found, related(), ROOM.scene)
    lamp = np.isin(ROOM.scene.superpoint_ids, LAMPS[1])
    assert np.array_equal(found.answers()[0], lamp)
    assert found.soft[0][lamp] == pytest.approx(0.8) and found.thresholds[0] == np.float32(0.4)
    assert np.array_equal(found.confidence[0], given.confidence[1])
    assert found.evidence[0].tolist() == given.evidence[1].tolist()
    assert np.array_equal(found.query_tokens[0], given.query_tokens[0])
    for row in (1, 2, 3):  # The others stay as they are, the sentence without phrases, too.
        assert np.array_equal(found.soft[row], given.soft[row])


def test_a_sentence_that_no_view_answers_takes_the_tokens_of_its_phrase() -> None:
    given = labels()
    tokens = given.query_tokens.copy()
    tokens[0] = 0
    found = replace(labels(), query_tokens=tokens)
    relate_labels(found, related(), ROOM.scene)
    assert np.array_equal(found.query_tokens[0], given.query_tokens[1])


def test_a_phrase_without_answer_leaves_the_sentence_alone() -> None:
    given = labels()
    limits = given.thresholds.copy()
    limits[3] = 2  # No desk in this room.
    found = replace(labels(), thresholds=limits)
    relate_labels(found, related(), ROOM.scene)
    assert np.array_equal(found.soft, given.soft)


def test_answers_of_student_and_both_are_resolved_each_by_its_own_masks() -> None:
    """The student finds no desk, so its own answer stands; together there is one."""
    own, both = ([DESK, LAMPS, LAMPS, []], [DESK, LAMPS, LAMPS, DESK])
    masks, together = on_points(own, 1) > 0, on_points(both, 1) > 0
    sure = np.tile(np.array([[0.2], [0.6], [0.2], [0.2]], np.float32), len(SOURCES))
    given = ("boxes", IDS, on_points(own, 0.7), masks, together, sure, sure)
    found = Predictions(*copy.deepcopy(given))
    relate_predictions(found, labels(), related(), ROOM.scene)
    lamp = np.isin(ROOM.scene.superpoint_ids, LAMPS[1])
    assert np.array_equal(found.together[0], lamp) and np.array_equal(found.masks[0], masks[0])
    assert found.presence("together")[0] == found.presence("fusion_only")[0] == np.float32(0.6)
    assert found.presence("student")[0] == np.float32(0.2)
    assert 0.3 <= found.quality("together")[0] <= 0.6
    found = Predictions(
        *copy.deepcopy(("boxes", IDS, on_points(both, 0.7), together, together)), *given[5:]
    )
    relate_predictions(found, labels(), related(), ROOM.scene)
    assert np.array_equal(found.masks[0], lamp)
    assert np.array_equal(found.probs[0] >= 0.7 - 1e-6, lamp)
    assert np.array_equal(found.masks[1:], together[1:])


def test_phrases_that_are_asked_already_are_asked_once() -> None:
    trees = [tree for tree in map(parse, TEXTS) if tree is not None]
    prompts = atom_prompts(trees, "boxes", {"the lamp"})
    assert [prompt.text for prompt in prompts] == ["the desk", "the unicorn"]
    assert [prompt.prompt_id for prompt in prompts] == ["boxes_atom_000", "boxes_atom_001"]
    assert {prompt.task for prompt in prompts} == {ATOM_TASK}
    assert atom_prompts([Phrase(head="lamp")], "boxes", {"the lamp"}) == []


def test_labels_without_some_queries_keep_the_others() -> None:
    given = labels()
    found = given.without({"q0", "q2", "nobody"})
    assert found.prompt_ids == ("q1", "atom0")
    assert np.array_equal(found.soft, given.soft[[1, 3]])
    assert np.array_equal(found.evidence, given.evidence[[1, 3]])
