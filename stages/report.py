"""Stage ``report``: one self-contained page of figures, provenance and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.artifacts.evaluation import SOURCES, QueryRow, metrics_text
from data.artifacts.report import METRICS, ReportFiles
from data.progress import Progress, silent
from data.types import Array
from stages.cloud3d import Mode, Modes
from stages.configs import ReportConfig
from stages.pictures import Tile, overview, paint_query
from stages.report_album import Album
from stages.report_drawing import House, spread, with_houses
from stages.report_inputs import ReportInputs, ReportScene
from stages.report_page import render_page

_OVERVIEW_TILES = 6
_PICTURED = ("student", "fusion_only")
_MODES = Modes(
    (*SOURCES, "truth"),
    (
        Mode("color", "Colour"),
        Mode("student", "Prediction", (("mask", "the student's answer"),), "student"),
        Mode("truth", "Truth", (("mask", "what is true"),), "truth"),
        Mode(
            "error",
            "Error",
            (
                ("both", "predicted and true"),
                ("only", "predicted, not true"),
                ("missed", "true, missed by the student"),
            ),
            "student",
            "truth",
        ),
        Mode("lifted", "Lifted", (("mask", "the label lifted from views"),), "fusion_only"),
        Mode("together", "Together", (("mask", "student and label together"),), "together"),
    ),
    "error",
)


def run(
    inputs: ReportInputs,
    cfg: ReportConfig,
    progress: Progress = silent,
) -> ReportFiles:
    """The page, its metrics and a picture for the front page, all in memory.

    ``progress`` gets (queries drawn, queries to draw).
    """
    drawn = spread(inputs.evaluation.rows, cfg.max_pictures)
    album = Album(_MODES)
    tiles: dict[str, Tile] = {}
    wanted = {row.prompt_id for row in _overview_rows(drawn)}
    for row, house, scene in with_houses(inputs.scenes, drawn, cfg):
        pictures = _draw(album, row, house, scene)
        if row.prompt_id in wanted:
            scores = f"{row.task}   IoU {100 * row.scores['student'].iou:.0f} %"
            tiles[row.prompt_id] = Tile(row.text, scores, pictures["student"], pictures["truth"])
        progress(len(album.cards), len(drawn))
    album.close(cfg.view_megabytes)
    ordered = [tiles[row.prompt_id] for row in _overview_rows(drawn) if row.prompt_id in tiles]
    return ReportFiles(
        render_page(inputs, album, cfg.picture_width),
        {METRICS: metrics_text(inputs.evaluation.summary)},
        overview(ordered),
    )


def _overview_rows(rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Queries with a target, each wording once, evenly from the student's best to its worst."""
    by_text = {row.text: row for row in reversed(rows) if row.target_count != "zero"}
    ranked = sorted(by_text.values(), key=lambda row: (-row.scores["student"].iou, row.prompt_id))
    picks = np.linspace(0, len(ranked) - 1, min(_OVERVIEW_TILES, len(ranked)))
    return [ranked[i] for i in np.rint(picks).astype(int).tolist()]


def _draw(album: Album, row: QueryRow, house: House, item: ReportScene) -> dict[str, Array]:
    """A query's card into the album; its pictures."""
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths.get(row.prompt_id, empty)
    layers = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in SOURCES}
    masks = {source: layers[source] for source in _PICTURED}
    viewpoint = house.viewpoint([truth, *masks.values()])
    pictures = paint_query(viewpoint[0], masks, truth)
    album.add(row.prompt_id, house, viewpoint, pictures, {**layers, "truth": truth})
    return pictures
