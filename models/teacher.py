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
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

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
class Unsaid:
    """What an answer without ``[SEG]`` would have drawn, had it been made to say it.

    ``mask_logits`` (h, w) and ``seg_embedding`` (D,) float32, ``predicted_iou`` in [0, 1].
    """

    mask_logits: FloatArray
    predicted_iou: float
    seg_embedding: FloatArray


@dataclass(frozen=True, eq=False)
class TeacherAnswer:
    """One query's answer; n is the number of ``[SEG]`` in it, 0 included.

    ``mask_logits`` (n, h, w) float32, positive inside; ``predicted_iou`` (n,) float32, the
    teacher's own belief in [0, 1]; ``seg_embeddings`` (n, D) float32. ``presence`` is how likely
    the teacher was to say ``[SEG]`` where it came nearest to it, None if it cannot tell;
    ``unsaid`` is what an answer without ``[SEG]`` held back, for teachers that can be made to
    answer anyway.
    """

    text: str
    mask_logits: FloatArray
    predicted_iou: FloatArray
    seg_embeddings: FloatArray
    presence: float | None = None
    unsaid: Unsaid | None = None

    @classmethod
    def without_mask(
        cls,
        text: str,
        grid: MaskGrid,
        embedding_dim: int,
        presence: float | None = None,
        unsaid: Unsaid | None = None,
    ) -> TeacherAnswer:
        """An answer that holds no ``[SEG]``."""
        return cls(
            text,
            np.zeros((0, grid.height, grid.width), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, embedding_dim), np.float32),
            presence,
            unsaid,
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


@runtime_checkable
class FeatureTeacher(Protocol):
    """What a teacher may offer besides masks: features of images for a student to be like."""

    @property
    def name(self) -> str:
        """Short name, as configs spell it."""
        ...

    def feature_grid(self, height: int, width: int) -> MaskGrid:
        """The grid of the features of an image of (``height``, ``width``) pixels."""
        ...

    def image_features(self, image: NDArray[np.uint8]) -> FloatArray:
        """Features (C, h, w) float32 on ``feature_grid``; ``image`` (H, W, 3) uint8 RGB."""
        ...


@runtime_checkable
class ManyViewsTeacher(Protocol):
    """What a teacher may offer besides: to encode and to ask several views together."""

    @property
    def views_at_once(self) -> int:
        """Views to give to both methods together, from 1 on; it may change as memory does."""
        ...

    def encode_views(
        self, images: Sequence[NDArray[np.uint8]], view_ids: Sequence[str]
    ) -> Sequence[Any]:
        """As ``encode_view``, of several images."""
        ...

    def answer_views(self, views: Sequence[Any], texts: Sequence[str]) -> list[list[TeacherAnswer]]:
        """As ``answer``, on each of several views."""
        ...


AnyTeacher = Teacher[Any]
