"""The oracle: a stand-in for a 2D teacher that sees ground truth and makes errors on purpose.

It is never label-free: what it answers comes from true instance masks, spoiled by a seeded
error model of known rates, which makes it the controlled teacher of tests and ablations. Every
draw comes from SHA-256 of (seed, scene, view, words of the query), so an answer does not
depend on the order, the batch or the run in which it is asked for.

Errors, drawn for each (view, query):

- *miss*: each target in view is overlooked; an answer without targets holds no [SEG];
- *confuse*: one target is replaced by another visible object, one of the same label before
  all others, then the nearest in size;
- *hallucinate*: a visible object is masked though no target is in view: one that carries a
  target's label before all others (a disc where the view shows no object at all);
- *ragged*: borders are moved by smooth noise, never further than 0.8 of the mask's own
  half-width, so that no mask vanishes.
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
    """(h, w) float32 cells to the mask's border, positive inside, never 0."""
    far = float(sum(mask.shape))
    if not mask.any() or mask.all():
        return np.full(mask.shape, far if mask.any() else -far, np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)


def smooth_noise(rng: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """(height, width) noise of about unit deviation: random bumps some six cells wide."""
    rows, columns = height // _NOISE_CELLS + 3, width // _NOISE_CELLS + 3
    bumps = rng.standard_normal((rows, columns))
    across = [_bumps_at(size, count) for size, count in ((height, rows), (width, columns))]
    return np.asarray(across[0] @ bumps @ across[1].T)


def _bumps_at(size: int, count: int) -> NDArray[np.float64]:
    """(size, count) weights of ``count`` bumps on ``size`` cells, rows of unit length."""
    offset = np.arange(size)[:, None] / _NOISE_CELLS + 1 - np.arange(count)[None]
    weights = np.exp(-0.5 * (offset / 0.6) ** 2)
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True))


def ragged(distance: FloatArray, reach: float, rng: np.random.Generator) -> FloatArray:
    """A signed distance field whose border is moved by noise of deviation ``reach`` cells.

    No cell moves by more than 0.8 of the innermost distance, so a mask never vanishes.
    """
    noise = smooth_noise(rng, *distance.shape)
    limit = 0.8 * max(float(distance.max()), 0.0)
    moved = distance + np.clip(noise * min(reach, limit), -limit, limit)
    return np.asarray(moved, np.float32)


def iou(a: BoolArray, b: BoolArray) -> float:
    """Intersection over union of two masks, 0 when both are empty."""
    union = np.count_nonzero(a | b)
    return float(np.count_nonzero(a & b) / union) if union else 0.0


CODE_DIM = 64


def seeded(*parts: object) -> np.random.Generator:
    """A generator that depends on the parts alone, the same on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4")
    return np.random.default_rng(np.random.SeedSequence([int(word) for word in words]))


@lru_cache(maxsize=4096)
def code(text: str) -> NDArray[np.float64]:
    """(64,) the unit vector that stands for a word or label."""
    vector = seeded("code", text).standard_normal(CODE_DIM)
    vector /= np.linalg.norm(vector)
    vector.flags.writeable = False
    return vector


def words_code(text: str) -> NDArray[np.float64]:
    """(64,) mean code of a query's words, lower case; zeros for a query without words."""
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
    noise added to [SEG] vectors, ``iou_noise`` the standard deviation of the noise on predicted
    IoUs; an object is in view from ``min_cells`` mask cells on.
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
    """One view's true masks (K, h, w) bool and the distance fields computed so far."""

    view_id: str
    masks: BoolArray
    sizes: NDArray[np.int64]
    distances: dict[tuple[int, ...], FloatArray] = field(default_factory=dict)

    def union(self, rows: Sequence[int]) -> BoolArray:
        """(h, w) the cells of any of the objects."""
        return np.asarray(self.masks[list(rows)].any(axis=0), bool)


@dataclass(frozen=True, eq=False)
class _Drawing:
    """What the oracle decided to mask: object rows, and whether a target was in view."""

    rows: tuple[int, ...]
    target_rows: tuple[int, ...]


class OracleTeacher:
    """``Teacher`` over true masks.

    ``instance_masks`` maps a view id to (K, h, w) bool, the cells where each of the K objects
    is seen (occlusion tested; objects may overlap); ``object_ids`` and ``labels`` name them.
    ``targets`` maps the words of a query to the ids of the objects it means, none for an
    absent object. ``grid`` is the grid of those masks.
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
        """The grid of the true masks, whatever the image's size."""
        return self._grid

    def encode_view(self, image: NDArray[np.uint8], view_id: str) -> OracleView:
        """Fetch the view's true masks; the image itself is not looked at."""
        masks = np.asarray(self._instance_masks(view_id), bool)
        wanted = (len(self._labels), self._grid.height, self._grid.width)
        if masks.shape != wanted:
            raise ValueError(f"instance masks of {view_id} are {masks.shape}, expected {wanted}")
        return OracleView(view_id, masks, masks.sum(axis=(1, 2)))

    def answer(self, view: OracleView, texts: Sequence[str]) -> list[TeacherAnswer]:
        """Answer each query; KeyError for words whose truth the oracle was not given."""
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
        """Which objects to mask, errors included; None for an answer without a mask."""
        visible = [int(r) for r in np.flatnonzero(view.sizes >= self._errors.min_cells)]
        in_view = tuple(sorted(self._rows[t] for t in targets if self._rows[t] in visible))
        hallucinates, confuses = rng.random(2) < (self._errors.hallucinate, self._errors.confuse)
        pick = rng.random()
        if not in_view:
            if not hallucinates:
                return None
            meant = {self._labels[self._rows[target]] for target in targets}
            choice = [row for row in visible if self._labels[row] in meant] or visible
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
        """The other object most like ``row``: same label first, then nearest log size."""
        size = np.log(view.sizes[row])

        def unlike(other: int) -> tuple[bool, float, int]:
            gap = abs(float(np.log(view.sizes[other]) - size))
            return self._labels[other] != self._labels[row], gap, other

        return min(others, key=unlike)

    def _distance(
        self, view: OracleView, rows: tuple[int, ...], rng: np.random.Generator
    ) -> FloatArray:
        """(h, w) signed distance of the union of objects; of a random disc for no object."""
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
        """Belief in a mask: follows how well it covers what it means, lower for hallucinations.

        A confused teacher does not know that it is: its belief follows the object it masked.
        """
        meant = view.union(drawing.rows)
        belief = 0.3 + 0.6 * iou(mask, meant) if drawing.target_rows else 0.45
        return float(np.clip(belief + self._errors.iou_noise * rng.standard_normal(), 0.02, 0.98))

    def _embed(self, rows: tuple[int, ...], text: str, rng: np.random.Generator) -> FloatArray:
        """(64,) float32 unit [SEG] vector: what was masked, the query's words, and noise."""
        labels = [self._labels[row] for row in rows] or ["nothing"]
        noise = rng.standard_normal(CODE_DIM)
        vector = np.mean([code(label) for label in labels], axis=0)
        vector = vector + WORD_SHARE * words_code(text)
        vector = vector + self._errors.token_noise * noise / np.linalg.norm(noise)
        return np.asarray(vector / np.linalg.norm(vector), np.float32)
