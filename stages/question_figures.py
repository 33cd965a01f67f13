"""Questions scored: exact match and token F1 of answers in words, where right ones are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.artifacts.evaluation import QueryRow
from data.artifacts.said import Said
from data.types import PromptTruth
from stages.answer_words import exact_match, token_f1


@dataclass(frozen=True)
class QuestionResult:
    """``rows`` with what was said; ``figures`` is the section ``qa``, None without a question."""

    rows: tuple[QueryRow, ...]
    figures: Mapping[str, Any] | None


def run(
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
        {**_figures(asked), **{name: _figures(group) for name, group in groups.items()}},
    )


def _told(row: QueryRow, said: Said | None, right: tuple[str, ...]) -> QueryRow:
    if said is None:
        return replace(row, right=right)
    return replace(row, said=said.answer, said_by=said.view_ids, right=right)


def _figures(rows: Sequence[QueryRow]) -> dict[str, Any]:
    """Means over questions, as fractions; None for none."""
    count = len(rows)
    matches = sum(exact_match(row.said, row.right) for row in rows)
    overlap = sum(token_f1(row.said, row.right) for row in rows)
    return {
        "num_questions": count,
        "exact_match": matches / count if count else None,
        "token_f1": overlap / count if count else None,
    }
