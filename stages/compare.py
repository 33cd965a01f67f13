"""Runs compared: figures with their differences, and a page that shows where runs differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, QueryRow
from data.errors import UserError
from data.progress import Progress, silent
from stages import metrics
from stages.cloud3d import Mode, Modes
from stages.compare_inputs import ComparedScene, CompareInputs
from stages.compare_page import ComparedQuery, Group, PageContent, render_page
from stages.configs import ReportConfig
from stages.paired_figures import Asked, Figure, SharedQueries, counts_of, figures, shared_queries
from stages.pictures import paint_query
from stages.report_album import Album
from stages.report_drawing import House, with_houses

FEWEST, MOST = 2, 6
"""Runs of one comparison."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The ``html`` page, the ``figures`` it begins with, and which queries they are over."""

    html: str
    figures: Mapping[str, Figure]
    shared: SharedQueries


def run(inputs: CompareInputs, cfg: ReportConfig, progress: Progress = silent) -> Comparison:
    """Compare runs by the queries that all were asked; the same inputs give the same bytes.

    At most ``cfg.max_pictures`` queries, those that changed most, are drawn. Raises UserError for
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
        _album(inputs, queries, cfg, progress),
        cfg.picture_width,
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


def _album(
    inputs: CompareInputs, queries: Sequence[ComparedQuery], cfg: ReportConfig, progress: Progress
) -> Album:
    """Pictures and 3D of the queries that changed most."""
    album = Album(_modes(len(inputs.runs)))
    drawn = _drawn(queries, cfg.max_pictures)
    wanted = {row.scene_id for row in drawn}
    for row, house, item in with_houses(lambda: inputs.scenes(wanted), drawn, cfg):
        if row.prompt_id in item.truths:
            _draw(album, row.prompt_id, house, item)
        progress(len(album.cards), len(drawn))
    return album


def _drawn(queries: Sequence[ComparedQuery], most: int) -> list[QueryRow]:
    """Those that changed most, gained and lost alike; what one has too few of the other fills."""
    changed = [query for query in queries if query.largest]
    gained, lost = ([q for q in changed if (q.largest > 0) is up] for up in (True, False))
    half = most // 2
    kept = gained[: max(most - half, most - len(lost))], lost[: max(half, most - len(gained))]
    return [query.rows[0] for side in kept for query in side]


def _draw(album: Album, name: str, house: House, item: ComparedScene) -> None:
    """One picture a run, by its number, and one of the truth, from one corner."""
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths[name]
    masks = {_layer(k): of_run.get(name, empty) for k, of_run in enumerate(item.masks)}
    viewpoint = house.viewpoint([truth, *masks.values()])
    pictures = paint_query(viewpoint[0], masks, truth)
    album.add(name, house, viewpoint, pictures, {**masks, "truth": truth})


def _layer(run_index: int) -> str:
    return f"run{run_index + 1}"


def _modes(num_runs: int) -> Modes:
    """Each run against the truth, and each but the first beside and against the first."""
    layers = [_layer(k) for k in range(num_runs)]
    told = (("both", "predicted and true"), ("only", "predicted, not true"))
    modes = [Mode("color", "Colour"), Mode("truth", "Truth", (("mask", "what is true"),), "truth")]
    for k, layer in enumerate(layers, start=1):
        legend = (*told, ("missed", f"true, missed by run {k}"))
        modes.append(Mode(layer, f"Run {k}", legend, layer, "truth"))
    halves = (*told, ("missed", "true, missed"))
    for k, layer in enumerate(layers[1:], start=2):
        beside, names = (layer, "truth"), ("Run 1", f"Run {k}")
        label = f"Runs 1 and {k}"
        modes.append(Mode(f"beside{k}", label, halves, layers[0], "truth", beside, names))
        legend = (("both", "in both"), ("only", f"run {k} only"), ("missed", "run 1 only"))
        modes.append(Mode(f"change{k}", f"Run {k} against 1", legend, layer, layers[0]))
    return Modes((*layers, "truth"), tuple(modes), "beside2")
