"""Read and write the teacher cache ``teacher.zarr``: a 2D teacher's answers on one scene.

For each (view, query) it holds a status, the probability of [SEG] (presence), one mask as 8-bit
logits, its predicted IoU, its [SEG] embedding, and the answer's text. An answer with several
[SEG] stores the union of its masks (the largest logit), their mean embedding and their mean
predicted IoU. For an answer without [SEG] the mask is the withheld one, if the teacher gives it.

The group has one array, ``views``, with one record of bytes per view
(``data.artifacts.teacher_record``) and one file per record. A view's answers are therefore
stored whole or not at all, and a killed job loses at most one view. (One array per kind of value
would take six Zarr writes per view.) The store's lock admits one writing process per host; the
cache may lie in an object store.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec
from zarr.errors import UnstableSpecificationWarning

from data.artifacts.object_store import RemoteFolder, StoragePath
from data.artifacts.remote_artifact import stop_if_finished
from data.artifacts.store import require_complete
from data.artifacts.teacher_record import (
    FAILED,
    LOGIT_LIMIT,
    LOGIT_STEP,
    MASK,
    NO_SEG,
    NOT_DONE,
    ViewAnswers,
    pack_view,
    quantise_logits,
    unpack_head,
    unpack_masks,
)
from data.artifacts.zarr_groups import zarr_location
from data.errors import ArtifactError
from data.types import Array

FILE = "teacher.zarr"
ARRAY = "views"
_AT_ONCE = 16
"""Records that are read together."""


def create_records(path: StoragePath, num_views: int, attributes: dict[str, Any]) -> Any:
    """Create a group with these attributes and an empty array (V,) of bytes; replace an old one."""
    with _bytes_known():
        place = zarr_location(path)
        group = zarr.create_group(place, overwrite=True, zarr_format=3, attributes=attributes)
        return group.create_array(
            ARRAY,
            shape=(num_views,),
            dtype="variable_length_bytes",
            chunks=(1,),
            compressors=Crc32cCodec(),
            fill_value=b"",
        )


def open_records(path: StoragePath, mode: str) -> tuple[dict[str, Any], Any]:
    """Open a group: its attributes and its array; raises Zarr's errors where there is none."""
    with _bytes_known():
        place = zarr_location(path, read_only=mode == "r")
        group = zarr.open_group(place, mode=mode, zarr_format=3)
        return dict(group.attrs), group[ARRAY]


def each_record(array: Any) -> Iterator[tuple[int, bytes]]:
    """Yield index and record of each view, b"" for a missing record; few at a time in memory."""
    for start in range(0, array.shape[0], _AT_ONCE):
        for row, record in enumerate(array[start : start + _AT_ONCE]):
            yield start + row, bytes(record)


@contextmanager
def _bytes_known() -> Iterator[None]:
    """Suppress Zarr's warning that its bytes type has no specification: its version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnstableSpecificationWarning)
        yield


__all__ = (
    "FAILED",
    "FILE",
    "LOGIT_LIMIT",
    "LOGIT_STEP",
    "MASK",
    "NOT_DONE",
    "NO_SEG",
    "TeacherCache",
    "TeacherWriter",
    "ViewAnswers",
    "quantise_logits",
    "read_teacher",
)
_REMEDY = "Run RunTeacher again."
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
_HELD = 64 * 2**20
"""Bytes of stored records that an open cache keeps in memory."""


class TeacherWriter:
    """Writes the cache of one scene; resumes where an earlier, unfinished attempt stopped."""

    def __init__(
        self, folder: StoragePath, view_ids: Sequence[str], prompt_ids: Sequence[str]
    ) -> None:
        self._folder, self._path = folder, folder / FILE
        self._view_ids, self._prompt_ids = list(view_ids), list(prompt_ids)
        shape = (len(self._view_ids), len(self._prompt_ids))
        self.status = np.full(shape, NOT_DONE, np.uint8)
        self._layout: dict[str, Any] | None = None
        self._views: Any = None
        if (self._path / ARRAY / "zarr.json").exists():
            self._resume()

    def _resume(self) -> None:
        if isinstance(self._path, Path):
            for partial in self._path.rglob("*.partial"):
                partial.unlink()
        try:
            layout, self._views = open_records(self._path, "r+")
            if [layout.pop("view_ids"), layout.pop("prompt_ids")] != [
                self._view_ids,
                self._prompt_ids,
            ]:
                raise ValueError("other views or queries")
            num_queries, dim = len(self._prompt_ids), int(layout["embedding_dim"])
            for index, record in each_record(self._views):
                if record:
                    self.status[index] = unpack_head(record, num_queries, dim).status
        except _DAMAGE as error:
            found = f"{type(error).__name__}: {error}"
            remedy = "Remove the folder and run RunTeacher again."
            raise ArtifactError(str(self._path), "this scene's cache", found, remedy) from error
        self._layout = layout

    def begin(
        self, mask_shape: tuple[int, int], mask_extent: tuple[float, float], embedding_dim: int
    ) -> None:
        """Create the array, or raise ArtifactError if an existing one has another layout.

        ``mask_shape`` is (h, w) in cells; ``mask_extent`` (x, y) is the number of cells that the
        image covers.
        """
        layout = {
            "mask_shape": list(mask_shape),
            "mask_extent": [float(size) for size in mask_extent],
            "embedding_dim": embedding_dim,
        }
        if self._layout is None:
            self._create(layout)
        elif self._layout != layout:
            remedy = "Remove the folder and run RunTeacher again."
            raise ArtifactError(str(self._path), str(layout), str(self._layout), remedy)

    def _create(self, layout: dict[str, Any]) -> None:
        ids = {"view_ids": self._view_ids, "prompt_ids": self._prompt_ids}
        self._views = create_records(self._path, len(self._view_ids), {**layout, **ids})
        self._layout = layout

    @property
    def begun(self) -> bool:
        """Whether the array exists."""
        return self._layout is not None

    def missing_views(self) -> list[int]:
        """Indices of the views to compute: views without answers, or with a failed answer."""
        if not self._prompt_ids:
            return []
        todo = (self.status == NOT_DONE) | (self.status == FAILED)
        return [int(index) for index in np.flatnonzero(todo.any(axis=1))]

    def write_view(self, index: int, answers: ViewAnswers) -> None:
        """Store all answers on one view; ``begin`` must have been called.

        Raises ValueError for answers that ``ViewAnswers.check`` refuses or whose shapes differ
        from the cache's; in an object store also as ``stop_if_finished`` does.
        """
        where = f"view {self._view_ids[index]}"
        self._check_size(answers, where)
        answers.check(where)
        if isinstance(self._folder, RemoteFolder):
            stop_if_finished(self._folder)
        self._views[index : index + 1] = np.array([pack_view(answers)], object)
        self.status[index] = answers.status

    def _check_size(self, answers: ViewAnswers, where: str) -> None:
        layout, count = self._layout or {}, len(self._prompt_ids)
        expected_shapes = {
            "status": (count,),
            "mask_logits": (count, *layout["mask_shape"]),
            "predicted_iou": (count,),
            "seg_embeddings": (count, layout["embedding_dim"]),
            "presences": (count,),
        }
        for name, shape in expected_shapes.items():
            if getattr(answers, name).shape != shape:
                found = getattr(answers, name).shape
                raise ValueError(f"{where}: {name} must be {shape}, got {found}")
        if len(answers.texts) != count:
            raise ValueError(f"{where}: expected {count} texts, got {len(answers.texts)}")


class TeacherCache:
    """A finished cache, open for reading; masks are unpacked one view at a time.

    ``status`` (V, Q) uint8; ``drawn`` (V, Q) bool marks answers with a mask: those whose status
    is MASK and those with a withheld mask; ``predicted_iou`` (V, Q) float32 and
    ``seg_embeddings`` (V, Q, D) float32 are 0 where there is no mask; ``presence`` (V, Q) float32
    in [0, 1] is the probability of [SEG], 0 where the status is FAILED; ``answers`` are V rows of
    Q texts; ``mask_shape`` is (h, w) in cells; ``mask_extent`` (2,) float64 is the number of
    cells that the image's width and height cover: pixel u of W lies at
    ``u / W * mask_extent[0]`` cells from the left edge. Several threads may read masks at once.
    """

    def __init__(self, path: StoragePath) -> None:
        self._path = str(path)
        attrs, self._views = open_records(path, "r")
        self.view_ids: tuple[str, ...] = tuple(attrs["view_ids"])
        self.prompt_ids: tuple[str, ...] = tuple(attrs["prompt_ids"])
        self.mask_shape: tuple[int, int] = (attrs["mask_shape"][0], attrs["mask_shape"][1])
        self.mask_extent: Array = np.asarray(attrs["mask_extent"], np.float64)
        self.embedding_dim = int(attrs["embedding_dim"])
        if self._views.shape != (len(self.view_ids),):
            raise ValueError(f"records of {self._views.shape}, not of {len(self.view_ids)} views")
        shape = (len(self.view_ids), len(self.prompt_ids))
        self.status: Array = np.full(shape, NOT_DONE, np.uint8)
        self.drawn: Array = np.zeros(shape, bool)
        self.predicted_iou: Array = np.zeros(shape, np.float32)
        self.seg_embeddings: Array = np.zeros((*shape, self.embedding_dim), np.float32)
        self.presence: Array = np.zeros(shape, np.float32)
        self._held: dict[int, bytes] = {}
        self.answers = self._read_heads() if self.prompt_ids else ((),) * len(self.view_ids)
        if np.any(self.status == NOT_DONE):
            raise ValueError(f"{np.sum(self.status == NOT_DONE)} answers are missing")
        if np.any((self.status == MASK) & ~self.drawn):
            raise ValueError("masks of answers are missing")

    def _read_heads(self) -> tuple[tuple[str, ...], ...]:
        """Fill the arrays from the records; return the texts of each view."""
        texts, bytes_left = [], _HELD
        for index, record in each_record(self._views):
            if not record:
                texts.append(("",) * len(self.prompt_ids))
                continue
            head = unpack_head(record, len(self.prompt_ids), self.embedding_dim)
            self.status[index], self.drawn[index] = head.status, head.drawn
            self.predicted_iou[index], self.presence[index] = head.predicted_iou, head.presence
            self.seg_embeddings[index] = head.seg_embeddings
            texts.append(head.texts)
            bytes_left -= len(record)
            if bytes_left >= 0:
                self._held[index] = record
        return tuple(texts)

    def mask_steps(self, view_index: int) -> Array:
        """Read (Q, h, w) int8 logits of one view in units of LOGIT_STEP, 0 where there is no mask.

        Raises ArtifactError when the masks cannot be read.
        """
        drawn = self.drawn[view_index]
        if not drawn.any():
            return np.zeros((len(drawn), *self.mask_shape), np.int8)
        try:
            record = self._held.get(view_index) or bytes(self._views[view_index].item())
            return unpack_masks(record, drawn, self.mask_shape)
        except _DAMAGE as error:
            raise ArtifactError(self._path, "readable masks", str(error), _REMEDY) from error

    def mask_logits(self, view_index: int) -> Array:
        """Read (Q, h, w) float32 logits of one view, 0 where there is no mask.

        Raises ArtifactError when the masks cannot be read.
        """
        return np.asarray(self.mask_steps(view_index) * np.float32(LOGIT_STEP))


def read_teacher(folder: StoragePath) -> TeacherCache:
    """Open a finished cache; ArtifactError when it is unfinished or cannot be read."""
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        return TeacherCache(path)
    except _DAMAGE as error:
        raise ArtifactError(str(path), "a whole teacher cache", str(error), _REMEDY) from error
