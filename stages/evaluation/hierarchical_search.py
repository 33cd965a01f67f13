"""Stages of hierarchical search: find the room that a search describes, and score the search.

A search describes a room by signs, the objects named in its text, and asks for a target. The
likelihood of a room is the mean confidence of the answers to all signs. Searches without signs,
and ties between rooms, are decided by the confidence of the answer to the target.

With the room step, the answer is the mask in the chosen room, or in all rooms where none was
chosen; without it, the masks in all rooms. Both are compared with the target in the true room, and
points marked in other rooms count as errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data.artifacts.answers import RoomChoice
from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, QueryRow, Score
from data.errors import DataError
from data.queries.hierarchical_search import SEARCH_TASK, Search, sign_ids
from data.types import Array, GroundTruth, PromptTruth
from stages.evaluation import metrics

RoomScores = Mapping[str, Mapping[str, float]]
"""Confidence in [0, 1] of the answers in one room, by source, then by prompt id."""


def run_find_rooms(
    searches: Sequence[Search], scores: Mapping[str, RoomScores]
) -> list[RoomChoice]:
    """Return a choice for each search and source, in the order of the searches.

    ``scores`` is by room. Raises KeyError for a missing room, source or answer.
    """
    return [
        _choose(search, source, scores, searches)
        for search in searches
        for source in scores[search.rooms[0]]
    ]


def _choose(
    search: Search, source: str, scores: Mapping[str, RoomScores], searches: Sequence[Search]
) -> RoomChoice:
    likelihoods, target_scores = [], []
    for room in search.rooms:
        answers, signs = scores[room][source], sign_ids(searches, room)
        target_scores.append(answers[search.prompt_id(room)])
        sign_scores = [answers[signs[text]] for text in search.signs]
        likelihoods.append(float(np.mean(sign_scores)) if sign_scores else target_scores[-1])
    order = sorted(range(len(likelihoods)), key=lambda k: (-likelihoods[k], -target_scores[k], k))
    room = search.rooms[order[0]] if likelihoods[order[0]] > 0 else ""
    by_room = {name: round(value, 6) for name, value in zip(search.rooms, likelihoods, strict=True)}
    return RoomChoice(search.search_id, source, room, by_room)


Choices = Mapping[tuple[str, str], RoomChoice]


@dataclass(frozen=True, eq=False)
class SearchedRoom:
    """The answers in one room: ``masks`` by source and prompt id, (N,) bool; and its truth.

    ``snapped`` is the truth snapped to superpoints; where it is None the exact truth is taken.
    """

    scene_id: str
    ground_truth: GroundTruth
    masks: Mapping[str, Mapping[str, Array]]
    snapped: GroundTruth | None = None


@dataclass
class _Counts:
    """Points of one search and source, summed over rooms.

    Lists hold two values: with the room step and without it.
    """

    predicted: list[int] = field(default_factory=lambda: [0, 0])
    intersection: list[int] = field(default_factory=lambda: [0, 0])
    missing: bool = False


@dataclass(frozen=True)
class SearchResult:
    """``rows`` with the room step; ``metrics`` is the section ``search`` of the metrics."""

    rows: tuple[QueryRow, ...]
    metrics: Mapping[str, Any]


def run_search_rows(
    searches: Sequence[Search],
    truths: Mapping[str, PromptTruth],
    choices: Choices,
    rooms: Iterable[SearchedRoom],
) -> SearchResult:
    """Score all searches; rooms are taken one at a time, each once.

    Raises DataError for a search without truth and for a truth with objects that its room lacks.
    """
    for search in searches:
        _check(search, truths)
    exact, snapped = _Tally(searches), _Tally(searches)
    for room in rooms:
        exact.add(room, room.ground_truth, truths, choices)
        snapped.add(room, room.snapped or room.ground_truth, truths, choices)
    rows = [_rows(s, truths[s.search_id], exact, snapped) for s in searches]
    search_metrics = _metrics(searches, truths, choices, rows)
    return SearchResult(tuple(with_step for with_step, _ in rows), search_metrics)


def _check(search: Search, truths: Mapping[str, PromptTruth]) -> None:
    truth = truths.get(search.search_id)
    if truth is None or truth.scene_id not in search.rooms:
        found = "none" if truth is None else f"one about {truth.scene_id!r}"
        raise DataError(
            f"search {search.search_id}",
            "a truth about a room of its place",
            found,
            "Correct the query file.",
        )


class _Tally:
    """The counts of all searches by one convention of truth, and the points of their targets."""

    def __init__(self, searches: Sequence[Search]) -> None:
        self._searches = searches
        self.counts = {(s.search_id, source): _Counts() for s in searches for source in SOURCES}
        self.truth_points: dict[str, int] = {}

    def add(
        self,
        room: SearchedRoom,
        scan: GroundTruth,
        truths: Mapping[str, PromptTruth],
        choices: Choices,
    ) -> None:
        """Count the points of one room, whose truth is ``scan``."""
        for search in self._searches:
            if room.scene_id not in search.rooms:
                continue
            target = _target(search, truths[search.search_id], room.scene_id, scan)
            if truths[search.search_id].scene_id == room.scene_id:
                self.truth_points[search.search_id] = len(target)
            for source in SOURCES:
                key = search.search_id, source
                _add(self.counts[key], search, source, choices[key], room, scan, target)


def _target(search: Search, truth: PromptTruth, scene_id: str, scan: GroundTruth) -> Array:
    """Return the points (n,) of a search's target in one room; none in other rooms."""
    if truth.scene_id != scene_id:
        return np.zeros(0, np.int32)
    unknown = set(truth.object_ids) - set(scan.object_ids)
    if unknown:
        raise DataError(
            f"search {search.search_id}",
            f"objects that scene {scene_id} has",
            str(sorted(unknown)),
            "Check that queries and scans are of the same version.",
        )
    return scan.counted_points(truth.object_ids)


def _add(
    counts: _Counts,
    search: Search,
    source: str,
    choice: RoomChoice,
    room: SearchedRoom,
    scan: GroundTruth,
    truth: Array,
) -> None:
    mask = room.masks.get(source, {}).get(search.prompt_id(room.scene_id))
    if mask is None:
        counts.missing = True
        return
    count = metrics.count_points(mask, truth, scan.num_points, scan.left_out)
    for k, is_in in enumerate((choice.room in ("", room.scene_id), True)):
        counts.predicted[k] += count.predicted * is_in
        counts.intersection[k] += count.intersection * is_in


def _rows(
    search: Search, truth: PromptTruth, exact: _Tally, snapped: _Tally
) -> tuple[QueryRow, QueryRow]:
    """Return the search's rows with the room step and without it."""
    targets = TARGET_COUNTS[min(len(set(truth.object_ids)), 2)]
    points = exact.truth_points.get(search.search_id, 0)
    fields = (search.search_id, truth.scene_id, search.text, SEARCH_TASK, targets, points)
    with_step, without_step = (
        QueryRow(*fields, _scores(search, exact, k), snapped=_scores(search, snapped, k))
        for k in range(2)
    )
    return with_step, without_step


def _scores(search: Search, tally: _Tally, k: int) -> dict[str, Score]:
    points = tally.truth_points.get(search.search_id, 0)
    return {source: _score(tally.counts[search.search_id, source], k, points) for source in SOURCES}


def _score(counts: _Counts, k: int, truth_points: int) -> Score:
    intersection, predicted = counts.intersection[k], counts.predicted[k]
    union = predicted + truth_points - intersection
    iou = float(metrics.strict_iou(metrics.Counts.of([(intersection, union)]))[0])
    return Score(intersection, union, iou, predicted, counts.missing)


def _metrics(
    searches: Sequence[Search],
    truths: Mapping[str, PromptTruth],
    choices: Choices,
    rows: Sequence[tuple[QueryRow, QueryRow]],
) -> dict[str, Any]:
    """Compute by source the room hit rates, and the metrics of masks with and without rooms."""
    by_source: dict[str, Any] = {"num_searches": len(searches)}
    for source in SOURCES:
        hits = {
            s.search_id: choices[s.search_id, source].room == truths[s.search_id].scene_id
            for s in searches
        }
        hits_by_signs = {
            "told": [hits[s.search_id] for s in searches if s.signs],
            "untold": [hits[s.search_id] for s in searches if not s.signs],
        }
        headline = [
            metrics.headline(metrics.counts_of([pair[k] for pair in rows], source))
            for k in range(2)
        ]
        by_source[source] = {
            "room_hit_rate": metrics.mean(np.array(list(hits.values()))),
            **{
                f"room_hit_rate_{name}": metrics.mean(np.array(values))
                for name, values in hits_by_signs.items()
            },
            "with_room": headline[0],
            "without_room": headline[1],
        }
    return by_source
