"""Stages of hierarchical search: find the room that a search means, and score the search.

A room is the more likely meant, the surer the answers to all signs are that what they name is
there (their mean). Where sentences name no room, and between rooms that are equally likely, it is
the room with the surest answer to what is wanted.

With it, the answer is what was found in the room that was chosen, or in all of them where none
was; without it, it is what was found in any room. Either way it is compared with the objects in
the room that is meant, and what was marked elsewhere counts against it.
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
"""How sure each source's answers in one room are, in [0, 1]: by source, then by prompt id."""


def run_find_rooms(
    searches: Sequence[Search], scores: Mapping[str, RoomScores]
) -> list[RoomChoice]:
    """A choice for each search and source, in the order of the searches.

    ``scores`` is by room. Raises KeyError when a room, a source or an answer is not there.
    """
    return [
        _choose(search, source, scores, searches)
        for search in searches
        for source in scores[search.rooms[0]]
    ]


def _choose(
    search: Search, source: str, scores: Mapping[str, RoomScores], searches: Sequence[Search]
) -> RoomChoice:
    likely, wanted = [], []
    for room in search.rooms:
        answers, signs = scores[room][source], sign_ids(searches, room)
        wanted.append(answers[search.prompt_id(room)])
        seen = [answers[signs[text]] for text in search.signs]
        likely.append(float(np.mean(seen)) if seen else wanted[-1])
    order = sorted(range(len(likely)), key=lambda k: (-likely[k], -wanted[k], k))
    room = search.rooms[order[0]] if likely[order[0]] > 0 else ""
    by_room = {name: round(value, 6) for name, value in zip(search.rooms, likely, strict=True)}
    return RoomChoice(search.search_id, source, room, by_room)


Choices = Mapping[tuple[str, str], RoomChoice]


@dataclass(frozen=True, eq=False)
class SearchedRoom:
    """One room's answers: ``masks`` by source, then by prompt id, each (N,) bool; and its truth."""

    scene_id: str
    ground_truth: GroundTruth
    masks: Mapping[str, Mapping[str, Array]]


@dataclass
class _Counts:
    """Points of one search and source, added up over rooms; first with the step, then without."""

    predicted: list[int] = field(default_factory=lambda: [0, 0])
    intersection: list[int] = field(default_factory=lambda: [0, 0])
    missing: bool = False


@dataclass(frozen=True)
class SearchResult:
    """``rows`` count with the rooms found; ``metrics`` is the section ``search`` of the metrics."""

    rows: tuple[QueryRow, ...]
    metrics: Mapping[str, Any]


def run_search_rows(
    searches: Sequence[Search],
    truths: Mapping[str, PromptTruth],
    choices: Choices,
    rooms: Iterable[SearchedRoom],
) -> SearchResult:
    """Score all searches; rooms are taken one at a time, each once.

    Raises DataError for a search without truth and one that names objects its room lacks.
    """
    for search in searches:
        _check(search, truths)
    counts = {(s.search_id, source): _Counts() for s in searches for source in SOURCES}
    truth_points: dict[str, int] = {}
    for room in rooms:
        for search in searches:
            if room.scene_id in search.rooms:
                truth = _truth(search, truths[search.search_id], room)
                if truths[search.search_id].scene_id == room.scene_id:
                    truth_points[search.search_id] = len(truth)
                for source in SOURCES:
                    choice = choices[search.search_id, source]
                    _add(counts[search.search_id, source], search, source, choice, room, truth)
    rows = [_rows(s, truths[s.search_id], truth_points, counts) for s in searches]
    figures = _metrics(searches, truths, choices, rows)
    return SearchResult(tuple(with_step for with_step, _ in rows), figures)


def _check(search: Search, truths: Mapping[str, PromptTruth]) -> None:
    truth = truths.get(search.search_id)
    if truth is None or truth.scene_id not in search.rooms:
        found = "none" if truth is None else f"one about {truth.scene_id!r}"
        raise DataError(
            f"search {search.search_id}", "a truth about a room of its place", found, "Mend it."
        )


def _truth(search: Search, truth: PromptTruth, room: SearchedRoom) -> Array:
    """(n,) points that the search means of one room; none of rooms that it does not mean."""
    if truth.scene_id != room.scene_id:
        return np.zeros(0, np.int32)
    unknown = set(truth.object_ids) - set(room.ground_truth.object_ids)
    if unknown:
        raise DataError(
            f"search {search.search_id}",
            f"objects that scene {room.scene_id} has",
            str(sorted(unknown)),
            "Check that queries and scans are of the same version.",
        )
    return room.ground_truth.counted_points(truth.object_ids)


def _add(
    counts: _Counts,
    search: Search,
    source: str,
    choice: RoomChoice,
    room: SearchedRoom,
    truth: Array,
) -> None:
    mask = room.masks.get(source, {}).get(search.prompt_id(room.scene_id))
    if mask is None:
        counts.missing = True
        return
    scan = room.ground_truth
    count = metrics.count_points(mask, truth, scan.num_points, scan.left_out)
    for k, is_in in enumerate((choice.room in ("", room.scene_id), True)):
        counts.predicted[k] += count.predicted * is_in
        counts.intersection[k] += count.intersection * is_in


def _rows(
    search: Search,
    truth: PromptTruth,
    truth_points: Mapping[str, int],
    counts: Mapping[tuple[str, str], _Counts],
) -> tuple[QueryRow, QueryRow]:
    """The search's row with the step, and without."""
    points = truth_points.get(search.search_id, 0)
    both = []
    for k in range(2):
        scores = {source: _score(counts[search.search_id, source], k, points) for source in SOURCES}
        targets = TARGET_COUNTS[min(len(set(truth.object_ids)), 2)]
        told = (search.search_id, truth.scene_id, search.text, SEARCH_TASK, targets, points)
        both.append(QueryRow(*told, scores))
    return both[0], both[1]


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
    """By source: region hit rate, of all, of named and of unnamed rooms; masks either way."""
    found: dict[str, Any] = {"num_searches": len(searches)}
    for source in SOURCES:
        hits = {
            s.search_id: choices[s.search_id, source].room == truths[s.search_id].scene_id
            for s in searches
        }
        told = {
            "told": [hits[s.search_id] for s in searches if s.signs],
            "untold": [hits[s.search_id] for s in searches if not s.signs],
        }
        headline = [
            metrics.headline(metrics.counts_of([pair[k] for pair in rows], source))
            for k in range(2)
        ]
        found[source] = {
            "room_hit_rate": metrics.mean(np.array(list(hits.values()))),
            **{
                f"room_hit_rate_{name}": metrics.mean(np.array(values))
                for name, values in told.items()
            },
            "with_room": headline[0],
            "without_room": headline[1],
        }
    return found
