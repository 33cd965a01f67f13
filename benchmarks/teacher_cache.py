"""The teacher cache on disk compared with a folder of PNGs.

With equal content both sides hold the same hard masks on the same grid, and this project an
embedding of one number. "Soft logits" is the content of real use, 8-bit logits of soft masks; it
is compared with an 8-bit PNG per mask, which holds the same, and with 1-bit PNGs of the masks at
the size of the image.
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
from data.artifacts.teacher import FILE, LOGIT_STEP, TeacherCache, TeacherWriter, quantise_logits
from data.types import Array

_HARD = 8.0
_MIDDLE = 128


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time to write and to read, bytes and files, of hard masks and of soft ones."""
    soft = [blob_logits(scale.queries, scale.mask_size, view) for view in range(scale.views)]
    hard = [np.where(logits > 0, np.float32(_HARD), np.float32(-_HARD)) for logits in soft]
    size = f"{scale.views} views x {scale.queries} queries on {scale.mask_size[1]} cells"
    name = f"teacher cache, {size}"
    sides = _Sides(folder / "hard", hard, [logits > 0 for logits in soft], scale)
    rows = sides.times(name, 2, repeats)
    grey = [
        (quantise_logits(logits).astype(np.int16) + _MIDDLE).astype(np.uint8) for logits in soft
    ]
    soft_sides = _Sides(folder / "soft", soft, grey, scale)
    rows += soft_sides.times(f"{name}, soft logits", None, repeats)
    _check_enlarged(soft_sides, soft[0], scale, name)
    if not rows:
        return []
    mine, theirs = sides.written()
    files = (len(_files(mine)), len(_files(theirs)))
    reference.write_masks(folder / "large", [_enlarge(logits, scale) > 0 for logits in soft])
    soft_mine, soft_theirs = soft_sides.written()
    large = (_bytes(soft_mine) / 1e6, _bytes(folder / "large") / 1e6)
    return [
        *rows,
        _bytes_row(f"{name}: bytes, equal content", mine, theirs, 1 / 0.7),
        row(f"{name}: files", *files, "files", 10, 1),
        _bytes_row(f"{name}, soft logits: bytes, equal content", soft_mine, soft_theirs, None),
        row(f"{name}, soft logits: bytes against 1-bit PNGs at image size", *large, "MB", None, 1),
    ]


class _Sides:
    """Both formats of ``logits`` (Q, h, w) per view; the PNGs hold ``cells``.

    ``cells`` are bool, where a logit is positive, or uint8, its 8-bit steps.
    """

    def __init__(
        self, folder: Path, logits: Sequence[Array], cells: Sequence[Array], scale: Scale
    ) -> None:
        self._folder, self._logits, self._cells, self._scale = folder, logits, cells, scale
        self._number = itertools.count()

    def times(self, name: str, target: float | None, repeats: int) -> list[Row]:
        """Return rows of writing and of reading."""
        rows = compare(
            f"{name}, write", self._write_ours, self._write_theirs, self._compare, target, repeats
        )
        mine, theirs = self.written()
        return rows + compare(
            f"{name}, read",
            lambda: self._read(mine),
            lambda: reference.read_masks(theirs),
            _check,
            target,
            repeats,
        )

    def written(self) -> tuple[Path, Path]:
        """Write both formats to new places."""
        return next(self._write_ours()), next(self._write_theirs())

    def _write_ours(self) -> Iterator[Path]:
        place = self._folder / f"ours{next(self._number)}"
        yield _write(place, self._logits, self._scale)

    def _write_theirs(self) -> Iterator[Path]:
        place = self._folder / f"theirs{next(self._number)}"
        reference.write_masks(place, self._cells)
        yield place

    def _compare(self, mine: Path, theirs: Path) -> None:
        for left, right in zip(self._read(mine), reference.read_masks(theirs), strict=True):
            _check(left, right)

    def _read(self, place: Path) -> Iterator[Array]:
        cache = TeacherCache(place / FILE)
        is_hard = self._cells[0].dtype == bool
        for view in range(len(cache.view_ids)):
            # A picture cannot be below 0: its values are the steps above the lowest.
            steps = cache.mask_steps(view)
            yield steps > 0 if is_hard else steps.view(np.uint8) + np.uint8(_MIDDLE)


def _write(place: Path, logits: Sequence[Array], scale: Scale) -> Path:
    view_ids = [f"view{view:04d}" for view in range(len(logits))]
    prompt_ids = [f"query{query:04d}" for query in range(scale.queries)]
    writer = TeacherWriter(place, view_ids, prompt_ids)
    writer.begin(scale.mask_size, _extent(scale), 1)
    for view, masks in enumerate(logits):
        writer.write_view(view, answers(masks, 1, 0, view))
    return place


def _extent(scale: Scale) -> tuple[float, float]:
    """Return the cells that the image covers: its longer side fills the grid's."""
    cells = float(scale.mask_size[1])
    return cells, cells * scale.height / scale.width


def _check(mine: Array, theirs: Array) -> None:
    require(bool(theirs.min() < theirs.max()), "masks without content")
    require(np.array_equal(mine, theirs), f"{int(np.sum(mine != theirs))} cells differ")


def _check_enlarged(sides: _Sides, logits: Array, scale: Scale, name: str) -> None:
    """Check that stored and true logits give equal masks at image size, up to the 8-bit step."""
    cache = TeacherCache(sides.written()[0] / FILE)
    large, stored = (_enlarge(masks, scale) for masks in (logits, cache.mask_logits(0)))
    unsure = np.abs(large) <= LOGIT_STEP
    require(
        np.array_equal((stored > 0)[~unsure], (large > 0)[~unsure]),
        f"{name}: enlarged masks differ where logits are beyond a step of 0",
    )


def _bytes_row(name: str, mine: Path, theirs: Path, target: float | None) -> Row:
    return row(name, _bytes(mine) / 1e6, _bytes(theirs) / 1e6, "MB", target, 1)


def _enlarge(logits: Array, scale: Scale) -> Array:
    return np.stack([cv2.resize(mask, (scale.width, scale.height)) for mask in logits])


def _files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def _bytes(place: Path) -> int:
    return sum(path.stat().st_size for path in _files(place))
