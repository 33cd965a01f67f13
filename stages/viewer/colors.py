"""Colours of a scan's points: as scanned, or with an answer glowing on the dimmed scan."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from data.types import Array
from stages.pictures import BOTH, MISSED, ONLY

Coloring = Literal["answer", "how sure", "right or wrong", "scan alone"]
COLORINGS: tuple[Coloring, ...] = get_args(Coloring)
GLOW = (255, 176, 32)
_DIM = 0.6
_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_RAMP = np.array([[0, 32, 76], [60, 77, 110], [124, 123, 120], [187, 175, 113], [255, 234, 70]])
"""Cividis at ``_LEVELS``: the same to every colour vision."""


def colored(colors: Array, probs: Array, mask: Array, truth: Array | None, how: Coloring) -> Array:
    """(N, 3) uint8 of points of ``colors`` (N, 3) uint8.

    Args:
        colors: as scanned.
        probs: (N,) in [0, 1], for "how sure".
        mask: (N,) bool, the answer.
        truth: (N,) bool where it is known; without, "right or wrong" is "answer".
        how: what to show.
    """
    if how == "scan alone":
        return colors
    gray = colors.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    shape = (0.55 + 0.45 * gray / 255)[:, None]
    if how == "how sure":
        ramp = np.stack([np.interp(probs, _LEVELS, _RAMP[:, c]) for c in range(3)], axis=1)
        return _bytes(ramp * shape)
    shown = _DIM * (0.35 * colors + 0.65 * gray[:, None])
    parts: tuple[tuple[Array, tuple[int, int, int]], ...] = ((mask, GLOW),)
    if truth is not None and how == "right or wrong":
        parts = ((mask & truth, BOTH), (mask & ~truth, ONLY), (truth & ~mask, MISSED))
    for part, color in parts:
        shown[part] = shape[part] * np.array(color, np.float32)
    return _bytes(shown)


def emphasised(mask: Array, truth: Array | None, how: Coloring) -> Array:
    """(N,) bool, the points that must be seen whatever stands before them."""
    if how == "scan alone":
        return np.zeros_like(mask)
    return mask | truth if truth is not None and how == "right or wrong" else mask


def _bytes(colors: Array) -> Array:
    return np.asarray(np.rint(colors).clip(0, 255), np.uint8)
