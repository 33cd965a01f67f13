"""How well relations hold between instances, softly and on points: scores in [0, 1].

Distances are those of surfaces. "on" asks for a support right below or, at a wall, behind; "under"
for something of the anchor above; "between" for a place across the line that joins two anchors.
Sides follow who looks: a viewer who faces a thing stands on its free side, towards the middle of
the room; where nothing is said of a viewer, the cameras of the scan vote.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.queries.relation_trees import VIEWED, RankName, RelationName
from data.types import Array
from stages.relations.instances import Instance, RoomSpace

_NEAR, _FAR, _CLEAR = 0.4, 1.5, 0.15
"""Metres: how a gap tells "near", how it tells "far", and how clearly one of several is chosen."""
_TOUCH, _SIDE, _BESIDE = 0.08, 0.1, 0.7
_AROUND = 0.12
_LIFT, _REST = 0.05, 0.15
_CORNER = 0.5


class RoomScores:
    """Scores of relations in one room, for a viewer who faces an instance or for anybody."""

    def __init__(self, space: RoomSpace, facing: Instance | None = None) -> None:
        """Take the room, and what the viewer faces, None where nothing is said."""
        self._space, self._facing = space, facing

    def of(
        self, name: RelationName, targets: Sequence[Instance], anchors: Sequence[Instance]
    ) -> Array:
        """Return (targets, anchors) scores; for "between" and "corner" see the other methods.

        An instance has no relation to itself.
        """
        scores = np.zeros((len(targets), len(anchors)))
        if name in ("near", "far", "closest", "farthest"):
            scores = _by_distance(name, gaps(targets, anchors))
        else:
            for column, anchor in enumerate(anchors):
                for row, target in enumerate(targets):
                    scores[row, column] = self._one(name, target, anchor)
        for row, target in enumerate(targets):
            for column, anchor in enumerate(anchors):
                if np.array_equal(target.superpoints, anchor.superpoints):
                    scores[row, column] = 0
        return scores

    def _one(self, name: RelationName, target: Instance, anchor: Instance) -> float:
        if name in VIEWED:
            return self._side(name, target, anchor)
        if name == "on":
            return max(resting(target, anchor), self._hanging(target, anchor))
        if name == "under":
            return max(covered(target, anchor), 0.9 * higher(anchor, target))
        if name == "above":
            return higher(target, anchor)
        if name == "below":
            return max(higher(anchor, target), covered(target, anchor))
        if name == "inside":
            return inside(target, anchor)
        return float(np.exp(-gap(target, anchor) / _TOUCH))  # Against.

    def _hanging(self, target: Instance, anchor: Instance) -> float:
        """How well a thing hangs on an upright anchor: it touches it and is off the floor."""
        upright = anchor.high[2] - anchor.low[2] > 1.2
        off_floor = target.low[2] > 0.25
        return float(np.exp(-gap(target, anchor) / _TOUCH)) if upright and off_floor else 0.0

    def between(
        self, targets: Sequence[Instance], anchors: Sequence[tuple[Instance, Instance]]
    ) -> Array:
        """Return (targets, pairs) scores of lying between both anchors of a pair."""
        scores = np.zeros((len(targets), len(anchors)))
        for row, target in enumerate(targets):
            for column, (one, other) in enumerate(anchors):
                if target in (one, other) or one is other:
                    continue
                scores[row, column] = _in_between(target, one, other)
        return scores

    def corner(self, targets: Sequence[Instance]) -> Array:
        """Return (targets,) scores of standing in a corner of the room."""
        nearest = [
            min(
                float(np.linalg.norm(t.points[:, :2] - corner, axis=1).min())
                for corner in self._space.corners
            )
            for t in targets
        ]
        return np.asarray(np.exp(-np.array(nearest) / _CORNER))

    def _side(self, name: RelationName | RankName, target: Instance, anchor: Instance) -> float:
        step = target.centre[:2] - anchor.centre[:2]
        if name in ("front", "behind") and self._facing is None:
            ahead = -self._free_side(anchor)  # Its front is its free side.
            return _along(step, ahead if name == "behind" else -ahead)
        looks = self.looks(anchor, target)
        votes = [_along(step, side_of(name, look)) for look in looks]
        return float(np.mean(votes)) if votes else 0.5

    def looks(self, *at: Instance) -> list[Array]:
        """Return the directions (2,) in which viewers look at instances.

        It is one where the viewer faces something, else those of all cameras far enough away.
        """
        if self._facing is not None:
            return [-self._free_side(self._facing)]
        middle = np.mean([instance.centre[:2] for instance in at], axis=0)
        eyes = self._space.eyes if len(self._space.eyes) else self._space.middle[None]
        away = middle - eyes
        lengths = np.linalg.norm(away, axis=1)
        seeing = lengths > 0.5
        return [v / n for v, n in zip(away[seeing], lengths[seeing], strict=True)]

    def _free_side(self, instance: Instance) -> Array:
        """Return the direction (2,) from an instance to the viewer who faces it.

        It leads away from the wall that it stands at; from a thing in the open to the middle.
        """
        low, high = self._space.low, self._space.high
        gaps_to = np.concatenate([instance.low[:2] - low, high - instance.high[:2]])
        inward = np.array([(1.0, 0), (0, 1.0), (-1.0, 0), (0, -1.0)])
        at_wall = gaps_to < 0.3
        towards = self._space.middle - instance.centre[:2]
        if at_wall.sum() == 1:
            return np.asarray(inward[int(np.argmax(at_wall))])
        if at_wall.any():  # In a corner: the side that is longer faces the room.
            extent = (instance.high - instance.low)[:2]
            axis = 1 if extent[0] >= extent[1] else 0
            fitting = [i for i in np.flatnonzero(at_wall).tolist() if i % 2 == axis]
            return np.asarray(inward[fitting[0] if fitting else int(np.argmax(at_wall))])
        length = float(np.linalg.norm(towards))
        return np.asarray(towards / length) if length > 1e-6 else inward[0]


def side_of(name: str, look: Array) -> Array:
    """Return the direction (2,) of a side for a viewer who looks along ``look`` (2,).

    Seen from above, right is clockwise of it; "front" is towards the viewer.
    """
    right = np.array([look[1], -look[0]])
    sides = {"right": right, "left": -right, "behind": look, "back": look, "front": -look}
    return np.asarray(sides[name])


def _along(step: Array, direction: Array) -> float:
    """How clearly a step (2,) goes along a unit direction: also less the more it goes aside."""
    ahead = float(step @ direction)
    aside = float(abs(step[0] * direction[1] - step[1] * direction[0]))
    clear = 1 / (1 + np.exp(-np.clip(ahead / _SIDE, -30, 30)))
    return float(clear * np.exp(-max(aside - abs(ahead), 0) / _BESIDE))


def gap(one: Instance, other: Instance) -> float:
    """Return the smallest distance, metres, between the points of two instances."""
    few, many = sorted((one, other), key=lambda instance: len(instance.points))
    return float(many.tree.query(few.points)[0].min())


def gaps(targets: Sequence[Instance], anchors: Sequence[Instance]) -> Array:
    """Return (targets, anchors) smallest distances."""
    rows = [[gap(target, anchor) for anchor in anchors] for target in targets]
    return np.array(rows).reshape(len(targets), len(anchors))


def _by_distance(name: str, distances: Array) -> Array:
    if not distances.size:
        return distances
    if name == "near":
        return np.asarray(np.exp(-distances / _NEAR))
    if name == "far":
        return np.asarray(1 - np.exp(-distances / _FAR))
    if name == "closest":
        return np.asarray(np.exp(-(distances - distances.min(axis=0)) / _CLEAR))
    return np.asarray(np.exp(-(distances.max(axis=0) - distances) / _CLEAR))


def resting(target: Instance, anchor: Instance) -> float:
    """How well a thing rests on another: its lowest points touch something of the anchor below.

    Points of the anchor count that lie within 12 cm of the thing's, seen from above.
    """
    below = _anchor_around(target, anchor)
    if below is None:
        return 0.0
    share, heights = below
    under = heights[heights < target.centre[2]]
    if not len(under):
        return 0.0
    bottom = float(np.percentile(target.points[:, 2], 2))
    apart = abs(bottom - float(np.percentile(under, 90)))
    return share * float(np.exp(-max(apart - _LIFT, 0) / _REST))


def covered(target: Instance, anchor: Instance) -> float:
    """Return the share of a thing, seen from above, over which something of the anchor lies."""
    low, high = anchor.low[:2], anchor.high[:2]
    flat = target.points[:, :2]
    within = ((flat >= low) & (flat <= high)).all(axis=1).mean()
    higher_than = anchor.high[2] > target.centre[2] + 0.02
    return float(within) if higher_than else 0.0


def higher(target: Instance, anchor: Instance) -> float:
    """How well a thing is above another: over its top, and across from it seen from above."""
    apart = np.maximum(0, np.maximum(anchor.low - target.high, target.low - anchor.high))
    lift = target.centre[2] - anchor.high[2]
    over = 1 / (1 + np.exp(-np.clip(lift / _SIDE, -30, 30)))
    return float(over * np.exp(-np.linalg.norm(apart[:2]) / 0.3))


def inside(target: Instance, anchor: Instance) -> float:
    """Return the share of a thing's points in the anchor's box."""
    low, high = anchor.low - 0.02, anchor.high + 0.02
    return float(((target.points >= low) & (target.points <= high)).all(axis=1).mean())


def _anchor_around(target: Instance, anchor: Instance) -> tuple[float, Array] | None:
    """Return the share of a thing that the anchor meets seen from above, and heights (m,) there."""
    near = ((anchor.points[:, :2] >= target.low[:2] - _AROUND)).all(axis=1)
    near &= (anchor.points[:, :2] <= target.high[:2] + _AROUND).all(axis=1)
    if not near.any():
        return None
    low, high = anchor.low[:2] - _AROUND, anchor.high[:2] + _AROUND
    flat = target.points[:, :2]
    share = ((flat >= low) & (flat <= high)).all(axis=1).mean()
    return float(share), anchor.points[near, 2]


def _in_between(target: Instance, one: Instance, other: Instance) -> float:
    start, end = one.centre[:2], other.centre[:2]
    line = end - start
    length = float(np.linalg.norm(line))
    if length < 1e-6:
        return 0.0
    step = target.centre[:2] - start
    along = float(step @ line) / length**2
    aside = float(abs(step[0] * line[1] - step[1] * line[0])) / length
    middle = 1 / (1 + np.exp(-np.clip(20 * (0.5 - abs(along - 0.5) - 0.05), -30, 30)))
    return float(middle * np.exp(-aside / 0.5))


def measure(by: RankName, targets: Sequence[Instance], scores: RoomScores) -> Array:
    """Return (targets,) values by which a rank orders instances, the first the largest."""
    if by in VIEWED:
        looks = scores.looks(*targets)
        mean = np.mean(looks, axis=0) if looks else np.array([0.0, 1.0])
        direction = side_of(by, mean)
        return np.array([float(t.centre[:2] @ direction) for t in targets])
    if by in ("tallest", "lowest"):
        tops = np.array([float(t.high[2]) for t in targets])
        return tops if by == "tallest" else -tops
    volumes = np.array([float(np.prod(np.maximum(t.high - t.low, 0.02))) for t in targets])
    return volumes if by == "largest" else -volumes
