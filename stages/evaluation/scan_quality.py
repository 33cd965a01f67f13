"""What a scan allows: the best that unions of its superpoints can reach, and truth snapped to them.

The *ceiling* of a target is the highest IoU that any union of whole superpoints has with it. Taking
superpoints in descending order of the share of their points that are the target's finds it: for
the best IoU v, a superpoint belongs to the union if and only if that share exceeds v / (1 + v).

The *snapped* truth follows ScanNet and ScanNet++, whose annotation is a union of the data set's own
segments: every superpoint gets the objects that most of its points have. With overlapping objects,
points vote for the whole set of objects they belong to, no object being a set, too. Of sets with as
many points the one whose objects come first is taken. Points left out of evaluation do not vote.

Ceiling and snapped truth need ground truth, so no label-free step may compute them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from data.artifacts.evaluation import SOURCES, QueryRow
from data.types import Array, GroundTruth
from stages.evaluation import metrics
from stages.evaluation.metrics import Counts

SNAPPED_RULE = (
    "The truth is a union of superpoints, as the annotation of ScanNet and ScanNet++ is: each "
    "superpoint gets the objects that most of its points have."
)


@dataclass(frozen=True)
class SceneQuality:
    """The quality of one scene's scan.

    ``ceilings`` and ``object_ceilings`` hold (intersection, union) of the best unions for each
    query with a target and for each annotated object. ``surface`` has the fields of
    ``data.types.SurfaceTruth``, empty where the true surface is unknown.
    """

    scene_id: str
    num_points: int
    num_superpoints: int
    ceilings: tuple[tuple[int, int], ...]
    object_ceilings: tuple[tuple[int, int], ...]
    surface: Mapping[str, float]


class SuperpointTruth:
    """The ground truth of one scene against its superpoints, ``superpoint_ids`` (N,)."""

    def __init__(self, truth: GroundTruth, superpoint_ids: Array) -> None:
        """Raise ValueError unless there is a superpoint for each point."""
        if superpoint_ids.shape != (truth.num_points,):
            expected = f"expected {truth.num_points} superpoint ids"
            raise ValueError(f"{expected}, got an array of shape {superpoint_ids.shape}")
        self._truth, self._ids = truth, superpoint_ids
        self._num = int(superpoint_ids.max(initial=-1)) + 1
        sizes = np.bincount(superpoint_ids, minlength=self._num)
        left_out = np.bincount(superpoint_ids[truth.left_out], minlength=self._num)
        self._sizes = sizes - left_out

    def ceiling(self, target: Array) -> tuple[int, int]:
        """Return the intersection and union with a target (n,) of the best union of superpoints.

        ``target`` holds points that evaluation counts, each once.
        """
        inside = np.bincount(self._ids[target], minlength=self._num)
        touched = np.flatnonzero(inside)
        inside, sizes = inside[touched], self._sizes[touched]
        order = np.argsort(-inside / sizes, kind="stable")
        intersection = np.cumsum(inside[order])
        union = len(target) + np.cumsum((sizes - inside)[order])
        if not len(order):
            return 0, 0
        best = int(np.argmax(intersection / union))
        return int(intersection[best]), int(union[best])

    def quality(self, scene_id: str, targets: Sequence[Array]) -> SceneQuality:
        """Return the quality of the scan; ``targets`` are the counted points of each query."""
        truth = self._truth
        objects = [truth.counted_points([object_id]) for object_id in truth.object_ids]
        ceilings, object_ceilings = (
            tuple(self.ceiling(target) for target in group if len(target))
            for group in (targets, objects)
        )
        surface = {} if truth.surface is None else asdict(truth.surface)
        return SceneQuality(
            scene_id, truth.num_points, self._num, ceilings, object_ceilings, surface
        )

    def snapped(self) -> GroundTruth:
        """Return the truth whose objects are unions of superpoints."""
        truth = self._truth
        sets, members = _sets_of_objects(truth)
        votes = np.ones(truth.num_points, bool)
        votes[truth.left_out] = False
        keys, counts = np.unique(
            self._ids[votes].astype(np.int64) * len(members) + sets[votes], return_counts=True
        )
        superpoint, voted = keys // len(members), keys % len(members)
        order = np.lexsort((voted, -counts, superpoint))
        first = order[np.unique(superpoint[order], return_index=True)[1]]
        winner = np.zeros(self._num, np.int64)  # Set 0 has no object.
        winner[superpoint[first]] = voted[first]
        has = np.zeros((len(members), len(truth.object_ids)), bool)
        for number, objects in enumerate(members):
            has[number, list(objects)] = True
        set_of_point = winner[self._ids]
        points = [np.flatnonzero(has[set_of_point, k]) for k in range(len(truth.object_ids))]
        flat = np.concatenate([np.zeros(0, np.int64), *points]).astype(np.int32)
        offsets = np.cumsum([0, *map(len, points)]).astype(np.int64)
        return replace(truth, point_ids=flat, offsets=offsets)


def _sets_of_objects(truth: GroundTruth) -> tuple[Array, list[tuple[int, ...]]]:
    """Number the sets of objects that points have: (N,) int64, and the objects of each set.

    Set 0 has no object; the others are in the order of their objects.
    """
    sets = np.zeros(truth.num_points, np.int64)
    members: list[tuple[int, ...]] = [()]
    for k in range(len(truth.object_ids)):
        points = np.unique(truth.point_ids[truth.offsets[k] : truth.offsets[k + 1]])
        before, place = np.unique(sets[points], return_inverse=True)
        sets[points] = len(members) + place.reshape(-1)
        members += [(*members[number], k) for number in before.tolist()]
    order = sorted(range(len(members)), key=lambda number: members[number])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank[sets], [members[number] for number in order]


def summarise_snapped(rows: Sequence[QueryRow]) -> dict[str, Any]:
    """Return ``snapped`` of ``metrics.json``: the rule, and the headline of each source by it."""
    by_source = {
        source: metrics.headline(metrics.counts_of(rows, source, snapped=True))
        for source in SOURCES
    }
    return {"rule": SNAPPED_RULE, **by_source}


def summarise_scans(scenes: Sequence[SceneQuality]) -> dict[str, Any]:
    """Return ``scan`` of ``metrics.json``: ceilings over queries and objects, and surfaces.

    Ceilings are means over queries with a target and over objects, by the strict convention, None
    without any. ``surface`` is the mean over the scenes whose true surface is known, None without
    one; ``by_scene`` has the same for each scene.
    """
    surfaces = [scene.surface for scene in scenes if scene.surface]
    return {
        "ceiling": _ceilings([pair for scene in scenes for pair in scene.ceilings]),
        "object_ceiling": _ceilings([pair for scene in scenes for pair in scene.object_ceilings]),
        "surface": _means(surfaces),
        "by_scene": {
            scene.scene_id: {
                "num_points": scene.num_points,
                "num_superpoints": scene.num_superpoints,
                "ceiling": _ceilings(scene.ceilings),
                "object_ceiling": _ceilings(scene.object_ceilings),
                "surface": dict(scene.surface) or None,
            }
            for scene in scenes
        },
    }


def _ceilings(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    figures = metrics.headline(Counts.of(pairs))
    return {"count": len(pairs), **{name: figures[name] for name in ("miou", "acc25", "acc50")}}


def _means(surfaces: Sequence[Mapping[str, float]]) -> dict[str, float] | None:
    if not surfaces:
        return None
    return {name: sum(s[name] for s in surfaces) / len(surfaces) for name in surfaces[0]}
