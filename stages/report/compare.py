"""Stage ``compare``: metrics of several runs with their differences, and a page of them.

Queries, names and paths are untrusted text. The template escapes them, and the page's
Content-Security-Policy allows only the page's own script and style and loads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.artifacts.evaluation import SOURCES, TARGET_COUNTS, QueryRow
from data.errors import UserError
from data.types import Progress, silent
from stages.configs import ReportConfig
from stages.evaluation import metrics
from stages.evaluation.metrics import RESAMPLES, RULES
from stages.evaluation.paired_comparison import (
    METRIC_NAMES,
    PairedMetric,
    RunAnswers,
    SharedQueries,
    paired_metrics,
    shared_queries,
)
from stages.report.charts import Histogram, Scatter, changes_histogram, kind_of, scatter
from stages.report.html import inline, page_scripts, templates
from stages.report.inputs import ComparedScene, CompareInputs
from stages.report.pictures import paint_query
from stages.report.points3d import Mode, Modes
from stages.report.query_cards import Album, DrawnQuery, RenderedScan, make_album, picture_height

SOURCE_NAMES = {
    "student": "student",
    "fusion_only": "lifted labels",
    "together": "student and labels together",
}
MOST_ROWS = 2000
"""Most queries in the table; those that changed most are kept."""
MOST_SETTINGS = 40
"""Most rows in the tables of differing settings and of differing inputs."""
_TILES = ("miou", "acc25", "acc50", "ciou", "giou")


@dataclass(frozen=True, eq=False)
class Group:
    """The metrics of a group of queries."""

    name: str
    num_queries: int
    metrics: Mapping[str, PairedMetric]


@dataclass(frozen=True, eq=False)
class ComparedQuery:
    """One query: its rows and inclusive IoU by run, and the changes against the first run.

    ``changes`` has an entry for each run but the first; ``largest`` is the change of largest size.
    """

    rows: tuple[QueryRow, ...]
    ious: tuple[float, ...]
    changes: tuple[float, ...]
    largest: float


@dataclass(frozen=True, eq=False)
class PageContent:
    """The content of the page: metrics, groups of queries, the queries and their pictures.

    ``metrics`` are those of the chosen source, ``by_source`` those of every source. ``groups``
    holds groups by the title of their table. ``picture_width`` is in pixels.
    """

    metrics: Mapping[str, PairedMetric]
    by_source: Mapping[str, Mapping[str, PairedMetric]]
    groups: Mapping[str, Sequence[Group]]
    shared: SharedQueries
    queries: Sequence[ComparedQuery]
    album: Album
    picture_width: int


def render_page(inputs: CompareInputs, content: PageContent) -> str:
    """Render the page as HTML."""
    names = [f"run {k}" for k in range(1, len(inputs.runs) + 1)]
    queries = content.queries[:MOST_ROWS]
    html = (
        templates()
        .get_template("compare.html.jinja")
        .render(
            points=points,
            chance=chance,
            scripts=[inline([name]) for name in page_scripts(bool(content.album.clouds))],
            style=inline(["report.css", "charts.css", "compare.css"]),
            runs=inputs.runs,
            facts=list(dict.fromkeys(title for run in inputs.runs for title in run.facts)),
            names=names,
            source=inputs.source,
            source_names=SOURCE_NAMES,
            settings=inputs.settings,
            outside=inputs.outside,
            most_settings=MOST_SETTINGS,
            content=content,
            album=content.album,
            tiles=_TILES,
            metric_names=METRIC_NAMES,
            rules=RULES,
            resamples=RESAMPLES,
            num_queries=len(content.queries),
            queries=queries,
            charts=_charts(content.queries, names),
            machine_rows=[_machine_row(query) for query in queries],
            kind_of=kind_of,
            picture_size=(content.picture_width, picture_height(content.picture_width)),
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _charts(
    queries: Sequence[ComparedQuery], names: Sequence[str]
) -> list[tuple[Scatter, Histogram]]:
    """Make two charts for each run but the first: its IoU against the first run's, and changes."""
    ious = np.array([query.ious for query in queries])
    texts = [query.rows[0].text for query in queries]
    charts = []
    for k in range(1, len(names)):
        pair = (names[0], names[k])
        scatter_plot = scatter(ious[:, 0], ious[:, k], texts, pair)
        charts.append((scatter_plot, changes_histogram(ious[:, k] - ious[:, 0], pair)))
    return charts


def _machine_row(query: ComparedQuery) -> dict[str, Any]:
    """Return the values that the page's script sorts and filters a query by."""
    row = query.rows[0]
    return {
        "text": row.text,
        "scene": row.scene_id,
        "task": row.task,
        "targets": row.target_count,
        "kind": kind_of(query.largest),
        "size": abs(query.largest),
        **{f"iou{k}": iou for k, iou in enumerate(query.ious)},
        **{f"change{k}": change for k, change in enumerate(query.changes, start=1)},
    }


def points(difference: float) -> str:
    """Write a difference in percentage points with its sign; no sign where it rounds to 0."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def chance(value: float | None) -> str:
    """Write a p value with three digits; a dash for None."""
    if value is None:
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FEWEST, MOST = 2, 6
"""Least and most runs of one comparison."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The ``html`` page, the ``metrics`` of the chosen source, and the shared queries."""

    html: str
    metrics: Mapping[str, PairedMetric]
    shared: SharedQueries


def run(inputs: CompareInputs, cfg: ReportConfig, progress: Progress = silent) -> Comparison:
    """Compare runs on the queries that all of them have; the same inputs give the same bytes.

    At most ``cfg.max_pictures`` queries are drawn, those that changed most. ``progress`` gets
    (queries drawn, queries to draw). Raises UserError for fewer than two runs or more than six, for
    runs without a common query, and for runs with different truths of one query.
    """
    if not FEWEST <= len(inputs.runs) <= MOST:
        raise UserError(f"expected {FEWEST} to {MOST} runs, found {len(inputs.runs)}")
    answers = [RunAnswers(run.name, run.evaluation.rows, run.targets) for run in inputs.runs]
    shared = shared_queries(answers)
    paired = _paired_metrics(shared.rows, inputs.source)
    queries = changed_most(shared, inputs.source)
    content = PageContent(
        paired,
        {source: _paired_metrics(shared.rows, source) for source in SOURCES},
        _groups(shared, inputs.source),
        shared,
        queries,
        _album(inputs, queries, cfg, progress),
        cfg.picture_width,
    )
    return Comparison(render_page(inputs, content), paired, shared)


def _paired_metrics(runs: Sequence[Sequence[QueryRow]], source: str) -> dict[str, PairedMetric]:
    return paired_metrics([metrics.counts_of(rows, source) for rows in runs])


def _groups(shared: SharedQueries, source: str) -> dict[str, list[Group]]:
    """Compute metrics by task and by number of targets, for groups that have a query."""
    first = shared.rows[0]
    by_task = {task: [r.task == task for r in first] for task in sorted({r.task for r in first})}
    by_count = {n: [r.target_count == n for r in first] for n in TARGET_COUNTS}
    by_title = {}
    for title, chosen_of in (("Task", by_task), ("Targets", by_count)):
        by_title[title] = [
            Group(
                name,
                sum(chosen),
                _paired_metrics([_only(rows, chosen) for rows in shared.rows], source),
            )
            for name, chosen in chosen_of.items()
            if any(chosen)
        ]
    return by_title


def _only(rows: Sequence[QueryRow], chosen: Sequence[bool]) -> list[QueryRow]:
    return [row for row, is_chosen in zip(rows, chosen, strict=True) if is_chosen]


def changed_most(shared: SharedQueries, source: str) -> list[ComparedQuery]:
    """Return all shared queries, ordered by the largest change of inclusive IoU, largest first.

    A change is that of any run against the first. Inclusive IoU makes a mask for an absent object a
    change, too.
    """
    ious = np.stack(
        [metrics.inclusive_iou(metrics.counts_of(rows, source)) for rows in shared.rows], 1
    )
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
    """Draw pictures and pack 3D views of the queries that changed most."""
    rows = _drawn_rows(queries, cfg.max_pictures)
    scene_ids = {row.scene_id for row in rows}
    modes = _modes(len(inputs.runs))
    return make_album(modes, lambda: inputs.scenes(scene_ids), rows, cfg, _draw, progress)


def _drawn_rows(queries: Sequence[ComparedQuery], most: int) -> list[QueryRow]:
    """Choose at most ``most`` of the queries that changed most, half gained and half lost.

    Where one half has too few queries, the other half takes their places.
    """
    changed = [query for query in queries if query.largest]
    gained, lost = ([q for q in changed if (q.largest > 0) is up] for up in (True, False))
    half = most // 2
    kept = gained[: max(most - half, most - len(lost))], lost[: max(half, most - len(gained))]
    return [query.rows[0] for side in kept for query in side]


def _draw(row: QueryRow, rendered: RenderedScan, item: ComparedScene) -> DrawnQuery | None:
    """Draw each run's mask and the truth from one viewpoint; None where no truth is known."""
    if row.prompt_id not in item.truths:
        return None
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths[row.prompt_id]
    masks = {_layer(k): of_run.get(row.prompt_id, empty) for k, of_run in enumerate(item.masks)}
    viewpoint, note = rendered.choose_viewpoint([truth, *masks.values()])
    pictures = paint_query(viewpoint, masks, truth)
    return DrawnQuery(viewpoint, note, pictures, {**masks, "truth": truth})


def _layer(run_index: int) -> str:
    return f"run{run_index + 1}"


def _modes(num_runs: int) -> Modes:
    """Return the modes of the 3D view of ``num_runs`` runs.

    Each run is shown against the truth; each run but the first also beside the first run, and
    against it.
    """
    layers = [_layer(k) for k in range(num_runs)]
    legend_start = (("both", "predicted and true"), ("only", "predicted, not true"))
    modes = [Mode("color", "Colour"), Mode("truth", "Truth", (("mask", "what is true"),), "truth")]
    for k, layer in enumerate(layers, start=1):
        legend = (*legend_start, ("missed", f"true, missed by run {k}"))
        modes.append(Mode(layer, f"Run {k}", legend, layer, "truth"))
    halves = (*legend_start, ("missed", "true, missed"))
    for k, layer in enumerate(layers[1:], start=2):
        beside, names = (layer, "truth"), ("Run 1", f"Run {k}")
        label = f"Runs 1 and {k}"
        modes.append(Mode(f"beside{k}", label, halves, layers[0], "truth", beside, names))
        legend = (("both", "in both"), ("only", f"run {k} only"), ("missed", "run 1 only"))
        modes.append(Mode(f"change{k}", f"Run {k} against 1", legend, layer, layers[0]))
    return Modes((*layers, "truth"), tuple(modes), "beside2")
