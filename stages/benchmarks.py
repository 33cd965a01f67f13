"""Official figures of the benchmark that a query file belongs to: ``benchmark`` of metrics.json.

What a convention is stands in ``stages.conventions``. Figures of masks are those of
``stages.metrics``, taken from each query's intersection and union; figures of boxes are taken
from scores that each query carries, made by ``box_scores`` while its scene is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from data.artifacts.evaluation import SOURCES, QueryRow
from data.prompts import normalized_name
from data.queries import DEFAULT_FORMAT, FormatName
from data.types import Array, GroundTruth
from stages import metrics
from stages.boxes import BoxScan, box_ious, box_of, f1_scores, part_boxes
from stages.conventions import CONVENTIONS, Convention

GENERATED: Literal["generated"] = "generated"
BOX_IOU = "box_iou"
_GROUPS = ("unique", "multiple")


@dataclass(frozen=True)
class Asked:
    """Whose queries were asked: their file's format, and of which scans.

    ``dataset`` is the scene set's reader, or "generated" for rooms made here: their queries are
    in Instruct3D's format and yet are no benchmark's. ``version`` is that of the data set, ""
    where it is not known.
    """

    query_format: FormatName = DEFAULT_FORMAT
    dataset: str = GENERATED
    version: str = ""

    @property
    def convention(self) -> Convention:
        """The rule of the format's benchmark."""
        return CONVENTIONS[self.query_format]


def group_of(asked: Asked, truth: GroundTruth, object_ids: Sequence[int]) -> str:
    """``unique`` or ``multiple`` where the convention tells them apart, else ""."""
    if asked.convention.rows != "group":
        return ""
    classes = [normalized_name(label) for label in truth.labels]
    of_id = dict(zip(truth.object_ids, classes, strict=True))
    alone = all(classes.count(of_id[object_id]) == 1 for object_id in object_ids)
    return _GROUPS[0] if alone else _GROUPS[1]


def box_scores(
    asked: Asked,
    scan: BoxScan | None,
    truth: GroundTruth,
    object_ids: Sequence[int],
    masks: Mapping[str, Array],
) -> dict[str, dict[str, float]]:
    """By source what the convention needs of one query's boxes; nothing where it scores masks.

    ``masks`` (N,) bool are by source; points left out of evaluation count neither in them nor
    in the targets. Raises ValueError where boxes are needed and ``scan`` is None.
    """
    boxed = asked.convention.boxes
    if not boxed:
        return {}
    if scan is None:
        raise ValueError(f"the boxes of {asked.query_format} need the scan's points")
    counted = {source: truth.counted(mask) for source, mask in masks.items()}
    if boxed == "whole":
        target = box_of(scan.points[truth.counted(truth.mask(object_ids))])
        return {s: {BOX_IOU: _box_iou(scan, mask, target)} for s, mask in counted.items()}
    found = [box_of(scan.points[truth.counted(truth.mask([i]))]) for i in sorted(set(object_ids))]
    targets = np.array(found, np.float64).reshape(-1, 2, 3)
    return {s: f1_scores(part_boxes(scan, mask), targets) for s, mask in counted.items()}


def _box_iou(scan: BoxScan, mask: Array, target: Array) -> float:
    return float(box_ious(box_of(scan.points[mask])[None], target[None])[0, 0])


def summarise(rows: Sequence[QueryRow], asked: Asked, num_aligned: int = 0) -> dict[str, Any]:
    """The section ``benchmark``: the convention in words, and by source its figures.

    Figures are fractions in [0, 1], None where there is no query: ``overall``, and ``rows`` of
    some queries by their name. ``num_aligned`` is the number of scenes whose boxes follow the
    data set's own axis alignment.
    """
    convention = asked.convention
    result: dict[str, Any] = {
        **asdict(asked),
        "is_benchmark": asked.dataset != GENERATED,
        "convention": convention.name,
        "rule": convention.rule,
        "differs": list(convention.differs),
    }
    if convention.boxes:
        result["num_scenes"] = len({row.scene_id for row in rows})
        result["num_scenes_aligned"] = num_aligned
    groups = _groups(rows, convention)
    result["figures"] = {
        source: {
            "overall": _figures(rows, source, convention),
            "rows": {name: _figures(group, source, convention) for name, group in groups.items()},
        }
        for source in SOURCES
    }
    return result


def _groups(rows: Sequence[QueryRow], convention: Convention) -> dict[str, list[QueryRow]]:
    """The rows by group or by task, as the convention has them; nothing where it has none."""
    if convention.rows == "group":
        return {name: [row for row in rows if row.group == name] for name in _GROUPS}
    if convention.rows == "task":
        tasks = sorted({row.task for row in rows})
        return {name: [row for row in rows if row.task == name] for name in tasks}
    return {}


def _figures(rows: Sequence[QueryRow], source: str, convention: Convention) -> dict[str, Any]:
    values: Mapping[str, Any]
    if convention.boxes == "whole":
        values = _accuracies([row.official[source][BOX_IOU] for row in rows])
    elif convention.boxes == "parts":
        values = _means([row.official[source] for row in rows], convention.figures)
    else:
        values = metrics.headline(_counts(rows, source))
    return {"num_queries": len(rows), **{name: values[name] for name in convention.figures}}


def _counts(rows: Sequence[QueryRow], source: str) -> metrics.Counts:
    scores = (row.scores[source] for row in rows)
    return metrics.Counts.of((score.intersection, score.union) for score in scores)


def _accuracies(ious: Sequence[float]) -> dict[str, float | None]:
    """Share of IoUs at or over each threshold; None without any."""
    count = len(ious)
    return {
        name: sum(iou >= float(k) for iou in ious) / count if count else None
        for name, k in metrics.THRESHOLDS.items()
    }


def _means(scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float | None]:
    count = len(scores)
    return {name: sum(s[name] for s in scores) / count if count else None for name in names}
