"""The teacher cache on disk against a folder of 1-bit PNGs.

For equal content both hold the same hard masks on the same grid, and ours an embedding of one
number. The last row shows what the real content, 8-bit logits of soft masks, takes beside 1-bit
PNGs of the same masks at the image's size.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from benchmarks.answers import answers, blob_logits
from benchmarks.harness import Row, Scale, compare, require, row
from benchmarks.reference import teacher_cache as reference
from data.artifacts.teacher import FILE, LOGIT_STEP, TeacherCache, TeacherWriter
from data.types import Array

_HARD = 8.0


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time to write and to read, bytes and files."""
    soft = [blob_logits(scale.queries, scale.mask_size, view) for view in range(scale.views)]
    hard = [np.where(logits > 0, np.float32(_HARD), np.float32(-_HARD)) for logits in soft]
    masks = [logits > 0 for logits in soft]
    size = f"{scale.views} views x {scale.queries} queries on {scale.mask_size[1]} cells"
    name = f"teacher cache, {size}"
    number = itertools.count()

    def write_ours() -> Iterator[Path]:
        yield _write(folder / f"ours{next(number)}", hard, scale)

    def write_theirs() -> Iterator[Path]:
        place = folder / f"theirs{next(number)}"
        reference.write_masks(place, masks)
        yield place

    def check_written(mine: Path, theirs: Path) -> None:
        for left, right in zip(_read(mine), reference.read_masks(theirs), strict=True):
            _check(left, right)

    rows = compare(f"{name}, write", write_ours, write_theirs, check_written, 2, repeats)
    mine, theirs = next(write_ours()), next(write_theirs())
    rows += compare(
        f"{name}, read",
        lambda: _read(mine),
        lambda: reference.read_masks(theirs),
        _check,
        target=2,
        repeats=repeats,
    )
    soft_row = _soft_row(folder, soft, scale, name)
    if not rows:
        return []
    megabytes = (_bytes(mine) / 1e6, _bytes(theirs) / 1e6)
    rows.append(row(f"{name}: bytes, equal content", *megabytes, "MB", 1 / 0.7, 1))
    files = (len(_files(mine)), len(_files(theirs)))
    return [*rows, row(f"{name}: files", *files, "files", 10, 1), soft_row]


def _write(place: Path, logits: Sequence[Array], scale: Scale) -> Path:
    view_ids = [f"view{view:04d}" for view in range(len(logits))]
    prompt_ids = [f"query{query:04d}" for query in range(scale.queries)]
    writer = TeacherWriter(place, view_ids, prompt_ids)
    writer.begin(scale.mask_size, _extent(scale), 1)
    for view, masks in enumerate(logits):
        writer.write_view(view, answers(masks, 1, 0, view))
    return place


def _extent(scale: Scale) -> tuple[float, float]:
    """Cells covered by the image: its longer side fills the grid's."""
    cells = float(scale.mask_size[1])
    return cells, cells * scale.height / scale.width


def _read(place: Path) -> Iterator[Array]:
    cache = TeacherCache(place / FILE)
    for view in range(len(cache.view_ids)):
        yield cache.mask_logits(view) > 0


def _check(mine: Array, theirs: Array) -> None:
    require(bool(theirs.any()) and not theirs.all(), "masks without content")
    require(np.array_equal(mine, theirs), f"{int(np.sum(mine != theirs))} cells differ")


def _soft_row(folder: Path, soft: Sequence[Array], scale: Scale, name: str) -> Row:
    """Bytes of soft masks; after enlarging, both give the same masks up to the 8-bit step."""
    cache = TeacherCache(_write(folder / "soft", soft, scale) / FILE)
    large = [_enlarge(logits, scale) for logits in soft[:1]]
    stored = _enlarge(cache.mask_logits(0), scale)
    unsure = np.abs(large[0]) <= LOGIT_STEP
    require(
        np.array_equal((stored > 0)[~unsure], (large[0] > 0)[~unsure]),
        f"{name}: enlarged masks differ where logits are beyond a step of 0",
    )
    reference.write_masks(folder / "large", [_enlarge(logits, scale) > 0 for logits in soft])
    sizes = (_bytes(folder / "soft") / 1e6, _bytes(folder / "large") / 1e6)
    label = f"{name}: bytes, soft logits against PNGs at image size"
    return row(label, *sizes, "MB", None, 1)


def _enlarge(logits: Array, scale: Scale) -> Array:
    return np.stack([cv2.resize(mask, (scale.width, scale.height)) for mask in logits])


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in _files(place))
