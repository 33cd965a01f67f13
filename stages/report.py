"""Stage ``report``: one self-contained page of figures, provenance and pictures.

Queries, names and answers are untrusted text: the template escapes everything it is given, and
the page's Content-Security-Policy lets only its own script and style run and nothing load.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from data.artifacts.evaluation import SOURCES, Evaluation, QueryRow, metrics_text
from data.artifacts.report import ReportFiles
from data.progress import Progress, silent
from data.rooms.view_queries import VISIBLE_SHARE
from data.types import Array, Scene
from stages.charts import line_chart
from stages.configs import Experiment, ReportConfig, StageConfig
from stages.dollhouse import Corner, draw_below, draw_corners
from stages.pictures import Tile, best_corner, overview, paint_query, webp

_HERE = Path(__file__).parent
_OVERVIEW_TILES = 6
_SOURCE_NAMES = {"student": "Student", "fusion_only": "Lifted labels"}
_FIGURES = {
    "miou": "mIoU",
    "giou": "gIoU",
    "ciou": "cIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
}


@dataclass(frozen=True)
class StageRecord:
    """What one stage cost: summed seconds and largest memory over its ``count`` artifacts."""

    stage: str
    fingerprint: str
    wall_seconds: float
    peak_memory_mb: float
    count: int = 1


@dataclass(frozen=True, eq=False)
class ReportScene:
    """A scene to draw, with its masks by source and prompt id and its truth by prompt id.

    Every mask is (N,) bool over the scene's points; one that is not there is drawn as empty.
    """

    scene: Scene
    masks: Mapping[str, Mapping[str, Array]]
    truths: Mapping[str, Array]


@dataclass(frozen=True, eq=False)
class ReportInputs:
    """Everything the page shows.

    ``scenes`` is called once, and the scenes it gives are taken one at a time. ``training``
    holds rows of ``metrics.jsonl``; those with a number under "loss" make the curve, over
    "epoch" where they have one.
    """

    evaluation: Evaluation
    scenes: Callable[[], Iterable[ReportScene]]
    scene_set: str
    teacher_name: str
    config: Experiment
    stages: Sequence[StageRecord]
    training: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class _Card:
    """Pictures of one query as data URIs by name, and what to know about the viewpoint."""

    pictures: Mapping[str, str]
    note: str


def run(
    inputs: ReportInputs,
    cfg: ReportConfig,
    progress: Progress = silent,
) -> ReportFiles:
    """The page, its metrics and a picture for the front page, all in memory.

    ``progress`` gets (queries drawn, queries to draw).
    """
    rows = inputs.evaluation.rows
    drawn = _spread(rows, cfg.max_pictures)
    cards: dict[str, _Card] = {}
    tiles: dict[str, Tile] = {}
    wanted = {row.prompt_id for row in _overview_rows(drawn)}
    for row, house, scene in _to_draw(inputs, drawn, cfg.picture_width):
        pictures, note = _pictures(row, house, scene)
        cards[row.prompt_id] = _Card({k: _data_uri(p) for k, p in pictures.items()}, note)
        if row.prompt_id in wanted:
            scores = f"{row.task}   IoU {100 * row.scores['student'].iou:.0f} %"
            tiles[row.prompt_id] = Tile(row.text, scores, pictures["student"], pictures["truth"])
        progress(len(cards), len(drawn))
    ordered = [tiles[row.prompt_id] for row in _overview_rows(drawn) if row.prompt_id in tiles]
    return ReportFiles(
        _page(inputs, cards, cfg.picture_width),
        metrics_text(inputs.evaluation.summary),
        overview(ordered),
    )


def _spread(rows: Sequence[QueryRow], count: int) -> list[QueryRow]:
    """At most ``count`` rows, evenly over all of them."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in (np.arange(count) * len(rows) // max(count, 1)).tolist()]


def _overview_rows(rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Queries with a target, each wording once, evenly from the student's best to its worst."""
    by_text = {row.text: row for row in reversed(rows) if row.target_count != "zero"}
    ranked = sorted(by_text.values(), key=lambda row: (-row.scores["student"].iou, row.prompt_id))
    picks = np.linspace(0, len(ranked) - 1, min(_OVERVIEW_TILES, len(ranked)))
    return [ranked[i] for i in np.rint(picks).astype(int).tolist()]


@dataclass(frozen=True, eq=False)
class _House:
    """A scene's four upper corners, and its view from below for what those do not show."""

    corners: list[Corner]
    below: Callable[[], list[Corner]]


def _to_draw(
    inputs: ReportInputs, rows: Sequence[QueryRow], width: int
) -> Iterable[tuple[QueryRow, _House, ReportScene]]:
    """Each row with its scene, which is drawn once for all its rows."""
    if not rows:
        return
    size = width, _height(width)
    for item in inputs.scenes():
        mine = [row for row in rows if row.scene_id == item.scene.scene_id]
        corners = draw_corners(item.scene, *size) if mine else []
        if corners:
            house = _House(corners, cache(partial(draw_below, item.scene, *size)))
            yield from ((row, house, item) for row in mine)


def _height(width: int) -> int:
    return width * 5 // 6


def _pictures(row: QueryRow, house: _House, item: ReportScene) -> tuple[dict[str, Array], str]:
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths.get(row.prompt_id, empty)
    masks = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in SOURCES}
    wanted = [mask for mask in (truth, *masks.values()) if mask.any()]
    corner, visible = best_corner(house.corners, wanted[:1])
    note = ""
    if wanted and not visible:
        corner, visible = best_corner(house.below(), wanted[:1])
        note = "Seen from below, through the floor."
    if wanted and not visible:
        corner, _ = best_corner(house.corners, wanted)
        note = "Hidden from every side."
    return paint_query(corner, masks, truth), note


def _data_uri(picture: Array) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp(picture)).decode()


def _page(inputs: ReportInputs, cards: Mapping[str, _Card], picture_width: int) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    script, style = ((_HERE / f"report.{kind}").read_text("utf-8") for kind in ("js", "css"))
    rows = inputs.evaluation.rows
    html = environment.get_template("report.html.jinja").render(
        script=Markup(script),
        style=Markup(style),
        script_hash=_csp_hash(script),
        style_hash=_csp_hash(style),
        summary=inputs.evaluation.summary,
        rows=rows,
        num_scenes=len({row.scene_id for row in rows}),
        cards=cards,
        picture_size=(picture_width, _height(picture_width)),
        machine_rows=[_machine_row(row) for row in rows],
        sources=_SOURCE_NAMES,
        figures=_FIGURES,
        visible_share=VISIBLE_SHARE,
        scene_set=inputs.scene_set,
        teacher=inputs.teacher_name,
        is_oracle="oracle" in inputs.teacher_name.lower(),
        changed=changed_values(inputs.config),
        settings=list(_flat(inputs.config)),
        stages=inputs.stages,
        chart=line_chart(_losses(inputs.training)),
    )
    return html.encode("utf-8", "replace").decode("utf-8")


def _csp_hash(text: str) -> str:
    """The Content-Security-Policy source that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


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
