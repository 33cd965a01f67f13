"""Answer sentences that relate things from the answers to their phrases, asked beside them.

Where a sentence is not parsed, or one of its phrases has no answer, the answer to the whole
sentence stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.queries.relation_trees import Phrase, as_asked, in_words
from data.types import Array
from stages.relations.instances import RoomSpace
from stages.relations.solve import Answer, Solution, solve

_STEP = 1 / 255
"""Steps in which probabilities are stored."""


@dataclass(frozen=True)
class Asking:
    """Sentences, their trees, and all texts to ask: the sentences, then phrases of their trees."""

    trees: tuple[Phrase | None, ...]
    texts: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Sequence[str], trees: Sequence[Phrase | None]) -> Asking:
        """Take sentences and their trees, None for those that are asked as they are."""
        heads = dict.fromkeys(
            as_asked(head) for tree in trees if tree is not None for head in tree.heads()
        )
        return cls(tuple(trees), (*sentences, *heads))

    @property
    def count(self) -> int:
        """Number of sentences."""
        return len(self.trees)

    @property
    def relates(self) -> bool:
        """Whether any sentence has a tree."""
        return any(tree is not None for tree in self.trees)

    def row_of(self, head: str) -> int:
        """Return the row of a phrase among the texts."""
        return self.texts.index(as_asked(head), self.count)


@dataclass(frozen=True, eq=False)
class Told:
    """Answers to A texts on S superpoints.

    ``probs`` (A, S) float32; ``thresholds`` (A,) float32, above 1 where nothing fits; ``certain``
    (2, A) float32 are presence and expected quality.
    """

    probs: Array
    thresholds: Array
    certain: Array

    def answer(self, row: int) -> Answer:
        """Return the answer to one text."""
        return Answer(self.probs[row] >= self.thresholds[row], self.probs[row])


def resolve(
    asking: Asking, told: Told, space: RoomSpace
) -> tuple[Told, tuple[Solution | None, ...]]:
    """Return the answers to the sentences, and how those with a tree were found.

    A resolved answer holds the chosen instances of what is looked for; its presence is that of this
    phrase, its quality that of the phrase times how clear the choice is.
    """
    count = asking.count
    probs, thresholds = told.probs[:count].copy(), told.thresholds[:count].copy()
    certain = told.certain[:, :count].copy()
    solutions: list[Solution | None] = []
    for row, tree in enumerate(asking.trees):
        found = None
        if tree is not None:
            rows = {head: asking.row_of(head) for head in tree.heads()}
            answers = {head: told.answer(place) for head, place in rows.items()}
            found = solve(tree, answers, space)
        solutions.append(found)
        if found is None or tree is None:
            continue
        place = rows[tree.head]
        least = np.float32(told.thresholds[place])
        outside = np.minimum(told.probs[place], np.maximum(least - np.float32(_STEP), 0))
        probs[row] = np.where(found.mask, told.probs[place], outside)
        thresholds[row] = least
        certain[0, row] = told.certain[0, place]
        certain[1, row] = told.certain[1, place] * found.clarity
    return Told(probs, thresholds, certain), tuple(solutions)


_MOST_TOLD = 6


def explained(tree: Phrase, solution: Solution, space: RoomSpace) -> tuple[str, ...]:
    """Return lines that explain an answer: how the sentence was read, then the candidates."""
    lines = [f"read as: {in_words(tree)}"]
    for number, each in enumerate(solution.candidates[:_MOST_TOLD], start=1):
        centre = ", ".join(f"{v:.2f}" for v in space.in_scan(each.instance.centre))
        parts = "".join(f", {name} {value:.2f}" for name, value in each.relations.items())
        mark = "chosen" if each.is_chosen else "not"
        sure = f"evidence {each.instance.evidence:.2f}{parts}"
        lines.append(f"{number}. {mark}: {tree.head} at ({centre}) m: {sure}")
    more = len(solution.candidates) - _MOST_TOLD
    return (*lines, f"and {more} more") if more > 0 else tuple(lines)
