"""Choose what a tree means among the instances of its phrases, and explain the choice.

Every phrase is asked by itself, its answer parted into instances, and each instance scored: its
evidence times, for each relation, the best product of the relation's score and the anchor's own
score. So an anchor is chosen together with what it is an anchor of. A relation that must not hold
counts one minus its score. A rank orders what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from data.queries.relation_trees import Phrase, Relation
from data.types import Array
from stages.relations.instances import Instance, RoomSpace
from stages.relations.scores import RoomScores, measure

_MOST_INSTANCES = 40
"""Of one phrase, the surest ones; a relation between two is scored for at most 1,600 pairs."""
_GOOD = 0.5
"""Of the best score: what reaches it is as good, where a rank orders or several are meant."""


class Answer(NamedTuple):
    """The answer to a phrase asked by itself: ``mask`` (S,) bool and ``probs`` (S,) float."""

    mask: Array
    probs: Array


@dataclass(frozen=True, eq=False)
class Candidate:
    """An instance and why it won or lost: scores by relation, each in [0, 1]."""

    instance: Instance
    score: float
    relations: Mapping[str, float] = field(default_factory=dict)
    is_chosen: bool = False


@dataclass(frozen=True, eq=False)
class Solution:
    """The superpoints (S,) bool that a tree means, and the candidates, the best first."""

    mask: Array
    candidates: tuple[Candidate, ...]
    is_ranked: bool = False

    @property
    def clarity(self) -> float:
        """How clear the choice is, in [0.5, 1]: the worst chosen score against the best refused.

        A rank is clear by itself: it orders those that fit.
        """
        if self.is_ranked:
            return 1.0
        chosen = min((each.score for each in self.candidates if each.is_chosen), default=0.0)
        refused = max((each.score for each in self.candidates if not each.is_chosen), default=0.0)
        return max(chosen / max(chosen + refused, 1e-9), 0.5)


def solve(tree: Phrase, answers: Mapping[str, Answer], space: RoomSpace) -> Solution | None:
    """Return what a tree means; None where a phrase has no instance, so nothing can be related.

    Args:
        tree: the parsed sentence.
        answers: by head, for every head of the tree.
        space: the room.
    """
    found = {
        head: space.instances(head, answers[head].mask, answers[head].probs)[:_MOST_INSTANCES]
        for head in tree.heads()
    }
    if not all(found.values()):
        return None
    facing = None
    if tree.facing is not None:
        candidates = _candidates(tree.facing, found, RoomScores(space))
        facing = max(candidates, key=lambda each: each.score).instance
    scores = RoomScores(space, facing)
    candidates = _choose(tree, _candidates(tree, found, scores), scores)
    mask = np.zeros(space.num_superpoints, bool)
    for each in candidates:
        if each.is_chosen:
            mask[each.instance.superpoints] = True
    return Solution(mask, tuple(candidates), tree.rank is not None)


def _candidates(
    phrase: Phrase, found: Mapping[str, Sequence[Instance]], scores: RoomScores
) -> list[Candidate]:
    """Score the instances of a phrase by evidence and relations."""
    instances = found[phrase.head]
    total = np.array([instance.evidence for instance in instances])
    told: list[dict[str, float]] = [{} for _ in instances]
    for relation in phrase.relations:
        held = _held(relation, instances, found, scores)
        name = f"{'not ' * relation.negative}{relation.name}"
        for row, value in enumerate(held.tolist()):
            told[row][name] = round(value, 4)
        total = total * held
    return [
        Candidate(instance, score, relations)
        for instance, score, relations in zip(instances, total.tolist(), told, strict=True)
    ]


def _held(
    relation: Relation,
    targets: Sequence[Instance],
    found: Mapping[str, Sequence[Instance]],
    scores: RoomScores,
) -> Array:
    """Return (targets,) how well a relation holds with the anchors that suit each best."""
    if relation.name == "corner":
        held = scores.corner(targets)
    elif relation.name == "between":
        held = _held_between(relation, targets, found, scores)
    else:
        (anchor,) = relation.anchors
        anchors = _wanted(anchor, found, scores)
        weights = _relative([each.score for each in anchors])
        pairs = scores.of(relation.name, targets, [each.instance for each in anchors])
        if relation.name in ("closest", "farthest"):  # One anchor decides for all of them.
            held = pairs[:, int(np.argmax(weights))]
        else:
            held = (pairs * weights).max(axis=1, initial=0)
    return np.asarray(1 - held if relation.negative else held)


def _wanted(
    anchor: Phrase, found: Mapping[str, Sequence[Instance]], scores: RoomScores
) -> list[Candidate]:
    """Return the instances of an anchor; with a rank or relations, those that fit best count."""
    candidates = _candidates(anchor, found, scores)
    return _ranked(anchor, candidates, scores)[:1] if anchor.rank is not None else list(candidates)


def _held_between(
    relation: Relation,
    targets: Sequence[Instance],
    found: Mapping[str, Sequence[Instance]],
    scores: RoomScores,
) -> Array:
    sides = [_wanted(anchor, found, scores) for anchor in relation.anchors]
    pairs = list(combinations(sides[0], 2)) if len(sides) == 1 else list(product(*sides))
    if not pairs:
        return np.zeros(len(targets))
    weights = _relative([one.score * other.score for one, other in pairs])
    held = scores.between(targets, [(one.instance, other.instance) for one, other in pairs])
    return np.asarray((held * weights).max(axis=1))


def _relative(scores: Sequence[float]) -> Array:
    values = np.array(scores, np.float64)
    return np.asarray(values / max(float(values.max(initial=0)), 1e-9))


def _ranked(phrase: Phrase, candidates: Sequence[Candidate], scores: RoomScores) -> list[Candidate]:
    """Order candidates by a rank, from its place on; those that fit far worse are left out."""
    assert phrase.rank is not None
    best = max(each.score for each in candidates)
    fitting = [each for each in candidates if each.score >= _GOOD * best]
    values = measure(phrase.rank.by, [each.instance for each in fitting], scores)
    order = np.argsort(-values, kind="stable").tolist()
    start = min(phrase.rank.place - 1, len(order) - 1)
    return [fitting[place] for place in order[start:]]


def _choose(phrase: Phrase, candidates: Sequence[Candidate], scores: RoomScores) -> list[Candidate]:
    """Choose as many candidates as are meant; return all, the chosen first."""
    ordered = sorted(candidates, key=lambda each: -each.score)
    if phrase.rank is not None:
        ranked = _ranked(phrase, ordered, scores)
        ordered = ranked + [each for each in ordered if each not in ranked]
    best = max(each.score for each in ordered)
    fitting = sum(each.score >= _GOOD * best for each in ordered)
    count = phrase.count if phrase.count else fitting
    return [
        Candidate(each.instance, each.score, each.relations, place < count and each.score > 0)
        for place, each in enumerate(ordered)
    ]
