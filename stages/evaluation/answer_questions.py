"""Stage ``answer_questions``: one answer in words from many views, scored against right answers.

Exact match and token F1 are those of SQuAD (Rajpurkar et al., 2016): lower case, no punctuation,
no articles; F1 is over words with their counts, the largest over all right answers.

Where a mask was found in 3D, the views that fusion kept count with their weights; elsewhere all
views on which the teacher answered count equally. The answer is that of the view with the largest
weighted mean of token F1 to all views (minimum Bayes risk decoding), so similar wordings support
each other. The choice of the answer reads no label.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.artifacts.answers import AnswerInWords
from data.artifacts.evaluation import QueryRow
from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.artifacts.teacher import FAILED, TeacherCache
from data.types import Array, Prompt, PromptTruth

NOTHING = "none"
"""The answer where nothing is found."""

_MARKERS = re.compile(r"\[SEG\]|<seg>|</?s>", re.I)
_LEAD = re.compile(r"^(?:sure|yes|certainly|of course|okay)\b[\s,.:;!]*", re.I)
_COPULA = re.compile(r"^(?:it is|it's|this is|that is|they are|these are|the answer is)\b\s*", re.I)
_ABSENT = re.compile(
    r"\b(?:not in (?:this|the) (?:view|image|picture|room)|there (?:is|are) no\b|not visible"
    r"|(?:cannot|can't|could not) (?:be seen|see)\b)",
    re.I,
)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_EDGES = string.whitespace + string.punctuation


def answer_phrase(text: str) -> str:
    """Extract the answer from a sentence: "the red chair" of "Sure, it is the red chair, [SEG].".

    A sentence that says that the object is not in view gives ``NOTHING``. A sentence that is only
    a mask, such as "Sure, [SEG].", gives "".
    """
    bare = _MARKERS.sub(" ", text)
    if _ABSENT.search(bare):
        return NOTHING
    bare = _LEAD.sub("", bare.strip(_EDGES))
    bare = _COPULA.sub("", bare.strip(_EDGES))
    return " ".join(bare.strip(_EDGES).split())


def words(text: str) -> list[str]:
    """Split a text into lower-case words without punctuation and articles."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Tell whether an answer has the same words, in order, as any right answer."""
    return any(words(answer) == words(right_answer) for right_answer in right)


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Return the largest F1 of words with any right answer; two answers without words have F1 1."""
    return max((_f1(words(answer), words(right_answer)) for right_answer in right), default=0.0)


def _f1(first: Sequence[str], second: Sequence[str]) -> float:
    if not first or not second:
        return float(not first and not second)
    shared = sum((Counter(first) & Counter(second)).values())
    return 2 * shared / (len(first) + len(second))


AGREES = 0.5
"""Token F1 from which a view's answer counts as the same answer."""


def run(
    prompts: Sequence[Prompt], cache: TeacherCache, labels: PseudoLabels, predictions: Predictions
) -> list[AnswerInWords]:
    """Return one answer for each of a scene's prompts.

    ``predictions`` are the masks of student and labels together. Raises ValueError for a prompt
    that the teacher was not asked.
    """
    rows = [cache.prompt_ids.index(prompt.prompt_id) for prompt in prompts]
    masks = predictions.only([prompt.prompt_id for prompt in prompts]).together
    answers = []
    for prompt, row, mask in zip(prompts, rows, masks, strict=True):
        num_points = int(np.count_nonzero(mask))
        weights = _weights(cache, labels, row, num_points > 0)
        answers.append(_choose_answer(prompt.prompt_id, cache, row, weights, num_points))
    return answers


def _weights(cache: TeacherCache, labels: PseudoLabels, row: int, is_found: bool) -> Array:
    """Return the weight of each view's words, (V,)."""
    kept = labels.view_weights[labels.prompt_ids.index(cache.prompt_ids[row])]
    if is_found and kept.sum() > 0:
        return np.asarray(kept)
    return np.asarray(cache.status[:, row] != FAILED, np.float32)


def _choose_answer(
    prompt_id: str, cache: TeacherCache, row: int, weights: Array, num_points: int
) -> AnswerInWords:
    views_used = [
        view for view in np.argsort(-weights, kind="stable").tolist() if weights[view] > 0
    ]
    phrases = {view: answer_phrase(cache.answers[view][row]) for view in views_used}
    distinct = list(dict.fromkeys(phrases.values()))
    support = {
        phrase: float(sum(weights[view] for view in views_used if phrases[view] == phrase))
        for phrase in distinct
    }
    agreement = {
        phrase: sum(support[other] * token_f1(phrase, [other]) for other in distinct)
        for phrase in distinct
    }
    answer = max(distinct, key=lambda phrase: (agreement[phrase], support[phrase]), default=NOTHING)
    agreeing = [view for view in views_used if token_f1(phrases[view], [answer]) >= AGREES]
    total = sum(support.values())
    share = float(sum(weights[view] for view in agreeing)) / total if total else 0.0
    views = tuple(cache.view_ids[view] for view in agreeing)
    return AnswerInWords(prompt_id, answer, round(share, 4), views, num_points)


@dataclass(frozen=True)
class QuestionResult:
    """``rows`` with their answers; ``metrics`` is the section ``qa``, None without a question."""

    rows: tuple[QueryRow, ...]
    metrics: Mapping[str, Any] | None


def run_scores(
    rows: Sequence[QueryRow],
    answers: Mapping[str, AnswerInWords],
    truths: Mapping[str, PromptTruth],
) -> QuestionResult:
    """Score the answers of all queries whose truth has right answers in words.

    ``answers`` and ``truths`` are by prompt id; a question without an answer counts as wrong.
    """
    answered = [
        _with_answer(row, answers.get(row.prompt_id), truths[row.prompt_id].answers) for row in rows
    ]
    questions = [row for row in answered if row.right]
    if not questions:
        return QuestionResult(tuple(answered), None)
    groups = {
        "answerable": [row for row in questions if row.target_count != "zero"],
        "unanswerable": [row for row in questions if row.target_count == "zero"],
    }
    return QuestionResult(
        tuple(answered),
        {**_metrics(questions), **{name: _metrics(group) for name, group in groups.items()}},
    )


def _with_answer(row: QueryRow, answer: AnswerInWords | None, right: tuple[str, ...]) -> QueryRow:
    if answer is None:
        return replace(row, right=right)
    return replace(row, answer=answer.answer, answer_views=answer.view_ids, right=right)


def _metrics(rows: Sequence[QueryRow]) -> dict[str, Any]:
    """Average over questions, as fractions; None for no question."""
    count = len(rows)
    matches = sum(exact_match(row.answer, row.right) for row in rows)
    overlap = sum(token_f1(row.answer, row.right) for row in rows)
    return {
        "num_questions": count,
        "exact_match": matches / count if count else None,
        "token_f1": overlap / count if count else None,
    }
