"""What a teacher says about one view, as the teacher cache takes it, and how masks are stored.

Logits are stored as int8 in steps of 1/8 from -127/8 to 127/8.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data.types import Array

NOT_DONE, MASK, NO_SEG, FAILED = 0, 1, 2, 3
LOGIT_STEP = 0.125
LOGIT_LIMIT = 127 * LOGIT_STEP


def quantise_logits(logits: Array) -> Array:
    """Float logits to int8 steps; the error is at most half a step within the limits."""
    steps = np.multiply(logits, np.float32(1 / LOGIT_STEP), dtype=np.float32)
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    return steps.astype(np.int8)


@dataclass(frozen=True, eq=False)
class ViewAnswers:
    """A teacher's answers to all Q queries on one view.

    ``status`` (Q,) uint8; ``mask_logits`` (Q, h, w) float32 and ``seg_embeddings`` (Q, D),
    ``predicted_iou`` (Q,) float32, read only where a mask is drawn; ``texts`` (Q), the reason
    where the status is FAILED; ``presence`` (Q,) float32 in [0, 1], how likely [SEG] was, None
    for 1 where the status is MASK and 0 elsewhere; ``unsaid`` (Q,) bool, the answers without
    [SEG] whose mask was held back, None for none.
    """

    status: Array
    mask_logits: Array
    predicted_iou: Array
    seg_embeddings: Array
    texts: tuple[str, ...]
    presence: Array | None = None
    unsaid: Array | None = None

    @property
    def drawn(self) -> Array:
        """(Q,) bool, where there is a mask, said or held back."""
        said = self.status == MASK
        return np.asarray(said if self.unsaid is None else said | self.unsaid)

    @property
    def presences(self) -> Array:
        """(Q,) float32 in [0, 1], how likely [SEG] was, as far as it can be told."""
        given = self.status == MASK if self.presence is None else self.presence
        return np.asarray(given, np.float32)

    def check(self, where: str) -> None:
        """Raise ValueError, beginning with ``where``, for what no cache may hold.

        That is a query without an answer, a mask whose values are not finite, a mask held back
        in another answer than one without [SEG], and a presence outside [0, 1].
        """
        for name in ("mask_logits", "predicted_iou", "seg_embeddings"):
            values, drawn = getattr(self, name), self.drawn
            if not np.isfinite(values if drawn.all() else values[drawn]).all():
                raise ValueError(f"{where}: {name} is not finite")
        if np.any(self.status == NOT_DONE):
            raise ValueError(f"{where}: a query without an answer")
        if self.unsaid is not None and np.any(self.status[self.unsaid] != NO_SEG):
            raise ValueError(f"{where}: unsaid is of answers without [SEG] only")
        if not np.all((self.presences >= 0) & (self.presences <= 1)):
            raise ValueError(f"{where}: presence is not in [0, 1]")
