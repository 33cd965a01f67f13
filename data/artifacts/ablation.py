"""Ablation artifact: ``ablation.json`` (figures), ``rows.json`` (each answer) and a chart.

``error_curves.json`` with its chart is the artifact of the controlled-error curves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from data.artifacts.evaluation import TargetCount
from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError

FIGURES = "ablation.json"
CHART = "ablation.svg"
ROWS = "rows.json"
CURVES = "error_curves.json"
CURVES_CHART = "error_curves.svg"
Wording = Literal["seen", "held_out", ""]
_REMEDY = "Run Ablation again."


@dataclass(frozen=True)
class AnswerRow:
    """One answer to one query, counted on original points (on a picture's cells for the teacher).

    ``kind`` is the query's task, "colour" for a referring query that names one; ``wording``
    tells whether training rooms are asked in these words, "" where that is not known. ``iou`` is
    the strict convention's (``stages.metrics``). ``score`` is how sure the answer is that the
    object is there, None where nothing tells. ``plain_iou`` stands where a colour decides, for the
    room has several things of the kind: the strict IoU that the answer to the bank's category
    would have had, None elsewhere.
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
    require_complete(folder, _REMEDY)
    path = folder / FIGURES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(path, "the figures of an ablation", str(error), _REMEDY) from error
    if not isinstance(content, dict) or "arms" not in content:
        raise ArtifactError(path, "the figures of an ablation", "others", _REMEDY)
    return content


def write_error_curves(folder: Path, figures: Mapping[str, Any], chart: str) -> None:
    """Write figures and chart (SVG text) into ``folder``."""
    write_text_atomic(folder / CURVES_CHART, chart)
    write_text_atomic(folder / CURVES, json.dumps(figures, indent=1, allow_nan=False) + "\n")
