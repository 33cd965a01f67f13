"""The protocol of 2D teachers, and the conformance test that a teacher must pass.

A teacher answers each query with text and, for every ``[SEG]`` in that text, one
low-resolution mask, its predicted IoU and the embedding from which the mask was decoded. Mask
cells cover the image in reading order. The *extent* of a grid describes padding or cropping:
pixel coordinate u of an image W pixels wide lies ``u / W * extent[0]`` cells from the grid's
left edge, and v of H lies ``v / H * extent[1]`` cells from its top. LISA pads a 480x320 image
to a square of 256 cells: its extent is (256, 170.67).

``check_teacher`` asks the same queries in different orders and batches and compares the
answers; it needs no labels and works for any teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
EncodedView = TypeVar("EncodedView")


class MaskGrid(NamedTuple):
    """Size of a teacher's masks in cells; the image covers ``extent`` (width, height) cells."""

    height: int
    width: int
    extent: tuple[float, float]


@dataclass(frozen=True, eq=False)
class WithheldMask:
    """The mask of an answer without ``[SEG]``, decoded from where ``[SEG]`` was most likely.

    ``mask_logits`` (h, w) and ``seg_embedding`` (D,) are float32, ``predicted_iou`` is in [0, 1].
    """

    mask_logits: FloatArray
    predicted_iou: float
    seg_embedding: FloatArray


@dataclass(frozen=True, eq=False)
class TeacherAnswer:
    """The answer to one query; n is the number of ``[SEG]`` in it and may be 0.

    ``mask_logits`` (n, h, w) float32 are positive inside; ``predicted_iou`` (n,) float32 is the
    teacher's confidence in each mask, in [0, 1]; ``seg_embeddings`` is (n, D) float32.
    ``presence`` is the largest probability of ``[SEG]`` at any position of the answer, None if
    the teacher has none. ``withheld`` is the mask of an answer without ``[SEG]``, for teachers
    that can decode one.
    """

    text: str
    mask_logits: FloatArray
    predicted_iou: FloatArray
    seg_embeddings: FloatArray
    presence: float | None = None
    withheld: WithheldMask | None = None

    @classmethod
    def without_mask(
        cls,
        text: str,
        grid: MaskGrid,
        embedding_dim: int,
        presence: float | None = None,
        withheld: WithheldMask | None = None,
    ) -> TeacherAnswer:
        """Make an answer that holds no ``[SEG]``."""
        return cls(
            text,
            np.zeros((0, grid.height, grid.width), np.float32),
            np.zeros(0, np.float32),
            np.zeros((0, embedding_dim), np.float32),
            presence,
            withheld,
        )


class Teacher(Protocol[EncodedView]):
    """A frozen 2D model that answers queries about images with masks.

    Its answers must depend on its seed, the view and the query alone, never on the order of
    the queries or on the other queries and views of a batch.
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
        """Return the grid of the masks of an image of (``height``, ``width``) pixels."""
        ...

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> EncodedView:
        """Encode an image once for all queries on it; ``image`` is (H, W, 3) uint8 RGB."""
        ...

    def answer(self, view: EncodedView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; one answer per text, in the order of ``texts``."""
        ...


@runtime_checkable
class FeatureTeacher(Protocol):
    """Optional methods of a teacher: image features that a student learns to reproduce."""

    @property
    def name(self) -> str:
        """Short name, as configs spell it."""
        ...

    def feature_grid(self, height: int, width: int) -> MaskGrid:
        """Return the grid of the features of an image of (``height``, ``width``) pixels."""
        ...

    def image_features(self, image: NDArray[np.uint8]) -> FloatArray:
        """Return (C, h, w) float32 on ``feature_grid``; ``image`` is (H, W, 3) uint8 RGB."""
        ...


@runtime_checkable
class ManyViewsTeacher(Protocol):
    """Optional methods of a teacher: encode and ask several views in one batch."""

    @property
    def views_at_once(self) -> int:
        """Batch size in views for both methods, at least 1; it may change with free memory."""
        ...

    def encode_views(
        self, images: Sequence[NDArray[np.uint8]], view_ids: Sequence[str]
    ) -> Sequence[Any]:
        """Encode several images as ``encode_view`` does."""
        ...

    def answer_views(self, views: Sequence[Any], texts: Sequence[str]) -> list[list[TeacherAnswer]]:
        """Answer each query on each view as ``answer`` does."""
        ...


AnyTeacher = Teacher[Any]


Image = NDArray[np.uint8]
_METHODS = ("mask_grid", "encode_view", "answer")


class ConformanceError(AssertionError):
    """A teacher breaks the protocol; the message says where and how."""


class Conformance(NamedTuple):
    """Counts of a passed check: answers compared, and those among them with masks."""

    num_answers: int
    num_with_masks: int


def check_teacher(
    make_teacher: Callable[[], AnyTeacher],
    images: Sequence[Image],
    texts: Sequence[str],
    view_ids: Sequence[str] | None = None,
    tolerance: float = 1e-3,
) -> Conformance:
    """Raise ConformanceError unless teachers made by ``make_teacher`` keep the protocol.

    ``images`` are (H, W, 3) uint8, preferably of several sizes. ``texts`` are distinct queries,
    preferably two or more, some answered with a mask and some without. Two values count as
    equal when they differ by at most ``tolerance`` times the largest value of their array (at
    least 1); low precision needs a larger tolerance. Raises ValueError without images or
    queries, or for a repeated query.
    """
    if not images or len(set(texts)) < len(texts) or not texts:
        raise ValueError("expected at least one image and one query, no query twice")
    ids = list(view_ids or [f"view{index}" for index in range(len(images))])
    teacher = make_teacher()
    check_members(teacher)
    grids = [check_grid(teacher, *image.shape[:2]) for image in images]
    checked = _CheckedTeacher(teacher, texts)
    first_answers = [checked.answers(*view) for view in zip(images, ids, grids, strict=True)]
    views = [teacher.encode_view(image.copy(), id_) for image, id_ in zip(images, ids, strict=True)]
    for view, id_, first in zip(views, ids, first_answers, strict=True):
        _compare(
            first, teacher.answer(view, texts), "after other views were encoded", id_, tolerance
        )
        again = teacher.answer(view, texts[::-1])[::-1]
        _compare(first, again, "when asked in another order", id_, tolerance)
        alone = [answer for text in texts for answer in teacher.answer(view, [text])]
        _compare(first, alone, "when each query is asked alone", id_, tolerance)
    other = _CheckedTeacher(make_teacher(), texts)
    for image, id_, grid, first in zip(images, ids, grids, first_answers, strict=True):
        again = other.answers(image, id_, grid)
        _compare(first, again, "from a second teacher of the same config", id_, tolerance)
    answers = [answer for of_view in first_answers for answer in of_view]
    return Conformance(len(answers), sum(len(answer.mask_logits) > 0 for answer in answers))


def missing_members(teacher: Any) -> list[str]:
    """Return the names of the protocol's attributes and methods that an object lacks."""
    attributes = [name for name in ("name", "embedding_dim") if not hasattr(teacher, name)]
    return attributes + [name for name in _METHODS if not callable(getattr(teacher, name, None))]


def check_members(teacher: AnyTeacher) -> None:
    """Raise ConformanceError unless the protocol's members exist and have the right types."""
    missing = missing_members(teacher)
    _require(not missing, f"the teacher lacks {', '.join(missing)}")
    name, length = teacher.name, teacher.embedding_dim
    _require(isinstance(name, str) and bool(name), f"name is {name!r}, expected a text")
    _require(_is_count(length), f"embedding_dim is {length!r}, expected a positive integer")


def check_grid(teacher: AnyTeacher, height: int, width: int) -> MaskGrid:
    """Return the mask grid of an image size; raise ConformanceError unless it is valid."""
    grid = teacher.mask_grid(height, width)
    where = f"mask_grid({height}, {width})"
    _require(isinstance(grid, MaskGrid), f"{where} gave {grid!r}, expected a MaskGrid")
    sides = _is_count(grid.height) and _is_count(grid.width)
    _require(sides, f"{where}: height and width must be positive integers, got {grid}")
    extent = np.asarray(grid.extent, float)
    sane = extent.shape == (2,) and bool(np.isfinite(extent).all()) and bool((extent > 0).all())
    _require(sane, f"{where}: extent must be two positive numbers, got {grid.extent!r}")
    cells = bool((extent <= 4.0 * np.array([grid.width, grid.height])).all())
    _require(
        cells,
        f"{where}: extent {grid.extent!r} is in cells (width, height), not in pixels; it is more "
        f"than four times the grid's {grid.width}x{grid.height}",
    )
    _require(grid == teacher.mask_grid(height, width), f"{where} differs when asked again")
    return grid


class _CheckedTeacher:
    """Asks a teacher and checks the types and shapes of its answers."""

    def __init__(self, teacher: AnyTeacher, texts: Sequence[str]) -> None:
        self._teacher, self._texts = teacher, list(texts)

    def answers(self, image: Image, view_id: str, grid: MaskGrid) -> list[TeacherAnswer]:
        """Answer all queries on one view; check the answers, and that the inputs are intact."""
        pixels, texts = image.copy(), list(self._texts)
        view = self._teacher.encode_view(pixels, view_id)
        nothing = self._teacher.answer(view, [])
        _require(len(nothing) == 0, f"{view_id}: no query got {len(nothing)} answers")
        answers = self._teacher.answer(view, texts)
        _require(bool((pixels == image).all()), f"{view_id}: the teacher modified the image")
        _require(texts == self._texts, f"{view_id}: the teacher modified the list of queries")
        expected = f"{view_id}: expected a list of {len(texts)} answers"
        _require(isinstance(answers, list), f"{expected}, got a {type(answers).__name__}")
        _require(len(answers) == len(texts), f"{expected}, got {len(answers)}")
        for text, answer in zip(texts, answers, strict=True):
            check_answer(answer, grid, self._teacher.embedding_dim, f"{view_id}, query {text!r}")
        return answers


def check_answer(answer: Any, grid: MaskGrid, embedding_dim: int, where: str) -> None:
    """Raise ConformanceError unless an answer has the types and shapes of the protocol."""
    kind = type(answer).__name__
    _require(isinstance(answer, TeacherAnswer), f"{where}: got a {kind}, not a TeacherAnswer")
    _require(isinstance(answer.text, str), f"{where}: text is {answer.text!r}")
    num_seg = len(answer.mask_logits)
    for name, shape in (
        ("mask_logits", (num_seg, grid.height, grid.width)),
        ("predicted_iou", (num_seg,)),
        ("seg_embeddings", (num_seg, embedding_dim)),
    ):
        _check_array(answer, name, shape, f"{where}:")
    iou = answer.predicted_iou
    inside = bool(((iou >= 0) & (iou <= 1)).all())
    _require(inside, f"{where}: predicted_iou is {iou}, expected values in [0, 1]")
    presence = answer.presence
    if presence is not None:
        expected = "expected a number in [0, 1] or None"
        _require(_is_fraction(presence), f"{where}: presence is {presence!r}, {expected}")
    if answer.withheld is not None:
        _require(num_seg == 0, f"{where}: a withheld mask beside {num_seg} masks of [SEG]s")
        _check_withheld(answer.withheld, grid, embedding_dim, where)


def _check_withheld(withheld: Any, grid: MaskGrid, embedding_dim: int, where: str) -> None:
    kind = type(withheld).__name__
    is_mask = isinstance(withheld, WithheldMask)
    _require(is_mask, f"{where}: withheld is a {kind}, not a WithheldMask")
    _check_array(withheld, "mask_logits", (grid.height, grid.width), f"{where}: withheld")
    _check_array(withheld, "seg_embedding", (embedding_dim,), f"{where}: withheld")
    iou = withheld.predicted_iou
    expected = "expected a number in [0, 1]"
    _require(_is_fraction(iou), f"{where}: withheld predicted_iou is {iou!r}, {expected}")


def _check_array(holder: Any, name: str, shape: tuple[int, ...], where: str) -> None:
    array = getattr(holder, name)
    kind = type(array).__name__
    _require(isinstance(array, np.ndarray), f"{where} {name} is a {kind}, not a numpy array")
    _require(array.shape == shape, f"{where} {name} is {array.shape}, expected {shape}")
    is_float = array.dtype == np.float32
    _require(is_float, f"{where} {name} is {array.dtype}, expected float32")
    _require(bool(np.isfinite(array).all()), f"{where} {name} holds a value that is not finite")


def _compare(
    first: Sequence[TeacherAnswer],
    second: Sequence[TeacherAnswer],
    when: str,
    view_id: str,
    tolerance: float,
) -> None:
    """Raise ConformanceError unless two lists of answers are equal."""
    _require(len(first) == len(second), f"{view_id}: the number of answers changes {when}")
    for a, b in zip(first, second, strict=True):
        where = f"{view_id}: the answer {a.text!r}"
        _require(a.text == b.text, f"{where} becomes {b.text!r} {when}")
        first_values, second_values = _values(a), _values(b)
        for name in ("presence", "withheld"):
            same = (getattr(a, name) is None) == (getattr(b, name) is None)
            _require(same, f"{where}: {name} comes or goes {when}")
        for name, old in first_values.items():
            new = second_values[name]
            _require(old.shape == new.shape, f"{where}: {name} changes its shape {when}")
            gap = float(np.abs(old - new).max(initial=0))
            scale = max(1.0, float(np.abs(old).max(initial=0)))
            _require(gap <= tolerance * scale, f"{where}: {name} changes by {gap:.3g} {when}")


def _values(answer: TeacherAnswer) -> dict[str, NDArray[Any]]:
    """Return all numbers of an answer as arrays by name."""
    values: dict[str, Any] = {
        "mask_logits": answer.mask_logits,
        "predicted_iou": answer.predicted_iou,
        "seg_embeddings": answer.seg_embeddings,
    }
    if answer.presence is not None:
        values["presence"] = answer.presence
    if answer.withheld is not None:
        values |= {f"withheld {name}": value for name, value in vars(answer.withheld).items()}
    return {name: np.asarray(value) for name, value in values.items()}


def _is_fraction(value: Any) -> bool:
    number = isinstance(value, (int, float, np.floating)) and not isinstance(value, bool)
    return number and bool(0 <= value <= 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _require(kept: bool, message: str) -> None:
    if not kept:
        raise ConformanceError(message)
