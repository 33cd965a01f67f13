"""Evaluation artifact: ``metrics.json`` (the summary) and ``queries.json`` (one row a query)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.artifacts.store import require_complete, write_text_atomic
from data.artifacts.versions import VERSIONS
from data.errors import ArtifactError

SCHEMA_VERSION = VERSIONS["evaluate"]
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

    ``iou`` is the strict convention's (``stages.metrics``); ``missing`` tells a prediction
    that was not there (scored as empty) from one that is empty.
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
    masks (``stages.benchmarks``): ``unique`` or ``multiple``, and by source the IoU of boxes
    (``box_iou``) or their F1 (``f1_25``, ``f1_50``).
    ``said`` is the answer in words and ``said_by`` the views that gave it; ``right`` are the right
    answers in words, none for a query that is no question.
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
