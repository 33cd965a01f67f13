"""What a 2D teacher is: encode a view once, then answer any number of queries on it.

A teacher answers each query with text and, for every ``[SEG]`` in that text, one
low-resolution mask, its predicted IoU and the embedding that asked for the mask. Mask cells
cover the image in reading order; a teacher that pads or crops the image says so through the
*extent* of its grid: pixel coordinate u of an image W pixels wide lies at ``u / W * extent[0]``
cells from the grid's left edge, and v of H at ``v / H * extent[1]`` from its top. LISA pads a
480x320 image to a square of 256 cells: its extent is (256, 170.67).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
EncodedView = TypeVar("EncodedView")


class MaskGrid(NamedTuple):
    """Cells of a teacher's masks and how many of them the image's (width, height) cover."""

    height: int
    width: int
    extent: tuple[float, float]


@dataclass(frozen=True, eq=False)
class TeacherAnswer:
    """One query's answer; n is the number of ``[SEG]`` in it, 0 included.

    ``mask_logits`` (n, h, w) float32, positive inside; ``predicted_iou`` (n,) float32, the
    teacher's own belief in [0, 1]; ``seg_embeddings`` (n, D) float32.
    """

    text: str
    mask_logits: FloatArray
    predicted_iou: FloatArray
    seg_embeddings: FloatArray

    @classmethod
    def without_mask(cls, text: str, grid: MaskGrid, embedding_dim: int) -> TeacherAnswer:
        """An answer that holds no ``[SEG]``."""
        return cls(
            text,
            np.zeros((0, grid.height, grid.width), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, embedding_dim), np.float32),
        )


class Teacher(Protocol[EncodedView]):
    """A frozen 2D model that answers queries about images with masks.

    Whatever it draws must depend on its seed, the view and the query alone, never on the
    order or the company in which they come.
    """

    @property
    def name(self) -> str:
        """Short name, as configs spell it."""
        ...

    @property
    def embedding_dim(self) -> int:
        """Length D of a [SEG] embedding."""
        ...

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        """The grid of the masks of an image of (``height``, ``width``) pixels."""
        ...

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> EncodedView:
        """Do once what all queries on one image share; ``image`` (H, W, 3) uint8 RGB."""
        ...

    def answer(self, view: EncodedView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; one answer per text, in their order."""
        ...


AnyTeacher = Teacher[Any]
