"""The conventions of the benchmarks that query files belong to, and their official metrics.

A convention says which metrics are reported, for which groups of queries, and whether masks or
boxes are scored; ``differs`` lists deviations from the benchmark's own code. Metrics of masks are
those of ``stages.evaluation.metrics``, from each query's intersection and union. Metrics of boxes
come from scores that each query carries, computed by ``box_scores`` while its scene is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from data.artifacts.evaluation import SOURCES, QueryRow
from data.queries.formats import DEFAULT_FORMAT, FormatName
from data.queries.prompts import normalized_name
from data.types import Array, GroundTruth
from stages.evaluation import metrics
from stages.evaluation.metrics import RULES, BoxScan, box_ious, box_of, f1_scores, part_boxes

METRIC_NAMES: Mapping[str, str] = {
    "miou": "mIoU",
    "giou": "gIoU",
    "ciou": "cIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
    "f1_25": "F1@0.25",
    "f1_50": "F1@0.50",
}
"""Every metric of a convention, with its name for readers."""
_MASKS = ("miou", "acc25", "acc50")
_FRAME = (
    "Boxes follow the axes of the scan, turned by ScanNet's axisAlignment where it is known "
    "(num_scenes_aligned of num_scenes)."
)
_DRAWN = "A box is drawn around a mask here; no network predicts boxes."


@dataclass(frozen=True)
class Convention:
    """The rule of one benchmark.

    ``metrics`` are keys of ``METRIC_NAMES``. ``boxes`` says what is boxed: the whole mask, its
    parts, or nothing ("", masks are scored). ``rows`` says how queries are grouped besides being
    taken all together: by task, by group (``unique`` or ``multiple``), or not at all.
    """

    name: str
    rule: str
    metrics: tuple[str, ...]
    differs: tuple[str, ...] = ()
    boxes: Literal["", "whole", "parts"] = ""
    rows: Literal["", "task", "group"] = ""


_REASON3D = (
    f"{RULES['strict']}; on original points; mIoU and Acc@k are plain means over all queries."
)
_TEMPLATES = (
    "Reason3D's evaluation wraps each question in one of three templates, drawn without a seed; "
    "here it is asked as it stands."
)

CONVENTIONS: Mapping[FormatName, Convention] = {
    "reason3d": Convention("reason3d", _REASON3D, _MASKS, (_TEMPLATES,)),
    "reason3d_search": Convention(
        "reason3d",
        _REASON3D,
        _MASKS,
        (
            _TEMPLATES,
            "Reason3D searches scenes put together from three rooms. Here a question is asked of "
            "all of its house's regions in the split where the scene set says places: house, "
            "else of its own room alone, which is easier.",
        ),
    ),
    "instruct3d": Convention(
        "reason3d",
        f"{_REASON3D} So are the tables of Reason3D and MLLM-For3D read. SegPoint, whose set "
        "Instruct3D is, gives mIoU as the mean of each sample's IoU, and accuracy as the share "
        "with IoU > 0.5. MLLM-For3D calls its mIoU one after successful grounding, but several "
        "of its rows have mIoU below Acc@0.25, which fits a mean over all samples.",
        _MASKS,
        (
            "For absent targets the sources differ: Reason3D's code scores nothing predicted 0, "
            "as is done here; MLLM-For3D's code scores it 1 (see conventions.inclusive), and has "
            "neither Acc@k nor cIoU.",
        ),
    ),
    "reasonseg3d": Convention(
        "lisa",
        "gIoU is the mean over queries of I / (U + 1e-5) in float32, 1 where both are empty (not "
        "the generalised IoU of boxes); cIoU is the sum of I over (the sum of U + 1e-10), which "
        "large objects dominate (LISA's code); on original points.",
        ("giou", "ciou"),
        ("MORE3D answers with several [SEG], each a mask; here all of a query's are one mask.",),
    ),
    "scanrefer": Convention(
        "scanrefer",
        "Acc@k is the share of queries with IoU >= k, of the axis-aligned box of the predicted "
        "points and that of the target's points. unique: the target is the only object of its "
        "class in the scene; multiple: it is not; overall: all queries.",
        ("acc25", "acc50"),
        (
            _DRAWN,
            _FRAME,
            "A class is the label as annotated, without case; ScanRefer's own code is understood "
            "to count by ScanNet's benchmark classes, of which several labels may be one.",
        ),
        boxes="whole",
        rows="group",
    ),
    "multi3drefer": Convention(
        "multi3drefer",
        "F1@k of a query is 2 hits / (P + G) for P boxes of the predicted mask's parts and G boxes "
        "of the targets, all axis-aligned; boxes are paired so that the sum of IoU is largest "
        "(Hungarian method), and a pair with IoU >= k is a hit. Without a target F1 is 1 where "
        "nothing is predicted, else 0. The figure is the mean over queries; rows by eval_type.",
        ("f1_25", "f1_50"),
        (
            "Parts are what hangs together in the mask by cells of 3 cm or by the mesh's edges; "
            "parts with less than a tenth of the largest part's points are dropped. So objects "
            "that touch are one box, unlike where a network tells instances apart.",
            _FRAME,
        ),
        boxes="parts",
        rows="task",
    ),
    "surprise3d": Convention(
        "surprise3d",
        f"{_REASON3D} Rows by question_type. (SURPRISE3D is measured by Reason3D's rule.)",
        _MASKS,
        (
            _TEMPLATES,
            "Truth comes from the annotation itself, not from the authors' prepared point files, "
            "which lack many of the objects that are asked for.",
        ),
        rows="task",
    ),
    "intent3d": Convention(
        "intent3d",
        "Acc@k is the share of queries with IoU >= k, of the axis-aligned box of the predicted "
        "points and that of all targets' points together. Average precision is not computed: it "
        "needs several boxes ranked by confidence, and a mask is one answer.",
        ("acc25", "acc50"),
        (_DRAWN, _FRAME),
        boxes="whole",
    ),
}


GENERATED: Literal["generated"] = "generated"
BOX_IOU = "box_iou"
_GROUPS = ("unique", "multiple")


@dataclass(frozen=True)
class QuerySource:
    """The origin of the queries: the format of their file, and the data set of their scans.

    ``dataset`` is the scene set's reader, or "generated" for generated rooms, whose queries have
    Instruct3D's format but belong to no benchmark. ``version`` is the version of the data set, ""
    where it is unknown.
    """

    query_format: FormatName = DEFAULT_FORMAT
    dataset: str = GENERATED
    version: str = ""

    @property
    def convention(self) -> Convention:
        """The convention of the format's benchmark."""
        return CONVENTIONS[self.query_format]


def group_of(queries: QuerySource, truth: GroundTruth, object_ids: Sequence[int]) -> str:
    """Return ``unique`` or ``multiple`` where the convention uses these groups, else ""."""
    if queries.convention.rows != "group":
        return ""
    classes = [normalized_name(label) for label in truth.labels]
    of_id = dict(zip(truth.object_ids, classes, strict=True))
    alone = all(classes.count(of_id[object_id]) == 1 for object_id in object_ids)
    return _GROUPS[0] if alone else _GROUPS[1]


def box_scores(
    queries: QuerySource,
    scan: BoxScan | None,
    truth: GroundTruth,
    object_ids: Sequence[int],
    masks: Mapping[str, Array],
) -> dict[str, dict[str, float]]:
    """Compute by source the scores of one query's boxes; empty where masks are scored.

    ``masks`` (N,) bool are by source. Points left out of evaluation count neither in masks nor in
    targets. Raises ValueError where boxes are scored and ``scan`` is None.
    """
    boxed = queries.convention.boxes
    if not boxed:
        return {}
    if scan is None:
        raise ValueError(f"the boxes of {queries.query_format} need the scan's points")
    counted = {source: truth.counted(mask) for source, mask in masks.items()}
    if boxed == "whole":
        target = box_of(scan.points[truth.counted(truth.mask(object_ids))])
        return {s: {BOX_IOU: _box_iou(scan, mask, target)} for s, mask in counted.items()}
    target_boxes = [
        box_of(scan.points[truth.counted(truth.mask([i]))]) for i in sorted(set(object_ids))
    ]
    targets = np.array(target_boxes, np.float64).reshape(-1, 2, 3)
    return {s: f1_scores(part_boxes(scan, mask), targets) for s, mask in counted.items()}


def _box_iou(scan: BoxScan, mask: Array, target: Array) -> float:
    return float(box_ious(box_of(scan.points[mask])[None], target[None])[0, 0])


def summarise(
    rows: Sequence[QueryRow], queries: QuerySource, num_aligned: int = 0
) -> dict[str, Any]:
    """Return the section ``benchmark``: the convention in words, and its metrics by source.

    Metrics are fractions in [0, 1], None without a query: ``overall`` over all queries, and
    ``rows`` by name of the group. ``num_aligned`` is the number of scenes whose boxes follow the
    data set's own axis alignment.
    """
    convention = queries.convention
    result: dict[str, Any] = {
        **asdict(queries),
        "is_benchmark": queries.dataset != GENERATED,
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
            "overall": _metrics(rows, source, convention),
            "rows": {name: _metrics(group, source, convention) for name, group in groups.items()},
        }
        for source in SOURCES
    }
    return result


def _groups(rows: Sequence[QueryRow], convention: Convention) -> dict[str, list[QueryRow]]:
    """Split the rows by group or by task, as the convention says; empty for neither."""
    if convention.rows == "group":
        return {name: [row for row in rows if row.group == name] for name in _GROUPS}
    if convention.rows == "task":
        tasks = sorted({row.task for row in rows})
        return {name: [row for row in rows if row.task == name] for name in tasks}
    return {}


def _metrics(rows: Sequence[QueryRow], source: str, convention: Convention) -> dict[str, Any]:
    values: Mapping[str, Any]
    if convention.boxes == "whole":
        values = _accuracies([row.official[source][BOX_IOU] for row in rows])
    elif convention.boxes == "parts":
        values = _means([row.official[source] for row in rows], convention.metrics)
    else:
        values = metrics.headline(metrics.counts_of(rows, source))
    return {"num_queries": len(rows), **{name: values[name] for name in convention.metrics}}


def _accuracies(ious: Sequence[float]) -> dict[str, float | None]:
    """Return the share of IoUs at or above each threshold; None without an IoU."""
    count = len(ious)
    return {
        name: sum(iou >= float(k) for iou in ious) / count if count else None
        for name, k in metrics.THRESHOLDS.items()
    }


def _means(scores: Sequence[Mapping[str, float]], names: Sequence[str]) -> dict[str, float | None]:
    count = len(scores)
    return {name: sum(s[name] for s in scores) / count if count else None for name in names}
