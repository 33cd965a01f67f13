"""Stage ``answer_questions``: one answer from many views, its exact match and token F1.

Exact match and token F1 are those of SQuAD (Rajpurkar et al., 2016): lower case, no punctuation,
no articles; F1 is over words with their counts, the best over all right answers.

Where something was found in 3D, the views that fusion kept have their say, each with its weight;
where nothing was, all views on which the teacher answered have, alike. The answer is that of the
view which agrees most with all of them (largest weighted mean of token F1, as in minimum Bayes
risk decoding), so a view that stands alone is not heard, and answers in other words help each
other. No label has a say.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.artifacts.answers import Said
from data.artifacts.evaluation import QueryRow
from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.artifacts.teacher import FAILED, TeacherCache
from data.types import Array, Prompt, PromptTruth

NOTHING = "none"
"""What is answered where nothing is found."""

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


def said_phrase(text: str) -> str:
    """The answer in a teacher's sentence: "Sure, it is the red chair, [SEG]." is "the red chair".

    A sentence that says that the thing is not in view is ``NOTHING``. What is only a mask, such as
    "Sure, [SEG].", is "".
    """
    bare = _MARKERS.sub(" ", text)
    if _ABSENT.search(bare):
        return NOTHING
    bare = _LEAD.sub("", bare.strip(_EDGES))
    bare = _COPULA.sub("", bare.strip(_EDGES))
    return " ".join(bare.strip(_EDGES).split())


def words(text: str) -> list[str]:
    """The words that count."""
    bare = "".join(char for char in text.lower() if char not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Whether an answer has the words of any right one, in their order."""
    return any(words(answer) == words(one) for one in right)


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Largest F1 of words with any right answer; two answers without a word agree."""
    return max((_f1(words(answer), words(one)) for one in right), default=0.0)


def _f1(one: Sequence[str], other: Sequence[str]) -> float:
    if not one or not other:
        return float(not one and not other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


AGREES = 0.5
"""Token F1 from which on a view's answer counts as the same."""


def run(
    prompts: Sequence[Prompt], cache: TeacherCache, labels: PseudoLabels, found: Predictions
) -> list[Said]:
    """One answer for each of a scene's prompts.

    ``found`` are the masks of student and labels together. Raises ValueError for a prompt that
    the teacher was not asked.
    """
    rows = [cache.prompt_ids.index(prompt.prompt_id) for prompt in prompts]
    masks = found.only([prompt.prompt_id for prompt in prompts]).together
    answers = []
    for prompt, row, mask in zip(prompts, rows, masks, strict=True):
        num_points = int(np.count_nonzero(mask))
        weights = _weights(cache, labels, row, num_points > 0)
        answers.append(_together(prompt.prompt_id, cache, row, weights, num_points))
    return answers


def _weights(cache: TeacherCache, labels: PseudoLabels, row: int, is_found: bool) -> Array:
    """(V,) how much each view's words count."""
    kept = labels.view_weights[labels.prompt_ids.index(cache.prompt_ids[row])]
    if is_found and kept.sum() > 0:
        return np.asarray(kept)
    return np.asarray(cache.status[:, row] != FAILED, np.float32)


def _together(
    prompt_id: str, cache: TeacherCache, row: int, weights: Array, num_points: int
) -> Said:
    heard = [view for view in np.argsort(-weights, kind="stable").tolist() if weights[view] > 0]
    phrases = {view: said_phrase(cache.answers[view][row]) for view in heard}
    distinct = list(dict.fromkeys(phrases.values()))
    say = {
        phrase: float(sum(weights[view] for view in heard if phrases[view] == phrase))
        for phrase in distinct
    }
    risk = {one: sum(say[other] * token_f1(one, [other]) for other in distinct) for one in distinct}
    answer = max(distinct, key=lambda phrase: (risk[phrase], say[phrase]), default=NOTHING)
    agreeing = [view for view in heard if token_f1(phrases[view], [answer]) >= AGREES]
    total = sum(say.values())
    share = float(sum(weights[view] for view in agreeing)) / total if total else 0.0
    views = tuple(cache.view_ids[view] for view in agreeing)
    return Said(prompt_id, answer, round(share, 4), views, num_points)


@dataclass(frozen=True)
class QuestionResult:
    """``rows`` with what was said; ``metrics`` is the section ``qa``, None without a question."""

    rows: tuple[QueryRow, ...]
    metrics: Mapping[str, Any] | None


def run_scores(
    rows: Sequence[QueryRow], said: Mapping[str, Said], truths: Mapping[str, PromptTruth]
) -> QuestionResult:
    """Score the answers of all queries whose truth has right answers in words.

    ``said`` and ``truths`` are by prompt id; a question without an answer counts as wrong.
    """
    told = [_told(row, said.get(row.prompt_id), truths[row.prompt_id].answers) for row in rows]
    asked = [row for row in told if row.right]
    if not asked:
        return QuestionResult(tuple(told), None)
    groups = {
        "answerable": [row for row in asked if row.target_count != "zero"],
        "unanswerable": [row for row in asked if row.target_count == "zero"],
    }
    return QuestionResult(
        tuple(told),
        {**_metrics(asked), **{name: _metrics(group) for name, group in groups.items()}},
    )


def _told(row: QueryRow, said: Said | None, right: tuple[str, ...]) -> QueryRow:
    if said is None:
        return replace(row, right=right)
    return replace(row, said=said.answer, said_by=said.view_ids, right=right)


def _metrics(rows: Sequence[QueryRow]) -> dict[str, Any]:
    """Means over questions, as fractions; None for none."""
    count = len(rows)
    matches = sum(exact_match(row.said, row.right) for row in rows)
    overlap = sum(token_f1(row.said, row.right) for row in rows)
    return {
        "num_questions": count,
        "exact_match": matches / count if count else None,
        "token_f1": overlap / count if count else None,
    }
