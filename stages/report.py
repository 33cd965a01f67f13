"""Stage ``report``: one self-contained page of figures, provenance and pictures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from data.artifacts.evaluation import QueryRow, metrics_text
from data.artifacts.report import ReportFiles
from data.progress import Progress, silent
from data.types import Array
from stages.configs import ReportConfig
from stages.dollhouse import Corner, draw_below, draw_corners
from stages.pictures import Tile, best_corner, overview, paint_query, webp
from stages.report_inputs import Card, ReportInputs, ReportScene
from stages.report_page import picture_height, render_page

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
    drawn = _spread(rows, cfg.max_pictures)
    cards: dict[str, Card] = {}
    tiles: dict[str, Tile] = {}
    wanted = {row.prompt_id for row in _overview_rows(drawn)}
    for row, house, scene in _to_draw(inputs, drawn, cfg.picture_width):
        pictures, note = _pictures(row, house, scene)
        cards[row.prompt_id] = Card({k: _data_uri(p) for k, p in pictures.items()}, note)
        if row.prompt_id in wanted:
            scores = f"{row.task}   IoU {100 * row.scores['student'].iou:.0f} %"
            tiles[row.prompt_id] = Tile(row.text, scores, pictures["student"], pictures["truth"])
        progress(len(cards), len(drawn))
    ordered = [tiles[row.prompt_id] for row in _overview_rows(drawn) if row.prompt_id in tiles]
    return ReportFiles(
        render_page(inputs, cards, cfg.picture_width),
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
    size = width, picture_height(width)
    for item in inputs.scenes():
        mine = [row for row in rows if row.scene_id == item.scene.scene_id]
        corners = draw_corners(item.scene, *size) if mine else []
        if corners:
            house = _House(corners, cache(partial(draw_below, item.scene, *size)))
            yield from ((row, house, item) for row in mine)


def _pictures(row: QueryRow, house: _House, item: ReportScene) -> tuple[dict[str, Array], str]:
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths.get(row.prompt_id, empty)
    masks = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in _PICTURED}
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
