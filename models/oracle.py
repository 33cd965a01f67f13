"""The oracle: a substitute for a 2D teacher that reads ground truth and makes random errors.

The oracle is not label-free: it answers with true instance masks, corrupted by an error model of
given rates, for tests and ablations. Its random numbers are seeded by the SHA-256 of (seed,
scene, view, words of the query), so an answer does not depend on the order, the batch or the
run.

Errors, drawn for each (view, query):

- *miss*: a target in view is overlooked; an answer without targets holds no [SEG];
- *confuse*: one target is replaced by another visible object, preferably of the same label, then
  the nearest in size;
- *hallucinate*: a visible object is masked although no target is in view, preferably one with a
  target's label (a disc if the view shows no object);
- *ragged*: borders are moved by smooth noise, by at most 0.8 of the mask's half-width, so that no
  mask vanishes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from models.teacher import MaskGrid, TeacherAnswer

_NOISE_CELLS = 6
BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float32]


def signed_distance(mask: BoolArray) -> FloatArray:
    """Return the signed distance (h, w) float32 to the mask's border, in cells, positive inside.

    No value is 0.
    """
    far = float(sum(mask.shape))
    if not mask.any() or mask.all():
        return np.full(mask.shape, far if mask.any() else -far, np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """Draw (height, width) smooth noise of about unit deviation, from bumps six cells wide."""
    rows, columns = height // _NOISE_CELLS + 3, width // _NOISE_CELLS + 3
    bumps = rng.standard_normal((rows, columns))
    across = [_bumps_at(size, count) for size, count in ((height, rows), (width, columns))]
    return np.asarray(across[0] @ bumps @ across[1].T)


@lru_cache(maxsize=16)
def _bumps_at(size: int, count: int) -> NDArray[np.float64]:
    """Return unit rows (size, count), the weights of ``count`` bumps on ``size`` cells."""
    offset = np.arange(size)[:, None] / _NOISE_CELLS + 1 - np.arange(count)[None]
    weights = np.exp(-0.5 * (offset / 0.6) ** 2)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    weights.flags.writeable = False
    return weights


def ragged(distance: FloatArray, reach: float, rng: np.random.Generator) -> FloatArray:
    """Move the border of a signed distance field (h, w) by noise of deviation ``reach`` cells.

    No value changes by more than 0.8 of the largest distance, so a mask never vanishes.
    """
    noise = smooth_noise(rng, *distance.shape)
    limit = 0.8 * max(float(distance.max()), 0.0)
    moved = distance + np.clip(noise * min(reach, limit), -limit, limit)
    return np.asarray(moved, np.float32)


def iou(a: BoolArray, b: BoolArray) -> float:
    """Return the intersection over union of two masks, 0 when both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


CODE_DIM = 64


def seeded(*parts: object) -> np.random.Generator:
    """Make a random generator seeded by ``parts`` alone, equal on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4")
    return np.random.default_rng(np.random.SeedSequence([int(word) for word in words]))


@lru_cache(maxsize=4096)
def code(text: str) -> NDArray[np.float64]:
    """Return the unit vector (64,) that represents a word or label."""
    vector = seeded("code", text).standard_normal(CODE_DIM)
    vector /= np.linalg.norm(vector)
    vector.flags.writeable = False
    return vector


def words_code(text: str) -> NDArray[np.float64]:
    """Return the mean code (64,) of a query's lower-case words, zeros for a query without words."""
    words = re.findall(r"\w+", text.lower())
    return np.asarray(np.mean([code(word) for word in words] or [np.zeros(CODE_DIM)], axis=0))


FOUND = "It is [SEG]."
NOT_FOUND = "There is no such object in this view."
WORD_SHARE = 0.5
LOGIT_SLOPE = 2.0
LOGIT_CLIP = 8.0
RAGGED_REACH = 0.1


@dataclass(frozen=True)
class OracleErrors:
    """Error rates in [0, 1]; all 0 makes the oracle exact.

    ``ragged`` 1 moves borders by about 10 % of the image; ``token_noise`` is the length of the
    noise added to [SEG] embeddings, ``iou_noise`` the standard deviation of the noise on predicted
    IoUs; an object in view has at least ``min_cells`` mask cells.
    """

    seed: int
    ragged: float
    miss: float
    confuse: float
    hallucinate: float
    token_noise: float
    iou_noise: float
    min_cells: int


@dataclass(eq=False)
class OracleView:
    """True masks (K, h, w) bool of one view, and a cache of their distance fields."""

    view_id: str
    masks: BoolArray
    sizes: NDArray[np.int64]
    distances: dict[tuple[int, ...], FloatArray] = field(default_factory=dict)

    def union(self, rows: Sequence[int]) -> BoolArray:
        """Return (h, w) bool, the cells of any of the objects ``rows``."""
        return np.asarray(self.masks[list(rows)].any(axis=0), bool)


@dataclass(frozen=True, eq=False)
class _Drawing:
    """Objects that the oracle masks (``rows``), and the targets in view (``target_rows``)."""

    rows: tuple[int, ...]
    target_rows: tuple[int, ...]


class OracleTeacher:
    """A ``Teacher`` that answers with true masks and errors.

    ``instance_masks`` maps a view id to (K, h, w) bool, the visible cells of each of the K
    objects (objects may overlap); ``object_ids`` and ``labels`` describe these objects.
    ``targets`` maps the text of a query to the ids of its objects, none for an absent object.
    ``grid`` is the grid of the masks.
    """

    name = "oracle"
    embedding_dim = CODE_DIM

    def __init__(
        self,
        scene_id: str,
        object_ids: Sequence[int],
        labels: Sequence[str],
        instance_masks: Callable[[str], BoolArray],
        targets: Mapping[str, Sequence[int]],
        grid: MaskGrid,
        errors: OracleErrors,
    ) -> None:
        if len(object_ids) != len(labels):
            raise ValueError(f"{len(object_ids)} objects, but {len(labels)} labels")
        self._scene_id, self._labels = scene_id, tuple(labels)
        self._rows = {object_id: row for row, object_id in enumerate(object_ids)}
        self._instance_masks, self._targets = instance_masks, targets
        self._grid, self._errors = grid, errors

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        """Return the grid of the true masks for an image of any size."""
        return self._grid

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> OracleView:
        """Fetch the view's true masks; the image is ignored. ValueError for misshapen masks."""
        masks = np.asarray(self._instance_masks(view_id), bool)
        expected = (len(self._labels), self._grid.height, self._grid.width)
        if masks.shape != expected:
            raise ValueError(f"instance masks of {view_id} are {masks.shape}, expected {expected}")
        return OracleView(view_id, masks, masks.sum(axis=(1, 2)))

    def answer(self, view: OracleView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; KeyError for a text that is missing in ``targets``."""
        return [self._answer(view, text) for text in texts]

    def _answer(self, view: OracleView, text: str) -> TeacherAnswer:
        rng = seeded(self._errors.seed, self._scene_id, view.view_id, text)
        drawing = self._choose(view, self._targets[text], rng)
        if drawing is None:
            return TeacherAnswer.without_mask(NOT_FOUND, self._grid, CODE_DIM)
        reach = self._errors.ragged * RAGGED_REACH * max(self._grid.height, self._grid.width)
        distance = ragged(self._distance(view, drawing.rows, rng), reach, rng)
        logits = np.clip(distance * LOGIT_SLOPE, -LOGIT_CLIP, LOGIT_CLIP).astype(np.float32)
        return TeacherAnswer(
            FOUND,
            logits[None],
            np.array([self._predict_iou(view, drawing, logits > 0, rng)], np.float32),
            self._embed(drawing.rows, text, rng)[None],
        )

    def _choose(
        self, view: OracleView, targets: Sequence[int], rng: np.random.Generator
    ) -> _Drawing | None:
        """Choose the objects to mask, with errors; None for an answer without a mask."""
        visible = [int(r) for r in np.flatnonzero(view.sizes >= self._errors.min_cells)]
        in_view = tuple(sorted(self._rows[t] for t in targets if self._rows[t] in visible))
        hallucinates, confuses = rng.random(2) < (self._errors.hallucinate, self._errors.confuse)
        pick = rng.random()
        if not in_view:
            if not hallucinates:
                return None
            labels = {self._labels[self._rows[target]] for target in targets}
            choice = [row for row in visible if self._labels[row] in labels] or visible
            return _Drawing((choice[int(pick * len(choice))],) if choice else (), ())
        seen = rng.random(len(in_view)) >= self._errors.miss
        rows = [row for row, kept in zip(in_view, seen, strict=True) if kept]
        if not rows:
            return None
        others = [row for row in visible if row not in in_view]
        if confuses and others:
            victim = int(pick * len(rows))
            rows[victim] = self._most_similar(view, rows[victim], others)
        return _Drawing(tuple(sorted(rows)), in_view)

    def _most_similar(self, view: OracleView, row: int, others: Sequence[int]) -> int:
        """Return the other object most similar to ``row``: same label first, then nearest size."""
        size = np.log(view.sizes[row])

        def unlike(other: int) -> tuple[bool, float, int]:
            gap = abs(float(np.log(view.sizes[other]) - size))
            return self._labels[other] != self._labels[row], gap, other

        return min(others, key=unlike)

    def _distance(
        self, view: OracleView, rows: tuple[int, ...], rng: np.random.Generator
    ) -> FloatArray:
        """Return the signed distance (h, w) of the union of ``rows``, of a random disc if empty."""
        height, width = self._grid.height, self._grid.width
        if not rows:
            center = rng.random(2) * (height, width)
            y, x = np.ogrid[:height, :width]
            reach = np.hypot(y + 0.5 - center[0], x + 0.5 - center[1])
            return np.asarray(0.15 * min(height, width) + 1 - reach, np.float32)
        if rows not in view.distances:
            view.distances[rows] = signed_distance(view.union(rows))
        return view.distances[rows]

    def _predict_iou(
        self, view: OracleView, drawing: _Drawing, mask: BoolArray, rng: np.random.Generator
    ) -> float:
        """Draw the predicted IoU from the mask's IoU with the masked objects, plus noise.

        Hallucinations get 0.45 on average. A confused answer is scored against the objects that
        it masked, as a confused teacher would.
        """
        masked = view.union(drawing.rows)
        mean = 0.3 + 0.6 * iou(mask, masked) if drawing.target_rows else 0.45
        return float(np.clip(mean + self._errors.iou_noise * rng.standard_normal(), 0.02, 0.98))

    def _embed(self, rows: tuple[int, ...], text: str, rng: np.random.Generator) -> FloatArray:
        """Return the unit [SEG] embedding (64,) float32: masked labels, query words and noise."""
        labels = [self._labels[row] for row in rows] or ["nothing"]
        noise = rng.standard_normal(CODE_DIM)
        vector = np.mean([code(label) for label in labels], axis=0)
        vector = vector + WORD_SHARE * words_code(text)
        vector = vector + self._errors.token_noise * noise / np.linalg.norm(noise)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)
