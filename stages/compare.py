"""Runs compared: figures with their differences, and a page that shows where runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, QueryRow
from data.errors import UserError
from data.progress import Progress, silent
from data.types import Array
from stages import metrics
from stages.compare_inputs import ComparedScene, CompareInputs
from stages.compare_page import ComparedQuery, Group, PageContent, render_page
from stages.paired_figures import Asked, Figure, SharedQueries, counts_of, figures, shared_queries
from stages.pictures import paint_query
from stages.report_drawing import House, data_uri, with_houses
from stages.report_inputs import Card

FEWEST, MOST = 2, 6
"""Runs of one comparison."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The ``html`` page, the ``figures`` it begins with, and which queries they are over."""

    html: str
    figures: Mapping[str, Figure]
    shared: SharedQueries


def run(
    inputs: CompareInputs, max_pictures: int, picture_width: int, progress: Progress = silent
) -> Comparison:
    """Compare runs by the queries that all were asked; the same inputs give the same bytes.

    At most ``max_pictures`` queries, those that changed most, are drawn. Raises UserError for
    fewer than two runs or more than six, and as of ``shared_queries``. ``progress`` gets
    (queries drawn, queries to draw).
    """
    if not FEWEST <= len(inputs.runs) <= MOST:
        raise UserError(f"expected {FEWEST} to {MOST} runs, found {len(inputs.runs)}")
    asked = [Asked(run.name, run.evaluation.rows, run.targets) for run in inputs.runs]
    shared = shared_queries(asked)
    made = _figures(shared.rows, inputs.source)
    queries = changed_most(shared, inputs.source)
    content = PageContent(
        made,
        {source: _figures(shared.rows, source) for source in SOURCES},
        _groups(shared, inputs.source),
        shared,
        queries,
        _cards(inputs, queries, max_pictures, picture_width, progress),
        picture_width,
    )
    return Comparison(render_page(inputs, content), made, shared)


def _figures(runs: Sequence[Sequence[QueryRow]], source: str) -> dict[str, Figure]:
    return figures([counts_of(rows, source) for rows in runs])


def _groups(shared: SharedQueries, source: str) -> dict[str, list[Group]]:
    """Figures by task and by number of targets, of those that have a query."""
    first = shared.rows[0]
    by_task = {task: [r.task == task for r in first] for task in sorted({r.task for r in first})}
    by_count = {n: [r.target_count == n for r in first] for n in TARGET_COUNTS}
    made = {}
    for title, groups in (("Task", by_task), ("Targets", by_count)):
        made[title] = [
            Group(
                name, sum(chosen), _figures([_only(rows, chosen) for rows in shared.rows], source)
            )
            for name, chosen in groups.items()
            if any(chosen)
        ]
    return made


def _only(rows: Sequence[QueryRow], chosen: Sequence[bool]) -> list[QueryRow]:
    return [row for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen]


def changed_most(shared: SharedQueries, source: str) -> list[ComparedQuery]:
    """All shared queries, those first whose IoU differs most from the first run's in any other.

    IoU is the inclusive one: a mask for an absent object is a change, too.
    """
    ious = np.stack([metrics.inclusive_iou(counts_of(rows, source)) for rows in shared.rows], 1)
    changes = ious[:, 1:] - ious[:, :1]
    largest = np.abs(changes).argmax(1)
    queries = [
        ComparedQuery(
            tuple(rows[k] for rows in shared.rows),
            tuple(ious[k].tolist()),
            tuple(changes[k].tolist()),
            float(changes[k, largest[k]]),
        )
        for k in range(len(ious))
    ]
    return sorted(queries, key=lambda query: (-abs(query.largest), query.rows[0].prompt_id))


def _cards(
    inputs: CompareInputs,
    queries: Sequence[ComparedQuery],
    most: int,
    width: int,
    progress: Progress,
) -> dict[str, Card]:
    """Pictures by prompt id of the queries that changed most, gained and lost in turn."""
    changed = [query for query in queries if query.largest]
    gained, lost = ([q for q in changed if (q.largest > 0) is up] for up in (True, False))
    half = most // 2
    # What one side has too few of, the other fills.
    gained, lost = (
        gained[: max(most - half, most - len(lost))],
        lost[: max(half, most - len(gained))],
    )
    drawn = [query.rows[0] for query in (*gained, *lost)]
    scenes = {row.scene_id for row in drawn}
    cards: dict[str, Card] = {}
    for row, house, item in with_houses(lambda: inputs.scenes(scenes), drawn, width):
        if row.prompt_id in item.truths:
            pictures, note = _pictures(row.prompt_id, house, item)
            cards[row.prompt_id] = Card({k: data_uri(p) for k, p in pictures.items()}, note)
        progress(len(cards), len(drawn))
    return cards


def _pictures(name: str, house: House, item: ComparedScene) -> tuple[dict[str, Array], str]:
    """One picture a run, by its number, and one of the truth, from one corner."""
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths[name]
    masks = {str(k): of_run.get(name, empty) for k, of_run in enumerate(item.masks)}
    corner, note = house.viewpoint([truth, *masks.values()])
    return paint_query(corner, masks, truth), note
