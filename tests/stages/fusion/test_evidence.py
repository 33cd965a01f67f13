"""Support of answers by views: counted by hand and by plain loops, and what is withheld."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.artifacts.links import ViewLinks
from data.artifacts.teacher import MASK, NO_SEG
from data.types import Array
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.evidence import Support, count_support, supported
from stages.fusion.sample_masks import LiftedView, LiftedViews, Sampling
from stages.fusion.thresholds import NONE
from tests.support.worlds.teacher_world import FakeLinks, flat_scene, random_case, write_cache


def lifted(index: int, inside: dict[int, bool], drawn: bool = True) -> LiftedView:
    """A view of points, of which it is told whether its only mask covers them."""
    ids = np.array(sorted(inside), np.int32)
    covered = np.array([[[inside[i]] for i in ids.tolist()]], bool)
    uv = np.stack([np.arange(len(ids)) + 0.5, np.full(len(ids), 0.5)], axis=1).astype(np.float32)
    size = np.array([len(ids), 1], np.float32)
    grid = np.where(covered, 8, -8).astype(np.float32)
    trust = np.full(len(ids), 255, np.uint8)
    sampling = Sampling(uv, size, size.astype(np.float64))
    return LiftedView(index, ids, sampling, grid, np.array([drawn]), trust)


def test_by_hand() -> None:
    """An answer of points 0 to 9: a tenth must be seen, a quarter of what is seen be covered."""
    answers = np.zeros((30, 1), bool)
    answers[:10] = True
    views = [
        lifted(0, {0: True, 20: True}),  # Sees a tenth, and covers all of it.
        lifted(1, {20: True, 21: True}),  # Sees nothing of it.
        lifted(2, {0: True, 1: False, 2: False, 3: False}),  # Covers a quarter.
        lifted(3, {0: True, 1: False, 2: False, 3: False, 4: False}),  # Covers a fifth.
        lifted(4, {0: True, 1: True}, drawn=False),
        lifted(5, {0: True, 1: True}),  # Has no weight.
    ]
    weights = np.ones((6, 1))
    weights[5] = 0
    counts = count_support(views, answers, weights)
    assert counts.seeing.tolist() == [5] and counts.supporting.tolist() == [2]
    nothing = count_support(views, np.zeros((30, 1), bool), weights)
    assert nothing.seeing.tolist() == nothing.supporting.tolist() == [0]


@pytest.mark.parametrize(
    ("seeing", "supporting", "share", "enough"),
    [
        (1, 1, 0.2, True),
        (3, 1, 0.2, True),
        (4, 1, 0.2, False),  # One of four.
        (4, 1, 0.0, False),
        (4, 2, 0.2, True),
        (20, 3, 0.2, False),
        (20, 4, 0.2, True),
        (0, 0, 0.2, True),  # No answer at all.
    ],
)
def test_what_is_enough(seeing: int, supporting: int, share: float, enough: bool) -> None:
    counts = Support(np.array([seeing]), np.array([supporting]))
    assert supported(counts, share).tolist() == [enough]


def test_counts_equal_plain_loops(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    rng = np.random.default_rng(0)
    answers = rng.random((30, 4)) < 0.4
    weights = rng.random((7, 4)) * (rng.random((7, 4)) < 0.7)
    seeing, supporting = np.zeros(4, int), np.zeros(4, int)
    for view in LiftedViews(scene, links, cache, FuseConfig()):
        x, y = (view.sampling.uv / view.sampling.size * view.sampling.extent - 0.5).T
        for query in range(4):
            seen = covered = 0
            for link, point in enumerate(view.point_ids):
                if answers[point, query]:
                    seen += 1
                    covered += bilinear(view.grid[..., query], x[link], y[link]) > 0
            sees = seen >= 0.1 * answers[:, query].sum()
            seeing[query] += sees
            has = view.drawn[query] and weights[view.view_index, query] > 0
            supporting[query] += sees and has and covered >= 0.25 * seen
    counts = count_support(LiftedViews(scene, links, cache, FuseConfig()), answers, weights)
    assert counts.seeing.tolist() == seeing.tolist()
    assert counts.supporting.tolist() == supporting.tolist() and supporting.any()


def bilinear(grid: Array, x: float, y: float) -> float:
    height, width = grid.shape
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = grid[top, left] * (1 - (x - left)) + grid[top, right] * (x - left)
    lower = grid[bottom, left] * (1 - (x - left)) + grid[bottom, right] * (x - left)
    return float(upper * (1 - (y - top)) + lower * (y - top))


@pytest.mark.parametrize(("masks", "withheld"), [(1, True), (2, False)])
def test_one_small_mask_in_one_of_many_views_is_no_answer(
    tmp_path: Path, masks: int, withheld: bool
) -> None:
    """Eight views see all points; ``masks`` of them draw one cell, the others see nothing there."""
    scene = flat_scene(8, 8, 10, 80)
    uv = np.stack([10 * np.arange(8) + 5, np.full(8, 5)], axis=1).astype(np.float32)
    ids = np.arange(8, dtype=np.int32)
    links = FakeLinks([ViewLinks(view.view_id, ids, uv) for view in scene.views], 8)
    status = np.full((8, 1), NO_SEG, np.uint8)
    status[:masks] = MASK
    logits = np.full((8, 1, 1, 8), -9.0, np.float32)
    logits[:masks, 0, 0, :2] = 9
    shape = (8, 1)
    cache = write_cache(tmp_path, status, logits, np.ones(shape, np.float32), np.ones((*shape, 4)))
    cfg = FuseConfig(no_seg_weight=0.2, presence=0.1)
    shown = fuse_masks.run(scene, links, cache, cfg)
    assert shown.thresholds[0] < 1, "the first rule alone gives an answer"
    asked = fuse_masks.run(scene, links, cache, cfg.model_copy(update={"support": 0.2}))
    assert (asked.thresholds[0] == NONE) == withheld
    assert asked.soft.tobytes() == shown.soft.tobytes()
