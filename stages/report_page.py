"""The report's page from what it shows and the pictures drawn for it.

Queries, names and answers are untrusted text: the template escapes everything it is given, and
the page's Content-Security-Policy lets only its own script and style run and nothing load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.artifacts.evaluation import SOURCES, QueryRow
from data.rooms.view_queries import VISIBLE_SHARE
from stages.ablation_page import ablation_section
from stages.charts import line_chart
from stages.configs import Experiment, StageConfig
from stages.histograms import iou_histograms
from stages.published import published_section
from stages.report_album import Album
from stages.report_drawing import picture_height
from stages.report_inputs import ReportInputs, RunRecord
from stages.self_contained import inline, page_scripts
from stages.templates import duration, templates

_SOURCE_NAMES = {"student": "Student", "fusion_only": "Lifted labels", "together": "Together"}
_FIGURES = {
    "miou": "mIoU",
    "giou": "gIoU",
    "ciou": "cIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
}
_HEADLINES = ("miou", "acc25", "acc50", "ciou")


def render_page(inputs: ReportInputs, album: Album, picture_width: int) -> str:
    """The whole page; ``album`` has the cards of the queries that have pictures."""
    rows = inputs.evaluation.rows
    return render(
        "report.html.jinja",
        inputs.record,
        [_machine_row(row) for row in rows],
        picture_width,
        album,
        summary=inputs.evaluation.summary,
        published=published_section(inputs.evaluation.summary),
        rows=rows,
        scenes=sorted({row.scene_id for row in rows}),
        histograms=iou_histograms(rows, _SOURCE_NAMES),
        num_absent=sum(row.target_count == "zero" for row in rows),
        sources=_SOURCE_NAMES,
        figures=_FIGURES,
        headlines=_HEADLINES,
        visible_share=VISIBLE_SHARE,
        is_oracle="oracle" in inputs.record.teacher_name.lower(),
        is_supervised=inputs.record.supervised,
        ablation=None if inputs.ablation is None else ablation_section(inputs.ablation),
    )


def render(
    template: str,
    record: RunRecord,
    machine_rows: Sequence[Mapping[str, Any]],
    picture_width: int,
    album: Album,
    **content: Any,
) -> str:
    """A page that says how it was made; ``machine_rows`` are what its script sorts by."""
    style = inline(["report.css", "charts.css"])
    scripts = [inline([name]) for name in page_scripts(bool(album.clouds))]
    html = (
        templates()
        .get_template(template)
        .render(
            scripts=scripts,
            style=style,
            machine_rows=machine_rows,
            cards=album.cards,
            clouds=album.clouds,
            modes=album.modes.for_script(),
            picture_size=(picture_width, picture_height(picture_width)),
            scene_set=record.scene_set,
            teacher=record.teacher_name,
            changed=changed_values(record.config),
            settings=list(_flat(record.config)),
            stages=record.stages,
            total_time=duration(sum(stage.wall_seconds for stage in record.stages)),
            most_memory=max((stage.peak_memory_mb for stage in record.stages), default=0.0),
            chart=line_chart(_losses(record.training)),
            **content,
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _machine_row(row: QueryRow) -> dict[str, Any]:
    """What the page's script sorts and filters by."""
    return {
        "scene": row.scene_id,
        "text": row.text,
        "task": row.task,
        "targets": row.target_count,
        **{source: row.scores[source].iou for source in SOURCES},
        "points": row.scores["student"].predicted_points,
        "truth": row.truth_points,
    }


def changed_values(config: Experiment) -> list[tuple[str, Any, Any]]:
    """(dotted key, value, default) of every setting that differs from its default."""
    defaults = dict(_flat(Experiment()))
    return [(key, value, defaults[key]) for key, value in _flat(config) if value != defaults[key]]


def _flat(config: StageConfig, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, StageConfig):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _losses(training: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(epoch or row number, loss) of the rows that have a finite loss."""
    points = []
    for number, row in enumerate(training, start=1):
        x, loss = row.get("epoch", number), row.get("loss")
        if isinstance(loss, int | float) and isinstance(x, int | float) and np.isfinite(loss):
            points.append((float(x), float(loss)))
    return points
