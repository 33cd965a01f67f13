"""Stage ``compare``: several runs with their differences, and the page that shows them.

Queries, names and paths are untrusted text: the template escapes everything it is given, and
the page's Content-Security-Policy lets only its own script and style run and nothing load.
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
"""Queries in the table; of more, those that changed most."""
MOST_SETTINGS = 40
"""Rows of a table of what differs between configs, or between inputs."""
_TILES = ("miou", "acc25", "acc50", "ciou", "giou")


@dataclass(frozen=True, eq=False)
class Group:
    """Figures of some queries."""

    name: str
    num_queries: int
    metrics: Mapping[str, PairedMetric]


@dataclass(frozen=True, eq=False)
class ComparedQuery:
    """One query: its rows and inclusive IoU by run, and how those of all runs but the first differ.

    ``largest`` is the change of largest size.
    """

    rows: tuple[QueryRow, ...]
    ious: tuple[float, ...]
    changes: tuple[float, ...]
    largest: float


@dataclass(frozen=True, eq=False)
class PageContent:
    """What is shown: metrics of the chosen source, of every source and by group; the queries."""

    metrics: Mapping[str, PairedMetric]
    by_source: Mapping[str, Mapping[str, PairedMetric]]
    groups: Mapping[str, Sequence[Group]]
    shared: SharedQueries
    queries: Sequence[ComparedQuery]
    album: Album
    picture_width: int


def render_page(inputs: CompareInputs, content: PageContent) -> str:
    """The whole page."""
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
    """Of every run but the first: its IoU against the first's, and the changes."""
    ious = np.array([query.ious for query in queries])
    texts = [query.rows[0].text for query in queries]
    made = []
    for k in range(1, len(names)):
        pair = (names[0], names[k])
        drawn = scatter(ious[:, 0], ious[:, k], texts, pair)
        made.append((drawn, changes_histogram(ious[:, k] - ious[:, 0], pair)))
    return made


def _machine_row(query: ComparedQuery) -> dict[str, Any]:
    """What the page's script sorts and filters by."""
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
    """A difference in percentage points, with its sign; no sign where it rounds to nothing."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "\N{MINUS SIGN}")


def chance(value: float | None) -> str:
    """A p value to three digits; a dash where there is none."""
    if value is None:
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


FEWEST, MOST = 2, 6
"""Runs of one comparison."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """The ``html`` page, the ``metrics`` it begins with, and which queries they are over."""

    html: str
    metrics: Mapping[str, PairedMetric]
    shared: SharedQueries


def run(inputs: CompareInputs, cfg: ReportConfig, progress: Progress = silent) -> Comparison:
    """Compare runs by the queries that all were asked; the same inputs give the same bytes.

    At most ``cfg.max_pictures`` queries, those that changed most, are drawn. Raises UserError for
    fewer than two runs or more than six, and as of ``shared_queries``. ``progress`` gets
    (queries drawn, queries to draw).
    """
    if not FEWEST <= len(inputs.runs) <= MOST:
        raise UserError(f"expected {FEWEST} to {MOST} runs, found {len(inputs.runs)}")
    asked = [RunAnswers(run.name, run.evaluation.rows, run.targets) for run in inputs.runs]
    shared = shared_queries(asked)
    made = _paired_metrics(shared.rows, inputs.source)
    queries = changed_most(shared, inputs.source)
    content = PageContent(
        made,
        {source: _paired_metrics(shared.rows, source) for source in SOURCES},
        _groups(shared, inputs.source),
        shared,
        queries,
        _album(inputs, queries, cfg, progress),
        cfg.picture_width,
    )
    return Comparison(render_page(inputs, content), made, shared)


def _paired_metrics(runs: Sequence[Sequence[QueryRow]], source: str) -> dict[str, PairedMetric]:
    return paired_metrics([metrics.counts_of(rows, source) for rows in runs])


def _groups(shared: SharedQueries, source: str) -> dict[str, list[Group]]:
    """Figures by task and by number of targets, of those that have a query."""
    first = shared.rows[0]
    by_task = {task: [r.task == task for r in first] for task in sorted({r.task for r in first})}
    by_count = {n: [r.target_count == n for r in first] for n in TARGET_COUNTS}
    made = {}
    for title, groups in (("Task", by_task), ("Targets", by_count)):
        made[title] = [
            Group(
                name,
                sum(chosen),
                _paired_metrics([_only(rows, chosen) for rows in shared.rows], source),
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
    """Pictures and 3D of the queries that changed most."""
    rows = _drawn_rows(queries, cfg.max_pictures)
    scene_ids = {row.scene_id for row in rows}
    modes = _modes(len(inputs.runs))
    return make_album(modes, lambda: inputs.scenes(scene_ids), rows, cfg, _draw, progress)


def _drawn_rows(queries: Sequence[ComparedQuery], most: int) -> list[QueryRow]:
    """Those that changed most, gained and lost alike; what one has too few of the other fills."""
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
