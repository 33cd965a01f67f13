"""Encode a teacher's answers on one view as bytes, and decode them.

Mask logits are stored as int8 in steps of 1/8, from -127/8 to 127/8. Damaged bytes raise
ValueError.

A record is the length of its head (uint32), the head and the masks. Head and masks are
compressed separately (zstd), so that a scene's answers are listed without unpacking a mask. All
numbers are little-endian. For Q queries, n masks of (h, w) cells and embeddings of length D:

- head: status (Q) uint8, drawn (Q) uint8, presence (Q) float32, predicted IoU (n) float32, [SEG]
  embeddings (n, D) float32, bytes of each text (Q) uint32, the texts in UTF-8;
- masks: one byte that gives their form, then
  form 0: (n, h, w) int8 steps; from each row but the first the row above is subtracted, modulo
  256;
  form 1: the two int8 steps that occur, the lower first, then one bit a cell in row-major order,
  the first cell in the highest bit, set where the step is the upper one. An oracle's masks have
  two levels, and one bit a cell is an eighth of the bytes to compress.

Row differences make the compressed masks a tenth to a third smaller, and are undone a row at a
time; differences along the rows as well save little more and take longer to undo.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numcodecs.zstd import Zstd

from data.types import Array

NOT_DONE, MASK, NO_SEG, FAILED = 0, 1, 2, 3
LOGIT_STEP = 0.125
LOGIT_LIMIT = 127 * LOGIT_STEP


def quantise_logits(logits: Array) -> Array:
    """Round float logits to int8 steps; within the limits the error is at most half a step."""
    steps = np.multiply(logits, np.float32(1 / LOGIT_STEP), dtype=np.float32)
    np.rint(steps, out=steps)
    np.clip(steps, -127, 127, out=steps)
    return steps.astype(np.int8)


@dataclass(frozen=True, eq=False)
class ViewAnswers:
    """A teacher's answers to all Q queries on one view.

    ``status`` (Q,) uint8; ``mask_logits`` (Q, h, w), ``seg_embeddings`` (Q, D) and
    ``predicted_iou`` (Q,) float32 are read only for answers with a mask; ``texts`` (Q) are the
    answers, or the error where the status is FAILED; ``presence`` (Q,) float32 in [0, 1] is the
    probability of [SEG], where None means 1 for the status MASK and 0 for any other; ``withheld``
    (Q,) bool marks answers without [SEG] that have a withheld mask, None for no such answer.
    """

    status: Array
    mask_logits: Array
    predicted_iou: Array
    seg_embeddings: Array
    texts: tuple[str, ...]
    presence: Array | None = None
    withheld: Array | None = None

    @property
    def drawn(self) -> Array:
        """(Q,) bool: the answers with a mask, with [SEG] or withheld."""
        has_seg = self.status == MASK
        return np.asarray(has_seg if self.withheld is None else has_seg | self.withheld)

    @property
    def presences(self) -> Array:
        """(Q,) float32 in [0, 1]: the probability of [SEG]; 1 or 0 by the status where unknown."""
        presence = self.status == MASK if self.presence is None else self.presence
        return np.asarray(presence, np.float32)

    def check(self, where: str) -> None:
        """Raise ValueError, whose message begins with ``where``, for answers not to be stored.

        These are a query without an answer, a mask whose values are not finite, a withheld mask
        in an answer with [SEG], and a presence outside [0, 1].
        """
        for name in ("mask_logits", "predicted_iou", "seg_embeddings"):
            values, drawn = getattr(self, name), self.drawn
            if not np.isfinite(values if drawn.all() else values[drawn]).all():
                raise ValueError(f"{where}: {name} is not finite")
        if np.any(self.status == NOT_DONE):
            raise ValueError(f"{where}: a query without an answer")
        if self.withheld is not None and np.any(self.status[self.withheld] != NO_SEG):
            raise ValueError(f"{where}: a withheld mask belongs to an answer without [SEG]")
        if not np.all((self.presences >= 0) & (self.presences <= 1)):
            raise ValueError(f"{where}: presence is not in [0, 1]")


_ZSTD = Zstd(level=3)
_LENGTH = struct.Struct("<I")
_ROWS, _TWO_LEVELS = 0, 1


@dataclass(frozen=True, eq=False)
class ViewHead:
    """A view's answers without their masks.

    ``status`` (Q,) uint8, ``drawn`` (Q,) bool, ``presence`` (Q,) float32, ``predicted_iou`` (Q,)
    and ``seg_embeddings`` (Q, D) float32, both 0 where there is no mask, ``texts`` (Q).
    """

    status: Array
    drawn: Array
    presence: Array
    predicted_iou: Array
    seg_embeddings: Array
    texts: tuple[str, ...]


def pack_view(answers: ViewAnswers) -> bytes:
    """Encode one view's answers, which ``ViewAnswers.check`` must have accepted."""
    drawn = answers.drawn
    texts = [text.encode() for text in answers.texts]
    head = b"".join(
        [
            answers.status.astype(np.uint8).tobytes(),
            drawn.astype(np.uint8).tobytes(),
            answers.presences.astype("<f4").tobytes(),
            answers.predicted_iou[drawn].astype("<f4").tobytes(),
            answers.seg_embeddings[drawn].astype("<f4").tobytes(),
            np.array([len(text) for text in texts], "<u4").tobytes(),
            *texts,
        ]
    )
    logits = answers.mask_logits if drawn.all() else answers.mask_logits[drawn]
    packed, masks = _ZSTD.encode(head), _ZSTD.encode(_pack_masks(quantise_logits(logits)))
    return b"".join([_LENGTH.pack(len(packed)), packed, masks])


def unpack_head(record: bytes, num_queries: int, embedding_dim: int) -> ViewHead:
    """Decode all of a record but the masks; ValueError for damaged bytes or other sizes."""
    packed, _ = _parts(record)
    head = _Fields(_unpacked(packed))
    status = head.take(num_queries, "u1")
    drawn = head.take(num_queries, "u1").astype(bool)
    presence = head.take(num_queries, "<f4")
    predicted_iou = np.zeros(num_queries, np.float32)
    embeddings = np.zeros((num_queries, embedding_dim), np.float32)
    count = int(drawn.sum())
    predicted_iou[drawn] = head.take(count, "<f4")
    embeddings[drawn] = head.take(count * embedding_dim, "<f4").reshape(count, embedding_dim)
    lengths = head.take(num_queries, "<u4")
    texts = tuple(head.take(int(length), "u1").tobytes().decode() for length in lengths)
    head.require_end()
    return ViewHead(status, drawn, presence.copy(), predicted_iou, embeddings, texts)


def unpack_masks(record: bytes, drawn: Array, mask_shape: tuple[int, int]) -> Array:
    """Decode the masks of a record: (Q, h, w) int8 steps, 0 where ``drawn`` (Q,) is False.

    Raises ValueError for damaged bytes or other sizes.
    """
    _, packed = _parts(record)
    shape = (int(drawn.sum()), *mask_shape)
    steps = _unpack_masks(_unpacked(packed), shape)
    if len(steps) == len(drawn):
        return steps
    all_steps = np.zeros((len(drawn), *mask_shape), np.int8)
    all_steps[drawn] = steps
    return all_steps


def _parts(record: bytes) -> tuple[bytes, bytes]:
    if len(record) < _LENGTH.size:
        raise ValueError("a view's record that is cut off")
    start = _LENGTH.size + _LENGTH.unpack_from(record)[0]
    return record[_LENGTH.size : start], record[start:]


def _unpacked(packed: bytes) -> bytes:
    return bytes(_ZSTD.decode(packed))


def _pack_masks(steps: Array) -> bytes:
    if steps.size:
        low, high = steps.min(), steps.max()
        is_upper = steps == high
        if np.count_nonzero(steps == low) + np.count_nonzero(is_upper) >= steps.size:
            levels = np.array([low, high], np.int8).tobytes()
            return bytes([_TWO_LEVELS]) + levels + np.packbits(is_upper).tobytes()
    differences = steps.copy()
    np.subtract(steps[:, 1:], steps[:, :-1], out=differences[:, 1:])
    return bytes([_ROWS]) + differences.tobytes()


def _unpack_masks(content: bytes, shape: tuple[int, int, int]) -> Array:
    fields, cells = _Fields(content), int(np.prod(shape))
    form = int(fields.take(1, "u1")[0])
    if form == _TWO_LEVELS:
        low, high = fields.take(2, "i1")
        bits = fields.take(-(-cells // 8), "u1")
        fields.require_end()
        set_cells = np.unpackbits(bits, count=cells).view(np.int8).reshape(shape)
        # int8 wraps around, so the sum is right even where the difference overflows.
        with np.errstate(over="ignore"):
            return np.asarray(set_cells * np.subtract(high, low) + low)
    if form != _ROWS:
        raise ValueError(f"masks of an unknown form {form}")
    steps = fields.take(cells, "i1").reshape(shape).copy()
    fields.require_end()
    for row in range(1, shape[1]):
        np.add(steps[:, row], steps[:, row - 1], out=steps[:, row])
    return steps


class _Fields:
    """Reads arrays that are concatenated in bytes."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def take(self, count: int, dtype: str) -> Array:
        """Return the next ``count`` values, read-only; ValueError where fewer are left."""
        size = count * np.dtype(dtype).itemsize
        if self._at + size > len(self._content):
            raise ValueError("a view's record that is cut off")
        values: Array = np.frombuffer(self._content, dtype, count, self._at)
        self._at += size
        return values

    def require_end(self) -> None:
        """Raise ValueError if bytes are left."""
        if self._at != len(self._content):
            raise ValueError("a view's record with bytes too many")
