"""Votes of views on points: against plain loops, for any number of threads, and in PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from data.artifacts.links import ViewLinks
from data.parallel import THREAD_VARIABLES
from data.types import Array, silent
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from stages.fusion.sample_masks import LiftedView, LiftedViews, Sampling, squash
from stages.fusion.votes import Votes, agreement, sum_votes
from stages.fusion.votes_torch import OverlapsTorch, sum_votes_torch
from tests.support.worlds.teacher_world import FakeLinks, random_case

SIZE = np.array([60, 40], np.float32)


def random_views(
    seed: int, num_views: int, num_queries: int, num_points: int, grid: tuple[int, int] = (5, 7)
) -> list[LiftedView]:
    """Views of random points at random pixels, an image's edges among them; a third is not drawn.

    The image covers a little less than the grid.
    """
    rng = np.random.default_rng(seed)
    views = []
    for index in range(num_views):
        ids = np.flatnonzero(rng.random(num_points) < 0.6).astype(np.int32)
        uv = (rng.random((len(ids), 2)) * SIZE).astype(np.float32)
        uv[::5] = np.nextafter(SIZE, np.float32(0))
        uv[1::5] = 0
        sampling = Sampling(uv, SIZE, np.array([grid[1], 0.9 * grid[0]]))
        logits = rng.normal(0, 6, (*grid, num_queries)).astype(np.float32)
        drawn = rng.random(num_queries) < 0.67
        trust = rng.choice([0, 1, 100, 255], len(ids)).astype(np.uint8)
        views.append(LiftedView(index, ids, sampling, logits, drawn, trust))
    return views


def plain_sums(views: list[LiftedView], num_points: int, weights: Array, doubt: Array) -> Array:
    """(3, N, Q) float64, one view and query at a time."""
    sums = np.zeros((3, num_points, weights.shape[1]))
    for view in views:
        x, y = (view.sampling.uv / SIZE * view.sampling.extent - 0.5).T
        trust = view.trust / 255
        for query in range(weights.shape[1]):
            grid = view.grid[..., query].astype(np.float64)
            logits = map_coordinates(grid, [y, x], order=1, mode="nearest")
            probs = view.drawn[query] / (1 + np.exp(-logits))
            sums[0, view.point_ids, query] += trust * weights[view.view_index, query] * probs
        sums[1, view.point_ids] += trust[:, None] * weights[view.view_index]
        sums[2, view.point_ids] += trust[:, None] * doubt[view.view_index]
    return sums


def votes_of(views: list[LiftedView], num_points: int, weights: Array, doubt: Array) -> Votes:
    return sum_votes(views, num_points, weights, doubt, silent)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0, 1, 3, 64, 65, 130]),
    st.integers(0, 21),
    st.integers(1, 90),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_votes_equal_plain_loops(
    seed: int, num_views: int, num_queries: int, num_points: int, grid: tuple[int, int]
) -> None:
    views = random_views(seed, num_views, num_queries, num_points, grid)
    rng = np.random.default_rng(seed)
    weights, doubt = rng.random((2, num_views, num_queries))
    weights[rng.random(weights.shape) < 0.3] = 0
    votes = votes_of(views, num_points, weights, doubt)
    expected = plain_sums(views, num_points, weights, doubt)
    for mine, theirs in zip(votes, expected, strict=True):
        assert mine.dtype == np.float32 and mine.shape == (num_points, num_queries)
        np.testing.assert_allclose(mine, theirs, atol=2e-5 * max(num_views, 1) ** 0.5)


def test_the_number_of_threads_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    num_points = 60_000
    views = random_views(0, 3, 5, num_points)
    rng = np.random.default_rng(1)
    weights, doubt = rng.random((2, 3, 5))
    found = []
    for threads in (1, 2, 3, 7):
        for variable in THREAD_VARIABLES:
            monkeypatch.setenv(variable, str(threads))
        votes = votes_of(views, num_points, weights, doubt)
        support = agreement(views, weights, votes.masks, votes.mask_weights)
        found.append([*votes, support])
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert mine.tobytes() == theirs.tobytes()


def test_probabilities_are_exact_to_a_millionth_and_never_beyond_0_and_1() -> None:
    logits = np.concatenate([np.linspace(-20, 20, 400_001), [-1e30, 1e30, -np.inf, np.inf, 0, -0]])
    values = logits.astype(np.float32)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-values.astype(np.float64)))
    squash(values)
    assert np.abs(values - exact).max() < 1e-6
    assert values.min() == 0 and values.max() == 1
    assert values[400_005] == values[400_006] == 0.5
    assert np.all(np.diff(values[:400_001]) > -5e-7)


def test_torch_gives_the_same_sums_and_overlaps() -> None:
    views = random_views(3, 9, 6, 400)
    rng = np.random.default_rng(3)
    weights, doubt = rng.random((2, 9, 6))
    votes = votes_of(views, 400, weights, doubt)
    told: list[tuple[int, int]] = []
    found = sum_votes_torch(views, 400, weights, doubt, lambda *n: told.append(n), "cpu")
    assert told == [(done, 9) for done in range(1, 10)]
    for mine, theirs in zip(votes, found, strict=True):
        assert theirs.dtype == np.float32
        np.testing.assert_allclose(theirs, mine, atol=2e-5)
    overlaps = OverlapsTorch(votes.masks, votes.mask_weights, 1e-6, "cpu")
    own = weights.astype(np.float32)
    support = agreement(views, weights, votes.masks, votes.mask_weights)
    for view in views:
        inside, either = overlaps.of(view, own[view.view_index])
        np.testing.assert_allclose(
            np.maximum(inside / either, 1e-3), support[view.view_index], atol=2e-5
        )


def test_torch_takes_views_that_see_nothing() -> None:
    views = random_views(0, 2, 3, 0)
    found = sum_votes_torch(views, 4, np.ones((2, 3)), np.ones((2, 3)), silent, "cpu")
    assert [part.any() for part in found] == [False] * 3
    nothing = np.zeros((4, 3), np.float32)
    own = np.ones(3, np.float32)
    assert not OverlapsTorch(nothing, nothing, 1e-6, "cpu").of(views[0], own).any()


def test_a_device_that_is_no_cpu_is_torchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor, under a name of PyTorch's own, goes the way that a GPU goes."""
    scene, links, cache = random_case(tmp_path)
    expected = fuse_masks.run(scene, links, cache, FuseConfig())
    monkeypatch.setattr("stages.fusion.votes.add_votes", None)  # The compiled loops are not asked.
    found = fuse_masks.run(scene, links, cache, FuseConfig(), device="cpu:0")
    np.testing.assert_allclose(found.soft, expected.soft, atol=1.01 / 255)
    np.testing.assert_allclose(found.view_weights, expected.view_weights, atol=1e-5)


@pytest.mark.parametrize("ids", [[3, 2], [1, 1], [-1, 4], [5, 30]])
def test_links_out_of_order_or_range_are_refused(tmp_path: Path, ids: list[int]) -> None:
    scene, links, cache = random_case(tmp_path)
    wrong = ViewLinks("view2", np.array(ids, np.int32), np.zeros((2, 2), np.float32))
    spoiled = FakeLinks([*links.views[:2], wrong, *links.views[3:]], 30)
    with pytest.raises(ValueError, match="view2: links are not ascending points of 30"):
        list(LiftedViews(scene, spoiled, cache, FuseConfig()))


def test_queries_without_a_mask_have_no_probability(tmp_path: Path) -> None:
    scene, links, cache = random_case(tmp_path)
    for view in LiftedViews(scene, links, cache, FuseConfig()):
        weights = np.ones(cache.drawn.shape)
        probs = sum_votes([view], len(scene.cloud), weights, 0 * weights, lambda *_: None).masks
        assert not probs[:, ~cache.drawn[view.view_index]].any()
        assert (probs[view.point_ids][:, cache.drawn[view.view_index]] > 0).all()
