"""Stage ``report``: a self-contained page, with metrics or, without ground truth, with answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.artifacts.evaluation import ANSWERS, METRICS, SOURCES, QueryRow, ReportFiles, metrics_text
from data.artifacts.soft_masks import StudentTrust
from data.queries.vocabulary import unmet_words, why_nothing
from data.types import Progress, silent
from stages.configs import ReportConfig
from stages.evaluation.calibration import summarise_trust
from stages.evaluation.metrics import centre_and_size
from stages.report.inputs import AnsweredScene, ReportInputs, ReportScene, RunRecord
from stages.report.page import render, render_page
from stages.report.pictures import BOTH, Tile, overview, paint, paint_query
from stages.report.points3d import Mode, Modes
from stages.report.query_cards import DrawnQuery, RenderedScan, make_album, spread

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
    """Make the page, its metrics and an overview picture, all in memory.

    ``progress`` gets (queries drawn, queries to draw).
    """
    drawn_rows = spread(inputs.evaluation.rows, cfg.max_pictures)
    overview_rows = _overview_rows(drawn_rows)
    tile_ids = {row.prompt_id for row in overview_rows}
    tiles: dict[str, Tile] = {}

    def draw(row: QueryRow, rendered: RenderedScan, scene: ReportScene) -> DrawnQuery:
        drawn = _draw(row, rendered, scene)
        if row.prompt_id in tile_ids:
            scores = f"{row.task}   IoU {100 * row.scores['student'].iou:.0f} %"
            pictures = drawn.pictures["student"], drawn.pictures["truth"]
            tiles[row.prompt_id] = Tile(row.text, scores, *pictures)
        return drawn

    album = make_album(_MODES, inputs.scenes, drawn_rows, cfg, draw, progress)
    return ReportFiles(
        render_page(inputs, album, cfg.picture_width),
        {METRICS: metrics_text(inputs.evaluation.summary)},
        overview([tiles[row.prompt_id] for row in overview_rows if row.prompt_id in tiles]),
    )


def _overview_rows(rows: Sequence[QueryRow]) -> list[QueryRow]:
    """Choose queries with a target, each sentence once, evenly from the highest IoU down."""
    by_text = {row.text: row for row in reversed(rows) if row.target_count != "zero"}
    ranked = sorted(by_text.values(), key=lambda row: (-row.scores["student"].iou, row.prompt_id))
    picks = np.linspace(0, len(ranked) - 1, min(_OVERVIEW_TILES, len(ranked)))
    return [ranked[i] for i in np.rint(picks).astype(int).tolist()]


def _draw(row: QueryRow, rendered: RenderedScan, item: ReportScene) -> DrawnQuery:
    """Draw a query's masks and its truth from one viewpoint."""
    empty = np.zeros(len(item.scene.cloud), bool)
    truth = item.truths.get(row.prompt_id, empty)
    layers = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in SOURCES}
    masks = {source: layers[source] for source in _PICTURED}
    viewpoint, note = rendered.choose_viewpoint([truth, *masks.values()])
    pictures = paint_query(viewpoint, masks, truth)
    return DrawnQuery(viewpoint, note, pictures, {**layers, "truth": truth})


_ANSWER = "together"
_SOURCES = (_ANSWER, "student", "fusion_only")

_NAMES = ("answer", "scan")
_LEGEND = ((BOTH, "answer"),)
_ANSWER_MODES = Modes(
    _SOURCES,
    (
        Mode("color", "Colour"),
        Mode("answer", "Answer", (("mask", "student and lifted label together"),), _ANSWER),
        Mode("student", "Student", (("mask", "the student's answer"),), "student"),
        Mode("lifted", "Lifted", (("mask", "the label lifted from views"),), "fusion_only"),
        Mode(
            "agreement",
            "Agreement",
            (("both", "student and label"), ("only", "student alone"), ("missed", "label alone")),
            "student",
            "fusion_only",
        ),
    ),
    "answer",
)

_MODES_WITHOUT_STUDENT = Modes(
    (_ANSWER,),
    (
        Mode("color", "Colour"),
        Mode("answer", "Answer", (("mask", "the label lifted from views"),), _ANSWER),
    ),
    "answer",
)


@dataclass(frozen=True)
class AnswerRow:
    """One answer: how sure it is, number of points, and centre and size of its box in metres.

    ``presence`` is the probability that the scan holds what is asked for, ``quality`` the expected
    IoU of the answer if it does; both are 0 to 1. The box is in the frame of the scan; centre and
    size are None where nothing fits. ``answer`` is the teacher's answer in words, ``unmet`` the
    words that the teacher has never met, and ``holds``, where nothing fits, what the scan seems to
    hold.
    """

    prompt_id: str
    scene_id: str
    text: str
    presence: float
    quality: float
    num_points: int
    centre: tuple[float, ...] | None
    size: tuple[float, ...] | None
    answer: str = ""
    unmet: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """Unmet words and suggestions in words, or ""."""
        return why_nothing(self.unmet, self.holds)


def run_answers(
    scenes: Callable[[], Iterable[AnsweredScene]],
    record: RunRecord,
    cfg: ReportConfig,
    progress: Progress = silent,
) -> ReportFiles:
    """Make the page, ``answers.json`` and an overview picture of some answers, all in memory.

    ``scenes`` is called twice and gives one scene at a time. ``progress`` gets (queries drawn,
    queries to draw).
    """
    rows: list[AnswerRow] = []
    trusts: dict[str, StudentTrust] = {}
    for item in scenes():
        rows += answer_rows(item)
        trusts |= {} if item.trust is None else {item.scene.scene_id: item.trust}
    drawn_rows = spread(rows, cfg.max_pictures)
    tile_ids = {row.prompt_id for row in spread(_answered(drawn_rows), _OVERVIEW_TILES)}
    tiles = []
    modes = _ANSWER_MODES if record.has_student else _MODES_WITHOUT_STUDENT

    def draw(row: AnswerRow, rendered: RenderedScan, item: AnsweredScene) -> DrawnQuery:
        empty = np.zeros(len(item.scene.cloud), bool)
        masks = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in modes.layers}
        viewpoint, note = rendered.choose_viewpoint(list(masks.values()))
        pictures = {name: paint(viewpoint, mask, mask, BOTH) for name, mask in masks.items()}
        if row.prompt_id in tile_ids:
            scores = f"{row.scene_id}   presence {100 * row.presence:.0f} %"
            tiles.append(Tile(row.text, scores, pictures[_ANSWER], viewpoint.picture))
        return DrawnQuery(viewpoint, note, pictures, masks)

    album = make_album(modes, scenes, drawn_rows, cfg, draw, progress)
    html = render(
        "answers.html.jinja",
        record,
        [_machine_row(row) for row in rows],
        cfg.picture_width,
        album,
        rows=rows,
        scenes=sorted({row.scene_id for row in rows}),
        trust=summarise_trust(trusts),
    )
    return ReportFiles(html, {ANSWERS: answers_text(rows)}, overview(tiles, _NAMES, _LEGEND))


def _answered(rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    return [row for row in rows if row.num_points]


def answer_rows(item: AnsweredScene) -> list[AnswerRow]:
    """Return the rows of a scene's answers, in the order of its prompts."""
    points, holds = item.scene.cloud.points, item.holds()
    rows = []
    for prompt in item.prompts:
        mask = item.masks[_ANSWER].get(prompt.prompt_id, np.zeros(len(points), bool))
        centre, size = centre_and_size(points[mask])
        presence, quality = item.certainty.get(prompt.prompt_id, (0.0, 0.0))
        sure = round(presence, 4), round(quality, 4)
        count = int(np.count_nonzero(mask))
        names = prompt.prompt_id, prompt.scene_id, prompt.text
        answer = item.answers.get(prompt.prompt_id, "")
        unmet = () if item.met is None else unmet_words(prompt.text, item.met)
        fitting = () if count else holds
        rows.append(AnswerRow(*names, *sure, count, centre, size, answer, unmet, fitting))
    return rows


def answers_text(rows: Sequence[AnswerRow]) -> str:
    """Write ``answers.json``: a list of objects, one for each answer, all numbers finite."""
    return json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False) + "\n"


def _machine_row(row: AnswerRow) -> dict[str, Any]:
    """Return the values of an answer that the page shows and its script sorts and filters by."""
    return {
        "scene": row.scene_id,
        "text": row.text,
        "presence": row.presence,
        "quality": row.quality,
        "points": row.num_points,
        "centre": _meters(row.centre, ", "),
        "size": _meters(row.size, " × "),
    }


def _meters(values: tuple[float, ...] | None, between: str) -> str:
    return "" if values is None else between.join(f"{value:.2f}" for value in values)
