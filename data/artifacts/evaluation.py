"""Artifacts of results: ``metrics.json`` and ``queries.json``, ``ablation.json``, ``report.html``.

``error_curves.json`` with its chart is the artifact of the controlled-error curves.

That is ``metrics.json``, or ``answers.json`` where no truth is known to measure against.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError

METRICS = "metrics.json"
QUERIES = "queries.json"
SOURCES = ("student", "fusion_only", "together")
"""Whose masks are scored: the student's, the lifted pseudo-labels themselves, and both together."""
TargetCount = Literal["zero", "single", "multiple"]
TARGET_COUNTS: tuple[TargetCount, ...] = ("zero", "single", "multiple")
"""By the number of targets; from two on it is the last."""
_REMEDY = "Run Evaluate again."


@dataclass(frozen=True)
class Score:
    """One source's answer to one query, counted on original points.

    ``iou`` is the strict convention's (``stages.evaluation.metrics``); ``missing`` tells a
    prediction that was not there (scored as empty) from one that is empty.
    """

    intersection: int
    union: int
    iou: float
    predicted_points: int
    missing: bool


@dataclass(frozen=True)
class QueryRow:
    """One query and how each source answered it.

    ``group`` and ``official`` are there where the benchmark's convention asks for more than
    masks (``stages.evaluation.benchmarks``): ``unique`` or ``multiple``, and by source the IoU of
    boxes (``box_iou``) or their F1 (``f1_25``, ``f1_50``). ``said`` is the answer in words and
    ``said_by`` the views that gave it; ``right`` are the right answers in words, none for a query
    that is no question.
    """

    prompt_id: str
    scene_id: str
    text: str
    task: str
    target_count: TargetCount
    truth_points: int
    scores: Mapping[str, Score]
    group: str = ""
    official: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    said: str = ""
    said_by: tuple[str, ...] = ()
    right: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """All rows in the order asked, and the summary that becomes ``metrics.json``."""

    rows: tuple[QueryRow, ...]
    summary: Mapping[str, Any]


def metrics_text(summary: Mapping[str, Any]) -> str:
    """``metrics.json`` as text: keys in the summary's order, every number finite."""
    return json.dumps(summary, indent=1, allow_nan=False) + "\n"


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write both files into ``folder``."""
    rows = [asdict(row) for row in evaluation.rows]
    write_text_atomic(folder / METRICS, metrics_text(evaluation.summary))
    write_text_atomic(folder / QUERIES, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in ``folder``; ArtifactError when it is unfinished or damaged."""
    require_complete(folder, _REMEDY)
    path = folder / METRICS
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        path = folder / QUERIES
        rows = tuple(_row(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(path, "an evaluation of this schema", found, _REMEDY) from error
    return Evaluation(rows, summary)


def _row(entry: Mapping[str, Any]) -> QueryRow:
    scores = {source: Score(**entry["scores"][source]) for source in SOURCES}
    lists = {name: tuple(entry[name]) for name in ("said_by", "right")}
    return QueryRow(**{**entry, **lists, "scores": scores})


FIGURES = "ablation.json"
CHART = "ablation.svg"
ROWS = "rows.json"
CURVES = "error_curves.json"
CURVES_CHART = "error_curves.svg"
Wording = Literal["seen", "held_out", ""]
_ABLATION_REMEDY = "Run Ablation again."


@dataclass(frozen=True)
class AnswerRow:
    """One answer to one query, counted on original points (on a picture's cells for the teacher).

    ``kind`` is the query's task, "colour" for a referring query that names one; ``wording``
    tells whether training rooms are asked in these words, "" where that is not known. ``iou`` is
    the strict convention's (``stages.evaluation.metrics``). ``score`` is how sure the answer is
    that the object is there, None where nothing tells. ``plain_iou`` stands where a colour decides,
    for the room has several things of the kind: the strict IoU that the answer to the bank's
    category would have had, None elsewhere.
    """

    prompt_id: str
    scene_id: str
    kind: str
    target_count: TargetCount
    wording: Wording
    intersection: int
    union: int
    iou: float
    predicted_points: int
    score: float | None
    plain_iou: float | None = None


@dataclass(frozen=True)
class ArmRows:
    """One arm's answers: a tuple of rows and the seconds of work for each of its seeds.

    ``in_pictures`` tells an arm scored on pictures, with a row for each picture and query.
    """

    name: str
    title: str
    rows: tuple[tuple[AnswerRow, ...], ...]
    seconds: tuple[float, ...]
    in_pictures: bool = False


def write_ablation(
    folder: Path, figures: Mapping[str, Any], arms: Sequence[ArmRows], chart: str
) -> None:
    """Write all three files into ``folder``; ``chart`` is SVG text."""
    rows = {arm.name: [[asdict(row) for row in of_seed] for of_seed in arm.rows] for arm in arms}
    write_text_atomic(folder / ROWS, json.dumps(rows, allow_nan=False) + "\n")
    write_text_atomic(folder / CHART, chart)
    write_text_atomic(folder / FIGURES, json.dumps(figures, indent=1, allow_nan=False) + "\n")


def read_ablation(folder: Path) -> dict[str, Any]:
    """The figures in ``folder``; ArtifactError when they are unfinished or damaged."""
    require_complete(folder, _ABLATION_REMEDY)
    path = folder / FIGURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            path, "the figures of an ablation", str(error), _ABLATION_REMEDY
        ) from error
    if not isinstance(content, dict) or "arms" not in content:
        raise ArtifactError(path, "the figures of an ablation", "others", _ABLATION_REMEDY)
    return content


def write_error_curves(folder: Path, figures: Mapping[str, Any], chart: str) -> None:
    """Write figures and chart (SVG text) into ``folder``."""
    write_text_atomic(folder / CURVES_CHART, chart)
    write_text_atomic(folder / CURVES, json.dumps(figures, indent=1, allow_nan=False) + "\n")


HTML = "report.html"

ANSWERS = "answers.json"
OVERVIEW = "overview.png"


@dataclass(frozen=True)
class ReportFiles:
    """What a report consists of, in memory; ``texts`` by the name of their file."""

    html: str
    texts: Mapping[str, str]
    overview_png: bytes


def write_report(folder: Path, files: ReportFiles) -> None:
    """Write all files into ``folder``, the page last."""
    for name, text in files.texts.items():
        write_text_atomic(folder / name, text)
    (folder / OVERVIEW).write_bytes(files.overview_png)
    write_text_atomic(folder / HTML, files.html)
