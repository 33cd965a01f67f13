"""Answer sentences that relate things from the answers to their phrases, asked beside them.

Where a sentence is not parsed, or one of its phrases has no answer, the answer to the whole
sentence stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.queries.relation_trees import Phrase, as_asked, in_words
from data.types import Array
from stages.relations.by_labels import Related, within
from stages.relations.instances import RoomSpace
from stages.relations.solve import Solution


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

    def related(self) -> Related:
        """The trees by row, and the rows of their phrases among the texts."""
        trees = {row: tree for row, tree in enumerate(self.trees) if tree is not None}
        phrases = enumerate(self.texts[self.count :], start=self.count)
        return Related(trees, {text: row for row, text in phrases})


@dataclass(frozen=True, eq=False)
class Told:
    """Answers to A texts on S superpoints.

    ``probs`` (A, S) float32; ``thresholds`` (A,) float32, above 1 where nothing fits; ``certain``
    (2, A) float32 are presence and expected quality.
    """

    probs: Array
    thresholds: Array
    certain: Array


def resolve(
    asking: Asking, told: Told, space: RoomSpace
) -> tuple[Told, tuple[Solution | None, ...]]:
    """Return the answers to the sentences, and how those with a tree were found.

    A resolved answer holds the chosen instances of what is looked for; its presence is that of this
    phrase, its quality that of the phrase times how clear the choice is.
    """
    count, related = asking.count, asking.related()
    probs, thresholds = told.probs[:count].copy(), told.thresholds[:count].copy()
    certain = told.certain[:, :count].copy()
    found = related.solve(told.probs >= told.thresholds[:, None], told.probs, space)
    for row, solution in found.items():
        place = related.row_of(related.trees[row].head)
        thresholds[row] = told.thresholds[place]
        probs[row] = within(told.probs[place], solution.mask, float(thresholds[row]))
        presence, quality = told.certain[:, place]
        certain[:, row] = presence, quality * solution.clarity
    return Told(probs, thresholds, certain), tuple(found.get(row) for row in range(count))


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
