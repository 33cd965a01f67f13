"""Read and write results: metrics, ablations, error curves and reports.

Evaluate writes ``metrics.json`` (the summary) and ``queries.json`` (one row a query); Ablation
writes ``ablation.json``, ``rows.json`` and a chart; the controlled-error curves are
``error_curves.json`` and a chart. A report is ``report.html`` with an overview picture and
``metrics.json``, or ``answers.json`` for scenes without ground truth.
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
"""Whose masks are scored: the student's, the fused pseudo-labels, or both together."""
TargetCount = Literal["zero", "single", "multiple"]
TARGET_COUNTS: tuple[TargetCount, ...] = ("zero", "single", "multiple")
"""Groups of queries by their number of target objects: none, one, or several."""
_REMEDY = "Run Evaluate again."


@dataclass(frozen=True)
class Score:
    """The score of one source's mask for one query; counts are of the scan's original points.

    ``iou`` follows the strict convention (``stages.evaluation.metrics``). ``missing`` marks a
    query without a prediction, which is scored as an empty mask. ``presence`` and ``quality`` are
    how sure the source is (``stages.certainty``), None where it does not tell.
    """

    intersection: int
    union: int
    iou: float
    predicted_points: int
    missing: bool
    presence: float | None = None
    quality: float | None = None


@dataclass(frozen=True)
class QueryRow:
    """One query and the score of each source's mask, by source.

    ``group`` ("unique" or "multiple") and ``official`` are set where the benchmark's convention
    (``stages.evaluation.benchmarks``) scores boxes: ``official`` holds, by source, the IoU of
    boxes (``box_iou``) or their F1 (``f1_25``, ``f1_50``). ``answer`` is the answer in words,
    ``answer_views`` the views that gave it, and ``right`` the correct answers in words, empty for a
    query without any. ``snapped`` are the scores against the truth snapped to superpoints
    (``stages.evaluation.scan_quality``).
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
    answer: str = ""
    answer_views: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    snapped: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The rows of all queries, in their order, and the summary that becomes ``metrics.json``."""

    rows: tuple[QueryRow, ...]
    summary: Mapping[str, Any]


def metrics_text(summary: Mapping[str, Any]) -> str:
    """Write a summary as the text of ``metrics.json``; ValueError unless all numbers are finite."""
    return json.dumps(summary, indent=1, allow_nan=False) + "\n"


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write both files into ``folder``."""
    rows = [asdict(row) for row in evaluation.rows]
    write_text_atomic(folder / METRICS, metrics_text(evaluation.summary))
    write_text_atomic(folder / QUERIES, json.dumps(rows, indent=1, allow_nan=False) + "\n")


def read_evaluation(folder: Path) -> Evaluation:
    """Read the evaluation in ``folder``; ArtifactError when it is unfinished or damaged."""
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
    snapped = {source: Score(**score) for source, score in entry.get("snapped", {}).items()}
    lists = {name: tuple(entry[name]) for name in ("answer_views", "right")}
    return QueryRow(**{**entry, **lists, "scores": scores, "snapped": snapped})


FIGURES = "ablation.json"
CHART = "ablation.svg"
ROWS = "rows.json"
CURVES = "error_curves.json"
CURVES_CHART = "error_curves.svg"
Wording = Literal["seen", "held_out", ""]
_ABLATION_REMEDY = "Run Ablation again."


@dataclass(frozen=True)
class AnswerRow:
    """The score of one answer to one query in an arm of the ablation.

    Counts are of original points or, for the teacher, of the cells of a picture. ``kind`` is the
    query's task, or "colour" for a referring query that names a colour. ``wording`` tells whether
    training rooms use the query's wording ("seen") or not ("held_out"); "" means unknown. ``iou``
    follows the strict convention (``stages.evaluation.metrics``). ``score`` is the confidence
    that the object is present, None if unknown. ``plain_iou`` is set where only a colour tells
    the target from other objects of its category: the strict IoU of the answer to the category
    alone (from the background vocabulary), None elsewhere.
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
    """One arm of the ablation: for each of its seeds, a tuple of rows and the seconds of work.

    ``in_pictures`` marks an arm scored in 2D, with one row for each picture and query.
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
    """Read the metrics of an ablation; ArtifactError when they are unfinished or damaged."""
    require_complete(folder, _ABLATION_REMEDY)
    path = folder / FIGURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            path, "the metrics of an ablation", str(error), _ABLATION_REMEDY
        ) from error
    if not isinstance(content, dict) or "arms" not in content:
        found = "JSON without the key 'arms'"
        raise ArtifactError(path, "the metrics of an ablation", found, _ABLATION_REMEDY)
    return content


def write_error_curves(folder: Path, figures: Mapping[str, Any], chart: str) -> None:
    """Write the metrics and the chart (SVG text) of the error curves into ``folder``."""
    write_text_atomic(folder / CURVES_CHART, chart)
    write_text_atomic(folder / CURVES, json.dumps(figures, indent=1, allow_nan=False) + "\n")


HTML = "report.html"

ANSWERS = "answers.json"
OVERVIEW = "overview.png"


@dataclass(frozen=True)
class ReportFiles:
    """The contents of a report's files; ``texts`` holds the text files by name."""

    html: str
    texts: Mapping[str, str]
    overview_png: bytes


def write_report(folder: Path, files: ReportFiles) -> None:
    """Write all files into ``folder``, the page last."""
    for name, text in files.texts.items():
        write_text_atomic(folder / name, text)
    (folder / OVERVIEW).write_bytes(files.overview_png)
    write_text_atomic(folder / HTML, files.html)
