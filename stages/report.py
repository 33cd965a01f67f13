"""Stage ``report``: one self-contained page of figures, provenance and pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.artifacts.evaluation import QueryRow, metrics_text
from data.artifacts.report import METRICS, ReportFiles
from data.progress import Progress, silent
from data.types import Array
from stages.configs import ReportConfig
from stages.pictures import Tile, overview, paint_query
from stages.report_drawing import House, data_uri, spread, with_houses
from stages.report_inputs import Card, ReportInputs, ReportScene
from stages.report_page import render_page

_OVERVIEW_TILES = 6
_PICTURED = ("student", "fusion_only")


def run(
    inputs: ReportInputs,
    cfg: ReportConfig,
    progress: Progress = silent,
) -> ReportFiles:
    """The page, its metrics and a picture for the front page, all in memory.

    ``progress`` gets (queries drawn, queries to draw).
    """
    rows = inputs.evaluation.rows
    drawn = spread(rows, cfg.max_pictures)
    cards: dict[str, Card] = {}
    tiles: dict[str, Tile] = {}
    wanted = {row.prompt_id for row in _overview_rows(drawn)}
    for row, house, scene in with_houses(inputs.scenes, drawn, cfg.picture_width):
        pictures, note = _pictures(row, house, scene)
        cards[row.prompt_id] = Card({k: data_uri(p) for k, p in pictures.items()}, note)
        if row.prompt_id in wanted:
            scores = f"{row.task}   IoU {100 * row.scores['student'].iou:.0f} %"
            tiles[row.prompt_id] = Tile(row.text, scores, pictures["student"], pictures["truth"])
        progress(len(cards), len(drawn))
    ordered = [tiles[row.prompt_id] for row in _overview_rows(drawn) if row.prompt_id in tiles]
    return ReportFiles(
        render_page(inputs, cards, cfg.picture_width),
        {METRICS: metrics_text(inputs.evaluation.summary)},
        overview(ordered),
    )


def _overview_rows(rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Queries with a target, each wording once, evenly from the student's best to its worst."""
    by_text = {row.text: row for row in reversed(rows) if row.target_count != "zero"}
    ranked = sorted(by_text.values(), key=lambda row: (-row.scores["student"].iou, row.prompt_id))
    picks = np.linspace(0, len(ranked) - 1, min(_OVERVIEW_TILES, len(ranked)))
    return [ranked[i] for i in np.rint(picks).astype(int).tolist()]


def _pictures(row: QueryRow, house: House, item: ReportScene) -> tuple[dict[str, Array], str]:
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths.get(row.prompt_id, empty)
    masks = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in _PICTURED}
    corner, note = house.viewpoint([truth, *masks.values()])
    return paint_query(corner, masks, truth), note
