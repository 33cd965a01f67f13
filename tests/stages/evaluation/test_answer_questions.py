"""One answer of many views, by hand: who is heard, which answer wins, and what backs it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from data.artifacts.answers import AnswerInWords, read_answers, write_answers
from data.artifacts.evaluation import SOURCES, QueryRow, Score, TargetCount
from data.artifacts.soft_masks import Predictions
from data.artifacts.teacher import FAILED, MASK, NO_SEG
from data.errors import ArtifactError
from data.types import Prompt, PromptTruth
from stages.evaluation import answer_questions

PROMPTS = [Prompt("q0", "s", "what is red?", "qa"), Prompt("q1", "s", "where is the oven?", "qa")]
CHAIR, CUP = "It is the red chair, [SEG].", "It is the red cup, [SEG]."
SEAT, AWAY = "It is a chair, [SEG].", "It is the oven, not in this view."


def asked(
    texts: list[str], weights: list[float], status: list[int], points: int = 3
) -> AnswerInWords:
    """The answer to q1, asked second in the cache and first in the labels, on some views."""
    views = tuple(f"v{k}" for k in range(len(texts)))
    rows = np.array(status, np.uint8)[:, None].repeat(2, 1)
    cache: Any = SimpleNamespace(
        prompt_ids=("q0", "q1"),
        view_ids=views,
        status=rows,
        answers=tuple(("", text) for text in texts),
    )
    labels: Any = SimpleNamespace(
        prompt_ids=("q1", "q0"), view_weights=np.array([weights, [0.0] * len(texts)], np.float32)
    )
    masks = np.zeros((2, 5), bool)
    masks[1, :points] = True
    probs, sure = np.zeros((2, 5), np.float32), np.zeros((2, 3), np.float32)
    found = Predictions("s", ("q0", "q1"), probs, ~masks, masks, sure, sure)
    (said,) = answer_questions.run(PROMPTS[1:], cache, labels, found)
    return said


def test_views_that_were_kept_are_heard_by_their_weight() -> None:
    said = asked([CHAIR, CUP, CUP, AWAY], [0.6, 0.2, 0.2, 0.0], [MASK, MASK, MASK, NO_SEG])
    # The words "red chair": 0.6 * 1 + 0.4 * 1/2 = 0.8; "red cup": 0.4 * 1 + 0.6 * 1/2 = 0.7. All
    # three share "red", so with half of the words in common each backs the answer.
    assert said == AnswerInWords("q1", "the red chair", 1.0, ("v0", "v1", "v2"), 3)


def test_answers_in_other_words_help_each_other() -> None:
    texts = [CUP, CHAIR, SEAT]
    said = asked(texts, [0.4, 0.3, 0.3], [MASK] * 3)
    # "red chair" shares a word with either: 0.3 + 0.4 * 1/2 + 0.3 * 2/3 = 0.7, "red cup" has
    # 0.4 + 0.3 * 1/2 = 0.55, "chair" 0.3 + 0.3 * 2/3 = 0.5.
    assert said.answer == "the red chair" and said.share == 1
    assert said.view_ids == ("v0", "v1", "v2")


def test_where_nothing_was_found_all_views_are_heard_alike() -> None:
    texts = [CHAIR, AWAY, AWAY, "RuntimeError: broken"]
    status = [MASK, NO_SEG, NO_SEG, FAILED]
    said = asked(texts, [1.0, 0.0, 0.0, 0.0], status, points=0)
    assert said == AnswerInWords("q1", "none", round(2 / 3, 4), ("v1", "v2"), 0)
    assert asked(texts, [0.0] * 4, status, points=2).answer == "none"
    assert asked(["broken"], [0.0], [FAILED], points=0) == AnswerInWords("q1", "none", 0.0, (), 0)


def test_a_prompt_the_teacher_was_not_asked_is_refused() -> None:
    cache: Any = SimpleNamespace(prompt_ids=("q0",))
    with pytest.raises(ValueError, match="q1|not in"):
        answer_questions.run(PROMPTS[1:], cache, cache, cache)


def row(prompt_id: str, targets: TargetCount) -> QueryRow:
    scores = dict.fromkeys(SOURCES, Score(0, 1, 0.0, 0, False))
    return QueryRow(prompt_id, "s", "text", "qa", targets, 0, scores)


def test_exact_match_and_f1_are_means_over_the_questions() -> None:
    rows = [row("a", "single"), row("b", "single"), row("c", "zero"), row("d", "single")]
    rows.append(row("e", "single"))
    right = {"a": ("chair",), "b": ("lamp", "light"), "c": ("none",), "d": (), "e": ("sofa",)}
    truths = {key: PromptTruth(key, (), "", answers) for key, answers in right.items()}
    words = {"a": "the red chair", "b": "a light", "c": "none", "d": "the door"}
    said = {key: AnswerInWords(key, text, 1.0, ("v0",), 1) for key, text in words.items()}
    result = answer_questions.run_scores(rows, said, truths)
    # a: one of 2 + 1 words shared; b and c right; d is no question; e was not answered.
    assert result.metrics == {
        "num_questions": 4,
        "exact_match": 2 / 4,
        "token_f1": pytest.approx((2 / 3 + 1 + 1 + 0) / 4),
        "answerable": {
            "num_questions": 3,
            "exact_match": 1 / 3,
            "token_f1": pytest.approx((2 / 3 + 1) / 3),
        },
        "unanswerable": {"num_questions": 1, "exact_match": 1.0, "token_f1": 1.0},
    }
    assert (result.rows[0].answer, result.rows[0].answer_views) == ("the red chair", ("v0",))
    assert result.rows[3].answer == "the door" and result.rows[4].answer == ""
    assert answer_questions.run_scores(rows[3:4], said, truths).metrics is None


def test_answers_are_read_back_and_damage_is_named(tmp_path: Path) -> None:
    answers = [
        AnswerInWords("a", "der rote Stuhl \u2603", 0.5, ("v1", "v0"), 7),
        AnswerInWords("b", "", 0.0, (), 0),
    ]
    write_answers(tmp_path, answers)
    with pytest.raises(ArtifactError, match="finished artifact"):
        read_answers(tmp_path)
    (tmp_path / "metadata.json").write_text("{}")
    assert read_answers(tmp_path) == {"a": answers[0], "b": answers[1]}
    for damage in ("", "[]", '{"answers": [{}]}', '{"answers": [{"prompt_id": 1}]}'):
        (tmp_path / "answers.json").write_text(damage)
        with pytest.raises(ArtifactError, match="answers.json"):
            read_answers(tmp_path)
