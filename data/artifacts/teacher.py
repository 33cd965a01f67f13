"""Teacher cache: ``teacher.zarr``, every answer of a 2D teacher on one scene, resumable.

Per (view, query) it holds a status, how likely [SEG] was, one mask as 8-bit logits, its
predicted IoU and its [SEG] embedding, and the answer's text. An answer with several [SEG] keeps
the union of its masks (the largest logit), their mean embedding and their mean predicted IoU; of
an answer without [SEG] the mask is the one that the teacher held back, where it tells it. A mask
of zeros and a lost chunk cannot be taken for each other: see ``data.artifacts.view_answers``.

The masks of a view are one file; the small arrays are one file each and are rewritten after
every view, ``status`` last. A killed job therefore loses at most the view it was on. One
process of a host writes a cache at a time (the store's lock sees to that); the cache may lie in
an object store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from data.artifacts.remote import Place, RemoteFolder
from data.artifacts.remote_artifact import stop_if_finished
from data.artifacts.remote_zarr import zarr_place
from data.artifacts.store import require_complete
from data.artifacts.view_answers import (
    FAILED,
    LOGIT_LIMIT,
    LOGIT_STEP,
    MASK,
    NO_SEG,
    NOT_DONE,
    ViewAnswers,
    quantise_logits,
)
from data.errors import ArtifactError
from data.types import Array

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
FILE = "teacher.zarr"
_ARRAYS = ("mask_logits", "predicted_iou", "presence", "seg_embeddings", "answers", "status")
_UNWRITTEN = -128
_REMEDY = "Run RunTeacher again."
_DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError)


class TeacherWriter:
    """Fills the cache of one scene; goes on where an earlier, unfinished attempt stopped."""

    def __init__(self, folder: Place, view_ids: Sequence[str], prompt_ids: Sequence[str]) -> None:
        self._folder, self._path = folder, folder / FILE
        self._view_ids, self._prompt_ids = list(view_ids), list(prompt_ids)
        shape = (len(self._view_ids), len(self._prompt_ids))
        self.status = np.full(shape, NOT_DONE, np.uint8)
        self._layout: dict[str, Any] | None = None
        self._arrays: dict[str, Any] = {}
        if (self._path / "status" / "zarr.json").exists():
            self._resume()

    def _resume(self) -> None:
        if isinstance(self._path, Path):
            for partial in self._path.rglob("*.partial"):
                partial.unlink()
        try:
            group = zarr.open_group(zarr_place(self._path), mode="r+", zarr_format=3)
            self._arrays = {name: group[name] for name in _ARRAYS}
            layout = dict(group.attrs)
            if [layout.pop("view_ids"), layout.pop("prompt_ids")] != [
                self._view_ids,
                self._prompt_ids,
            ]:
                raise ValueError("other views or queries")
            self._load_small()
        except _DAMAGE as error:
            found = f"{type(error).__name__}: {error}"
            remedy = "Remove the folder and run RunTeacher again."
            raise ArtifactError(str(self._path), "this scene's cache", found, remedy) from error
        self._layout = layout

    def _load_small(self) -> None:
        self.status = np.asarray(self._arrays["status"][...])
        self._predicted_iou = np.asarray(self._arrays["predicted_iou"][...])
        self._presence = np.asarray(self._arrays["presence"][...])
        self._seg_embeddings = np.asarray(self._arrays["seg_embeddings"][...])
        self._answers = np.asarray(self._arrays["answers"][...]).astype(object)

    def begin(
        self, mask_shape: tuple[int, int], mask_extent: tuple[float, float], embedding_dim: int
    ) -> None:
        """Create the arrays, or check that those found were made for the same teacher.

        ``mask_shape`` (h, w) cells; ``mask_extent`` (x, y) cells the image covers.
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
        num_views, num_queries = self.status.shape
        dim, (height, width) = layout["embedding_dim"], layout["mask_shape"]
        self._group = zarr.create_group(zarr_place(self._path), overwrite=True, zarr_format=3)
        shape = (num_views, num_queries)
        self._make("mask_logits", (*shape, height, width), "int8", _UNWRITTEN, per_view=True)
        self._make("predicted_iou", shape, "float32", np.nan)
        self._make("presence", shape, "float32", np.nan)
        self._make("seg_embeddings", (*shape, dim), "float32", np.nan)
        self._make("answers", shape, str, "")
        ids = {"view_ids": self._view_ids, "prompt_ids": self._prompt_ids}
        self._group.attrs.update({**layout, **ids})
        self._make("status", shape, "uint8", NOT_DONE)
        self._load_small()
        self._layout = layout

    def _make(
        self, name: str, shape: tuple[int, ...], dtype: Any, fill: Any, per_view: bool = False
    ) -> None:
        chunks = tuple(max(size, 1) for size in shape)
        self._arrays[name] = self._group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=(1, *chunks[1:]) if per_view else chunks,
            compressors=ZstdCodec(level=3, checksum=True),
            fill_value=fill,
        )

    @property
    def begun(self) -> bool:
        """Whether the arrays exist, from this attempt or an earlier one."""
        return self._layout is not None

    def missing_views(self) -> list[int]:
        """Indices of views to compute: not done, or failed in an attempt that never finished."""
        if not self._prompt_ids:
            return []
        todo = (self.status == NOT_DONE) | (self.status == FAILED)
        return [int(index) for index in np.flatnonzero(todo.any(axis=1))]

    def write_view(self, index: int, answers: ViewAnswers) -> None:
        """Store all answers on one view; ``begin`` must have been called.

        Raises ValueError for answers that ``ViewAnswers.check`` refuses; in an object store also
        as of ``stop_if_finished``.
        """
        answers.check(f"view {self._view_ids[index]}")
        if isinstance(self._folder, RemoteFolder):
            stop_if_finished(self._folder)
        has_mask = answers.drawn
        logits = np.full(answers.mask_logits.shape, _UNWRITTEN, np.int8)
        logits[has_mask] = quantise_logits(answers.mask_logits[has_mask])
        self._arrays["mask_logits"][index] = logits
        self._predicted_iou[index] = np.where(has_mask, answers.predicted_iou, np.nan)
        self._seg_embeddings[index] = np.where(has_mask[:, None], answers.seg_embeddings, np.nan)
        self._presence[index] = answers.presences
        self._answers[index] = answers.texts
        self.status[index] = answers.status
        self._arrays["predicted_iou"][...] = self._predicted_iou
        self._arrays["presence"][...] = self._presence
        self._arrays["seg_embeddings"][...] = self._seg_embeddings
        self._arrays["answers"][...] = self._answers.astype(np.dtypes.StringDType())
        self._arrays["status"][...] = self.status


class TeacherCache:
    """A finished cache, open for reading; masks are read one view at a time.

    ``status`` (V, Q) uint8; ``drawn`` (V, Q) bool, where there is a mask: wherever the status is
    MASK, and where a teacher held one back; ``predicted_iou`` (V, Q) float32 and
    ``seg_embeddings`` (V, Q, D) float32, 0 where nothing is drawn; ``presence`` (V, Q) float32 in
    [0, 1], how likely [SEG] was, 0 where the status is FAILED; ``answers`` V rows of Q texts;
    ``mask_shape`` (h, w) cells; ``mask_extent`` (2,) float64, cells that the image's width and
    height cover: pixel u of W lies at ``u / W * mask_extent[0]`` cells from the left edge.
    """

    def __init__(self, path: Place) -> None:
        self._path = str(path)
        group = zarr.open_group(zarr_place(path, read_only=True), mode="r", zarr_format=3)
        attrs: dict[str, Any] = dict(group.attrs)
        self.view_ids: tuple[str, ...] = tuple(attrs["view_ids"])
        self.prompt_ids: tuple[str, ...] = tuple(attrs["prompt_ids"])
        self.mask_shape: tuple[int, int] = (attrs["mask_shape"][0], attrs["mask_shape"][1])
        self.mask_extent: Array = np.asarray(attrs["mask_extent"], np.float64)
        self.embedding_dim = int(attrs["embedding_dim"])
        self.status: Array = np.asarray(group["status"][...])
        self.answers = tuple(tuple(map(str, row)) for row in np.asarray(group["answers"][...]))
        self._logits = group["mask_logits"]
        predicted_iou, embeddings = group["predicted_iou"][...], group["seg_embeddings"][...]
        written = np.isfinite(predicted_iou) | np.isfinite(embeddings).any(axis=2)
        self.drawn: Array = (self.status == MASK) | written
        self.predicted_iou: Array = _masked(predicted_iou, self.drawn)
        self.seg_embeddings: Array = _masked(embeddings, self.drawn)
        self.presence: Array = _masked(group["presence"][...], self.status != NOT_DONE)
        shape = (len(self.view_ids), len(self.prompt_ids))
        if self.status.shape != shape or self._logits.shape != (*shape, *self.mask_shape):
            raise ValueError(f"arrays do not fit {shape[0]} views and {shape[1]} queries")
        if np.any(self.status == NOT_DONE):
            raise ValueError(f"{np.sum(self.status == NOT_DONE)} answers are missing")

    def mask_logits(self, view_index: int) -> Array:
        """(Q, h, w) float32 logits of one view, meaningful where one is drawn.

        Raises ArtifactError when masks that were answered cannot be read.
        """
        try:
            stored = np.asarray(self._logits[view_index])
        except _DAMAGE as error:
            raise ArtifactError(self._path, "readable masks", str(error), _REMEDY) from error
        if np.any(stored[self.drawn[view_index]] == _UNWRITTEN):
            found = f"none for view {self.view_ids[view_index]}"
            raise ArtifactError(self._path, "the masks of every answer", found, _REMEDY)
        return np.asarray(stored * np.float32(LOGIT_STEP))


def _masked(values: Any, has_mask: Array) -> Array:
    array = np.array(values, np.float32)
    if not np.isfinite(array[has_mask]).all():
        raise ValueError("values of answered masks are missing")
    array[~has_mask] = 0
    return array


def read_teacher(folder: Place) -> TeacherCache:
    """Open a finished cache; ArtifactError when it is unfinished or cannot be read."""
    require_complete(folder, _REMEDY)
    path = folder / FILE
    try:
        return TeacherCache(path)
    except _DAMAGE as error:
        raise ArtifactError(str(path), "a whole teacher cache", str(error), _REMEDY) from error
