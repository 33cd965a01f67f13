"""The page of the report, with its sections on the ablation and on published results.

The tables of other methods lie in ``published/*.yaml``. Each table names its source, how far the
source can be trusted, and why its metrics are or are not comparable with those of this run.

Queries, names and answers are untrusted text. The template escapes them, and the page's
Content-Security-Policy allows only the page's own script and style and loads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from data.artifacts.evaluation import SOURCES, QueryRow
from data.queries.formats import FormatName
from data.rooms.teacher_questions import VISIBLE_SHARE
from stages.configs import Experiment, StageConfig
from stages.evaluation.benchmarks import METRIC_NAMES
from stages.report.charts import (
    BarChart,
    LineCharts,
    arm_bars,
    iou_histograms,
    line_chart,
    line_panels,
)
from stages.report.html import duration, inline, page_scripts, templates
from stages.report.inputs import ReportInputs, RunRecord
from stages.report.query_cards import Album, picture_height

_CURVE_ARMS = ("B", "E", "F", "FE", "G", "H")
_TYPES = ("referring", "colour", "implicit", "spatial", "multiple", "absent")
_RATIOS = {
    "system_over_B_miou": "System over B, mIoU",
    "system_over_B_acc25": "System over B, Acc@0.25",
    "system_over_B_acc50": "System over B, Acc@0.50",
    "system_over_B+_miou": "System over B+, mIoU",
    "closed_gap_miou": "Share of the way from B to H, mIoU",
    "system_at_25_false_masks_over_B_miou": "System over B, mIoU, at 25 % false masks or fewer",
    "C_over_B_miou": "C over B, mIoU",
    "D_over_C_miou": "D over C, mIoU",
    "E_over_D_miou": "E over D, mIoU",
    "F_over_E_miou": "F over E, mIoU",
    "G_over_F_miou": "G over F, mIoU",
}


@dataclass(frozen=True)
class AblationSection:
    """The ablation section: ``content`` of ``ablation.json`` and its types in order.

    ``ratios`` are (name, value) pairs; ``curve`` is None where no arm has a curve.
    """

    content: Mapping[str, Any]
    types: tuple[str, ...]
    ratios: tuple[tuple[str, float], ...]
    bars: BarChart
    curve: LineCharts | None


def ablation_section(content: Mapping[str, Any]) -> AblationSection:
    """Make the section from the content of ``ablation.json``."""
    types = sorted(content["by_type"], key=lambda t: (_TYPES.index(t) if t in _TYPES else 99, t))
    title = "mIoU of each arm in percent, with 95 % intervals over queries"
    named_ratios = tuple(
        (name, content["ratios"][key]) for key, name in _RATIOS.items() if key in content["ratios"]
    )
    return AblationSection(
        content,
        tuple(types),
        named_ratios,
        arm_bars(content["arms"], "miou", title),
        _curve(content["absent_curve"]),
    )


def _curve(points: Sequence[Mapping[str, Any]]) -> LineCharts | None:
    lines = {
        arm: [(p["false_masks"], p["miou"]) for p in points if p["arm"] == arm]
        for arm in _CURVE_ARMS
    }
    if not any(lines.values()):
        return None
    title = "mIoU on objects that are there against the share of absent ones answered with a mask"
    drawn = {arm: line[::-1] for arm, line in lines.items() if line}
    return line_panels([("", drawn)], title, "absent objects answered with a mask, %", "mIoU, %")


_FOLDER = Path(__file__).with_name("published")
_OF_MASKS = ("miou", "giou", "ciou")
_NAMES: Mapping[FormatName, str] = {
    "instruct3d": "Instruct3D",
    "reasonseg3d": "ReasonSeg3D",
    "reason3d": "Reason3D",
    "reason3d_search": "Reason3D's search",
    "scanrefer": "ScanRefer",
    "multi3drefer": "Multi3DRefer",
    "intent3d": "Intent3D",
    "surprise3d": "SURPRISE3D",
}


class PublishedRow(BaseModel):
    """The metrics of one method in percent, in the table's order; None where it gives none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    supervision: Literal["fine-tuned", "zero-shot", "labelled", "label-free", "not said"]
    values: tuple[float | None, ...]


class PublishedTable(BaseModel):
    """One table of one source.

    ``formats`` and ``datasets`` are the query formats and readers of the scene sets that the table
    is about; ``version`` is the version of the data set, "" where there is one version. ``trust``
    is "paper" (the method's own), "readme" (of released code) or "secondary" (public notes, read
    where the paper was not). ``figures`` are keys of
    ``stages.evaluation.benchmarks.METRIC_NAMES``. ``comparable`` tells whether metrics measured
    here are comparable with these; ``reasons`` tells why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    formats: tuple[FormatName, ...]
    datasets: tuple[Literal["scannetpp", "scannet", "matterport"], ...]
    version: Literal["", "v1", "v2"] = ""
    source: str
    trust: Literal["paper", "readme", "secondary"]
    comparable: Literal["yes", "partly", "no"]
    figures: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    reasons: Mapping[Literal["convention", "data", "version", "supervision"], str]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse unknown metrics, and rows whose length differs from ``figures``."""
        unknown = [name for name in self.figures if name not in METRIC_NAMES]
        if unknown or any(len(row.values) != len(self.figures) for row in self.rows):
            raise ValueError(f"{self.name}: figures {unknown or self.figures} and rows do not fit")
        return self


@dataclass(frozen=True)
class TableView:
    """A table, this run's metrics for it by source (fractions), and a note on its version."""

    table: PublishedTable
    own: Mapping[str, tuple[float | None, ...]]
    version_note: str


@dataclass(frozen=True)
class PublishedSection:
    """The section on published results: ``benchmark`` of metrics.json and its tables.

    ``asked`` is the name of the benchmark whose format the queries have. ``names`` holds the
    convention's metrics by key; ``rows`` are pairs of a row's name and its metrics by source.
    """

    benchmark: Mapping[str, Any]
    asked: str
    names: Mapping[str, str]
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    tables: tuple[TableView, ...]
    figure_names: Mapping[str, str] = field(default_factory=lambda: METRIC_NAMES)


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Read and check all published tables, in the order of their files."""
    files = sorted(_FOLDER.glob("*.yaml"))
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    tables = [table for content in contents for table in content["tables"]]
    return tuple(PublishedTable.model_validate(table) for table in tables)


def published_section(summary: Mapping[str, Any]) -> PublishedSection:
    """Make the section of a run from the content of its ``metrics.json``.

    Generated rooms belong to no benchmark, so they get no table.
    """
    benchmark = summary["benchmark"]
    tables = tuple(
        TableView(table, _own(summary, table.figures), _version_note(table, benchmark["version"]))
        for table in published_tables()
        if benchmark["query_format"] in table.formats and benchmark["dataset"] in table.datasets
    )
    metrics = benchmark["figures"]
    overall = metrics["student"]["overall"]
    rows = [("all", {source: metrics[source]["overall"] for source in SOURCES})]
    for name in metrics["student"]["rows"]:
        rows.append((name, {source: metrics[source]["rows"][name] for source in SOURCES}))
    names = {key: name for key, name in METRIC_NAMES.items() if key in overall}
    return PublishedSection(
        benchmark, _NAMES[benchmark["query_format"]], names, tuple(rows), tables
    )


def _own(
    summary: Mapping[str, Any], figures: tuple[str, ...]
) -> dict[str, tuple[float | None, ...]]:
    """Return the run's metrics by source: the benchmark's own, else those of masks by that name."""
    own = {}
    for source in SOURCES:
        overall = summary["benchmark"]["figures"][source]["overall"]
        of_masks = {name: summary[source][name] for name in _OF_MASKS}
        own[source] = tuple({**of_masks, **overall}.get(name) for name in figures)
    return own


def _version_note(table: PublishedTable, version: str) -> str:
    if not table.version or version == table.version:
        return ""
    set_version = f"says {version}" if version else "does not say which version it is of"
    return f"These figures are of version {table.version}; this scene set {set_version}."


_SOURCE_NAMES = {"student": "Student", "fusion_only": "Lifted labels", "together": "Together"}
_METRIC_LABELS = {
    "miou": "mIoU",
    "giou": "gIoU",
    "ciou": "cIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
}
_HEADLINES = ("miou", "acc25", "acc50", "ciou")


def render_page(inputs: ReportInputs, album: Album, picture_width: int) -> str:
    """Render the report as HTML; ``album`` has the cards of the queries with pictures."""
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
        certainty=certainty_panels(inputs.evaluation.summary.get("certainty", {})),
        num_absent=sum(row.target_count == "zero" for row in rows),
        sources=_SOURCE_NAMES,
        figures=_METRIC_LABELS,
        headlines=_HEADLINES,
        visible_share=VISIBLE_SHARE,
        is_supervised=inputs.record.supervised,
        ablation=None if inputs.ablation is None else ablation_section(inputs.ablation),
    )


_FEWEST = 3
_SHORT_NAMES = {"student": "student", "fusion_only": "labels", "together": "both"}


def certainty_panels(certainty: Mapping[str, Any]) -> LineCharts | None:
    """Plot what answers tell of themselves against what is true; None where none tells anything.

    ``certainty`` is that of ``metrics.json``. Bins of fewer than three answers are left out.
    """
    panels, told_any = [], False
    for part, title in (("presence", "Presence"), ("quality", "Quality (IoU)")):
        lines: dict[str, list[tuple[float, float]]] = {"ideal": [(0.0, 0.0), (1.0, 1.0)]}
        for source, name in _SHORT_NAMES.items():
            bins = certainty.get(source, {}).get(part, {}).get("bins", ())
            lines[name] = [(told, true) for told, true, count in bins if count >= _FEWEST]
            told_any |= bool(lines[name])
        panels.append((title, lines))
    if not told_any:
        return None
    return line_panels(panels, "What was told and what was true", "told, percent", "true, percent")


def render(
    template: str,
    record: RunRecord,
    machine_rows: Sequence[Mapping[str, Any]],
    picture_width: int,
    album: Album,
    **content: Any,
) -> str:
    """Render a template of a page with the settings and costs of the run.

    ``machine_rows`` are the values that the page's script sorts by; ``picture_width`` is in
    pixels; ``content`` holds the template's other variables.
    """
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
            has_student=record.has_student,
            teacher_warning=record.teacher_warning,
            changed=changed_values(record.config),
            # No module that declares further steps is no setting of this run.
            settings=[row for row in _flat(record.config) if row != ("steps", [])],
            stages=record.stages,
            total_time=duration(sum(stage.wall_seconds for stage in record.stages)),
            most_memory=max((stage.peak_memory_mb for stage in record.stages), default=0.0),
            chart=line_chart(_losses(record.training)),
            **content,
        )
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _machine_row(row: QueryRow) -> dict[str, Any]:
    """Return the values that the page's script sorts and filters a query by."""
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
    """Return (dotted key, value, default) of every setting that differs from its default."""
    defaults = dict(_flat(type(config)()))
    return [(key, value, defaults[key]) for key, value in _flat(config) if value != defaults[key]]


def _flat(config: StageConfig, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, StageConfig):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _losses(training: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Return (epoch or row number, loss) of the rows with a finite loss."""
    points = []
    for number, row in enumerate(training, start=1):
        x, loss = row.get("epoch", number), row.get("loss")
        if isinstance(loss, int | float) and isinstance(x, int | float) and np.isfinite(loss):
            points.append((float(x), float(loss)))
    return points
