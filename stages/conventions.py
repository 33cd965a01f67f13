"""How each benchmark scores its queries: one convention a query format, in words and in names.

A convention says which figures are taken, over which rows of queries, and of what: of masks, in
which case ``stages.metrics`` defines them, or of boxes (``stages.boxes``). ``differs`` tells what
is done otherwise here than where the figures come from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from data.queries import FormatName
from stages.metrics import RULES

FIGURES: Mapping[str, str] = {
    "miou": "mIoU",
    "giou": "gIoU",
    "ciou": "cIoU",
    "acc25": "Acc@0.25",
    "acc50": "Acc@0.50",
    "f1_25": "F1@0.25",
    "f1_50": "F1@0.50",
}
"""Every figure of a convention, and what readers call it."""
_MASKS = ("miou", "acc25", "acc50")
_FRAME = (
    "Boxes follow the axes of the scan, turned by ScanNet's axisAlignment where it is known "
    "(num_scenes_aligned of num_scenes)."
)
_DRAWN = "A box is drawn around a mask here; no network predicts boxes."


@dataclass(frozen=True)
class Convention:
    """The rule of one benchmark.

    ``figures`` are keys of ``FIGURES``. ``boxes`` says what is boxed: the whole mask, its parts,
    or nothing ("", masks are scored). ``rows`` says what queries are grouped by besides being
    taken all together: their task, their group (``unique`` or ``multiple``), or nothing.
    """

    name: str
    rule: str
    figures: tuple[str, ...]
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
