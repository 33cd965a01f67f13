"""Resolve the queries of a scene that relate things, from the masks of their phrases.

The phrases are asked of the teacher beside the queries (``pipeline.steps.questions``), and each has
a row of labels of its own. A query with a tree takes the label of what is looked for, within the
chosen instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.evaluation import SOURCES
from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.queries.relation_trees import Phrase, as_asked
from data.types import Array, Prompt, Scene
from stages.relations.instances import RoomSpace
from stages.relations.solve import Answer, Solution, solve

_STEP = np.float32(1 / 255)
"""Steps in which labels and probabilities are stored."""


@dataclass(frozen=True)
class Related:
    """The trees of a scene's queries by row, and the rows of all texts that were asked."""

    trees: Mapping[int, Phrase]
    rows: Mapping[str, int]

    @classmethod
    def of(
        cls, prompt_ids: Sequence[str], prompts: Sequence[Prompt], trees: Mapping[str, Phrase]
    ) -> Related:
        """Find the rows of queries and phrases; a tree without all of its phrases is left out."""
        texts = {prompt.prompt_id: prompt.text for prompt in prompts}
        rows: dict[str, int] = {}
        for row, name in enumerate(prompt_ids):
            if name not in trees:
                rows.setdefault(texts[name], row)
        found = {row: trees[name] for row, name in enumerate(prompt_ids) if name in trees}
        whole = {
            row: tree
            for row, tree in found.items()
            if all(as_asked(head) in rows for head in tree.heads())
        }
        return cls(whole, rows)

    def row_of(self, head: str) -> int:
        """Return the row of a phrase."""
        return self.rows[as_asked(head)]

    def solve(self, masks: Array, probs: Array, space: RoomSpace) -> dict[int, Solution]:
        """Solve the trees, by row, from masks (Q, S) bool and probabilities (Q, S).

        Rows whose phrases have no instance are left out: their own answers stand.
        """
        found: dict[int, Solution] = {}
        for row, tree in self.trees.items():
            places = {head: self.row_of(head) for head in tree.heads()}
            answers = {head: Answer(masks[place], probs[place]) for head, place in places.items()}
            solution = solve(tree, answers, space)
            if solution is not None:
                found[row] = solution
        return found


def within(values: Array, inside: Array, threshold: float) -> Array:
    """Lower values (n,) outside of ``inside`` (n,) bool below a threshold."""
    below = np.maximum(np.float32(threshold) - _STEP, 0)
    return np.asarray(np.where(inside, values, np.minimum(values, below)), np.float32)


def relate_labels(labels: PseudoLabels, related: Related, scene: Scene) -> None:
    """Resolve the related queries of labels (Q, N), in place: large scenes have room for one copy.

    Such a query takes soft label, confidence, threshold and evidence of what is looked for; views
    and tokens stay those of the sentence, and are those of the phrase where it has none.
    """
    if not related.trees:
        return
    first, space = np.unique(scene.superpoint_ids, return_index=True)[1], RoomSpace(scene)
    masks = np.zeros((len(labels.soft), space.num_superpoints), bool)
    probs = np.zeros(masks.shape, np.float32)
    for place in {related.row_of(h) for tree in related.trees.values() for h in tree.heads()}:
        probs[place] = labels.soft[place, first]
        masks[place] = probs[place] >= labels.thresholds[place]
    for row, solution in related.solve(masks, probs, space).items():
        place = related.row_of(related.trees[row].head)  # Never a related query's own row.
        inside = solution.mask[scene.superpoint_ids]
        labels.soft[row] = within(labels.soft[place], inside, float(labels.thresholds[place]))
        names: tuple[str, ...] = ("confidence", "thresholds", "evidence")
        if not labels.query_tokens[row].any():
            names = (*names, "view_weights", "query_tokens", "view_tokens", "view_confidences")
        for name in names:
            getattr(labels, name)[row] = getattr(labels, name)[place]


def relate_predictions(
    found: Predictions, labels: PseudoLabels, related: Related, scene: Scene
) -> None:
    """Resolve the related queries of predictions (Q, N), the student's and the joint, in place.

    Instances of the joint answer are as sure as the labels (Q, N) are. Presence is that of what is
    looked for, quality that times how clear the choice is.
    """
    if not related.trees:
        return
    first, space = np.unique(scene.superpoint_ids, return_index=True)[1], RoomSpace(scene)
    for name, sources in _ANSWERS.items():
        answers: Array = getattr(found, name)
        probs = found.probs if name == "masks" else labels.soft
        solutions = related.solve(answers[:, first], probs[:, first], space)
        for row, solution in solutions.items():
            place = related.row_of(related.trees[row].head)
            inside = solution.mask[scene.superpoint_ids]
            answers[row] = answers[place] & inside
            found.presences[row, sources] = found.presences[place, sources]
            found.qualities[row, sources] = found.qualities[place, sources] * solution.clarity
            if name == "masks":
                least = float(found.probs[place][answers[place]].min(initial=1))
                found.probs[row] = within(found.probs[place], inside, least)


_ANSWERS = {
    "masks": [SOURCES.index("student")],
    "together": [SOURCES.index("fusion_only"), SOURCES.index("together")],
}
