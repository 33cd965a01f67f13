"""Scores of a 2D teacher on pictures: how well it draws, and whether it knows what is there.

A pair is one query asked on one view. The target counts as *in view* from ``VISIBLE_SHARE`` of
the picture on, as *absent* when not a cell of it shows; in between nothing is counted, and
neither is an answer that failed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data.artifacts.judgement import Judgement
from data.artifacts.teacher import FAILED, MASK
from data.rooms.view_queries import VISIBLE_SHARE
from data.types import Array
from stages.metrics import auc


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs, all arrays (P,).

    ``failed`` and ``masked`` bool: what came of the question; ``share`` float64 of the picture
    that shows the target; ``iou`` float64 of the mask, 0 without one or without a target;
    ``belief`` float64, the predicted IoU, 0 without a mask.
    """

    failed: Array
    masked: Array
    share: Array
    iou: Array
    belief: Array

    @classmethod
    def of_query(cls, judgement: Judgement, query: int) -> Pairs:
        """One query of a scene on all its views."""
        status = judgement.status[:, query]
        union = np.maximum(judgement.union[:, query], 1)
        return cls(
            status == FAILED,
            status == MASK,
            judgement.covered[:, query] / judgement.cells,
            judgement.intersection[:, query] / union,
            judgement.predicted_iou[:, query].astype(np.float64),
        )

    @classmethod
    def joined(cls, parts: Iterable[Pairs]) -> Pairs:
        """All pairs of the parts, one after the other."""
        nothing = cls(*(np.zeros(0, bool),) * 2, *(np.zeros(0),) * 3)
        every = [nothing, *parts]
        return cls(
            *(np.concatenate([getattr(part, f.name) for part in every]) for f in fields(cls))
        )


def summarise(judged: Sequence[tuple[str, Pairs]]) -> dict[str, Any]:
    """``teacher_2d`` of ``metrics.json``, from (task, pairs of one query): figures, ``by_task``."""
    by_task: dict[str, list[Pairs]] = {}
    for task, pairs in judged:
        by_task.setdefault(task, []).append(pairs)
    return {
        **figures(Pairs.joined(pairs for _, pairs in judged)),
        "by_task": {task: figures(Pairs.joined(by_task[task])) for task in sorted(by_task)},
    }


def figures(pairs: Pairs) -> dict[str, Any]:
    """Figures of a group, all but the counts as fractions; None where nothing tells.

    ``mask_iou`` is the mean over what is in view, a missing mask counted 0; ``presence`` the
    mean of the rates of true positives (a mask, the target in view) and true negatives (no
    mask, the target absent); ``belief_auc`` the chance that the predicted IoU is higher where
    the target is in view than where it is absent.
    """
    in_view = ~pairs.failed & (pairs.share >= VISIBLE_SHARE)
    absent = ~pairs.failed & (pairs.share == 0)
    hits, refusals = _mean(pairs.masked[in_view]), _mean(~pairs.masked[absent])
    presence = belief_auc = None
    if hits is not None and refusals is not None:
        known = in_view | absent
        presence = (hits + refusals) / 2
        belief_auc = auc(pairs.belief[known], in_view[known])
    return {
        "pairs": len(pairs.share),
        "in_view": int(in_view.sum()),
        "absent": int(absent.sum()),
        "mask_iou": _mean(pairs.iou[in_view]),
        "presence": presence,
        "true_positives": hits,
        "true_negatives": refusals,
        "belief_auc": belief_auc,
        "failed": int(pairs.failed.sum()),
    }


def _mean(values: Array) -> float | None:
    return float(np.mean(values, dtype=np.float64)) if len(values) else None
