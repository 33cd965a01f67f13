"""The page of a comparison, from its figures and the pictures drawn for it.

Queries, names and paths are untrusted text: the template escapes everything it is given, and
the page's Content-Security-Policy lets only its own script and style run and nothing load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.artifacts.evaluation import QueryRow
from stages.bootstrap import RESAMPLES
from stages.compare_charts import Histogram, Scatter, changes_histogram, kind_of, scatter
from stages.compare_inputs import CompareInputs
from stages.metrics import RULES
from stages.paired_figures import FIGURES, Figure, SharedQueries
from stages.report_album import Album
from stages.report_drawing import picture_height
from stages.self_contained import inline, page_scripts
from stages.templates import templates

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
    figures: Mapping[str, Figure]


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
    """What is shown: figures of the chosen source, of every source and by group; the queries."""

    figures: Mapping[str, Figure]
    by_source: Mapping[str, Mapping[str, Figure]]
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
            figure_names=FIGURES,
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
