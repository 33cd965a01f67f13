"""The figures of LISA-nano's model card, from its marked answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from stages.metrics import auc
from stages.nano.exam import Result

Figures = dict[str, float]
SIZES = ((0.0, 0.01), (0.01, 0.03), (0.03, 0.1), (0.1, 1.0))


def summary(results: Sequence[Result]) -> Figures:
    """Mask IoU over what is in view, presence, names, and how well belief ranks views.

    ``presence`` is the mean of the rates of true positives and true negatives.
    """
    shown = [r for r in results if r.share > 0]
    absent = [r for r in results if r.share == 0]
    hits, refusals = _mean(r.said_shown for r in shown), _mean(not r.said_shown for r in absent)
    return {
        "answers": float(len(results)),
        "shown": float(len(shown)),
        "mask_iou": _mean(r.iou for r in shown),
        "mask_iou_where_given": _mean(r.iou for r in shown if r.said_shown),
        "presence": (hits + refusals) / 2,
        "true_positives": hits,
        "true_negatives": refusals,
        "names": _mean(r.named for r in results),
        "belief_auc": auc([r.belief for r in results], [r.share > 0 for r in results]),
    }


def tables(results: Sequence[Result]) -> dict[str, dict[str, Figures]]:
    """The same figures by words, kind of question, label and share of the picture."""
    return {
        "words": _by(results, lambda r: "held out" if r.held_out else "seen"),
        "kind": _by(results, lambda r: r.query.kind),
        "label": _by([r for r in results if r.query.kind != "both"], lambda r: r.query.label),
        "size": _by([r for r in results if r.share > 0], _size),
    }


def cosines(results: Sequence[Result], most: int = 3000) -> Figures:
    """Mean cosine of [SEG] embeddings: same label and colour, same label, other labels."""
    colored = [r for r in results if r.token is not None and r.query.color]
    tokens = (
        np.stack([np.asarray(r.token) for r in colored][:most]) if colored else np.zeros((0, 1))
    )
    labels = np.array([r.query.label for r in colored[:most]])
    colors = np.array([r.query.color for r in colored[:most]])
    unit = tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-9)
    cosine = unit @ unit.T
    pair = ~np.eye(len(unit), dtype=bool)
    label, color = labels[:, None] == labels, colors[:, None] == colors
    return {
        "same label, same colour": _mean(cosine[pair & label & color]),
        "same label, other colour": _mean(cosine[pair & label & ~color]),
        "other label, same colour": _mean(cosine[pair & ~label & color]),
        "other label, other colour": _mean(cosine[pair & ~label & ~color]),
    }


def _by(results: Sequence[Result], key: Callable[[Result], str]) -> dict[str, Figures]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(key(result), []).append(result)
    return {name: summary(groups[name]) for name in sorted(groups)}


def _size(result: Result) -> str:
    low, high = next((a, b) for a, b in SIZES if a <= result.share < b or b == 1.0)
    return f"{100 * low:g} to {100 * high:g} %"


def _mean(values: Iterable[float]) -> float:
    found = np.asarray(list(values), float)
    return float(found.mean()) if len(found) else float("nan")
