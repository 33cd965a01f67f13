"""Stage ``report`` where no truth is known: every answer in figures and pictures, none measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from data.artifacts.report import ANSWERS, ReportFiles
from data.progress import Progress, silent
from stages.boxes import centre_and_size
from stages.cloud3d import Mode, Modes
from stages.configs import ReportConfig
from stages.pictures import BOTH, Tile, overview, paint
from stages.report_album import Album
from stages.report_drawing import spread, with_houses
from stages.report_inputs import AnsweredScene, RunRecord
from stages.report_page import render

_ANSWER = "together"
_SOURCES = (_ANSWER, "student", "fusion_only")
_OVERVIEW_TILES = 6
_NAMES = ("answer", "scan")
_LEGEND = ((BOTH, "answer"),)
_MODES = Modes(
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


@dataclass(frozen=True)
class AnswerRow:
    """One answer in figures; centre and size of its box in metres, in the scan's frame.

    Both are None where nothing fits. ``said`` is what the teacher says, in words.
    """

    prompt_id: str
    scene_id: str
    text: str
    score: float
    num_points: int
    centre: tuple[float, ...] | None
    size: tuple[float, ...] | None
    said: str = ""


def run(
    scenes: Callable[[], Iterable[AnsweredScene]],
    record: RunRecord,
    cfg: ReportConfig,
    progress: Progress = silent,
) -> ReportFiles:
    """The page, ``answers.json`` and a picture of some answers, all in memory.

    ``scenes`` is called twice, and the scenes it gives are taken one at a time; ``progress``
    gets (queries drawn, queries to draw).
    """
    rows = [row for item in scenes() for row in answer_rows(item)]
    drawn = spread(rows, cfg.max_pictures)
    shown = {row.prompt_id for row in spread(_found(drawn), _OVERVIEW_TILES)}
    album = Album(_MODES)
    tiles = []
    for row, house, item in with_houses(scenes, drawn, cfg):
        empty = np.zeros(len(item.scene.cloud), bool)
        masks = {s: item.masks.get(s, {}).get(row.prompt_id, empty) for s in _SOURCES}
        viewpoint = house.viewpoint(list(masks.values()))
        corner = viewpoint[0]
        pictures = {name: paint(corner, mask, mask, BOTH) for name, mask in masks.items()}
        album.add(row.prompt_id, house, viewpoint, pictures, masks)
        if row.prompt_id in shown:
            scores = f"{row.scene_id}   score {100 * row.score:.0f} %"
            tiles.append(Tile(row.text, scores, pictures[_ANSWER], corner.picture))
        progress(len(album.cards), len(drawn))
    album.close(cfg.view_megabytes)
    html = render(
        "answers.html.jinja",
        record,
        [_machine_row(row) for row in rows],
        cfg.picture_width,
        album,
        rows=rows,
        scenes=sorted({row.scene_id for row in rows}),
    )
    return ReportFiles(html, {ANSWERS: answers_text(rows)}, overview(tiles, _NAMES, _LEGEND))


def _found(rows: Sequence[AnswerRow]) -> list[AnswerRow]:
    return [row for row in rows if row.num_points]


def answer_rows(item: AnsweredScene) -> list[AnswerRow]:
    """A scene's answers in figures, in the order asked."""
    points = item.scene.cloud.points
    rows = []
    for prompt in item.prompts:
        mask = item.masks[_ANSWER].get(prompt.prompt_id, np.zeros(len(points), bool))
        centre, size = centre_and_size(points[mask])
        score = round(float(item.scores.get(prompt.prompt_id, 0.0)), 4)
        count = int(np.count_nonzero(mask))
        names = prompt.prompt_id, prompt.scene_id, prompt.text
        said = item.said.get(prompt.prompt_id, "")
        rows.append(AnswerRow(*names, score, count, centre, size, said))
    return rows


def answers_text(rows: Sequence[AnswerRow]) -> str:
    """``answers.json``: a list of objects, one an answer, with every number finite."""
    return json.dumps([asdict(row) for row in rows], indent=1, allow_nan=False) + "\n"


def _machine_row(row: AnswerRow) -> dict[str, Any]:
    """What the page shows and its script sorts and filters by."""
    return {
        "scene": row.scene_id,
        "text": row.text,
        "score": row.score,
        "points": row.num_points,
        "centre": _meters(row.centre, ", "),
        "size": _meters(row.size, " × "),
    }


def _meters(values: tuple[float, ...] | None, between: str) -> str:
    return "" if values is None else between.join(f"{value:.2f}" for value in values)
