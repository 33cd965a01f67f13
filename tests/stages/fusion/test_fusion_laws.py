"""Laws of the whole of fusion: what may change its labels, and what may not."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.artifacts.links import ViewLinks
from data.artifacts.soft_masks import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, NO_SEG, TeacherCache
from data.types import Array, Scene
from stages.configs import FuseConfig
from stages.fusion import fuse_masks
from tests.support.worlds.teacher_world import (
    FakeLinks,
    copied,
    flat_scene,
    random_case,
    write_cache,
)

WHOLE = [FuseConfig(views=views) for views in ("best", "all", "filtered")] + [
    FuseConfig(agreement=False),
    FuseConfig(token_gate=False, superpoints=False),
]
STEP = 1 / 255 + 1e-6
"""Labels are stored in steps, and a last bit may tip one over."""


class Cases:
    """Random cases and copies of their caches, each written once; only to read."""

    def __init__(self, folders: pytest.TempPathFactory) -> None:
        self._folders = folders

    @cache
    def case(self, seed: int) -> tuple[Scene, FakeLinks, TeacherCache]:
        return random_case(self._folders.mktemp("case") / "cache", seed)

    @cache
    def copy(
        self, seed: int, views: tuple[int, ...], queries: tuple[int, ...] | None = None
    ) -> TeacherCache:
        folder = self._folders.mktemp("copy") / "cache"
        return copied(folder, self.case(seed)[2], views, queries)


def _same(found: PseudoLabels, wanted: PseudoLabels, queries: Sequence[int] | None = None) -> None:
    """``found`` holds what ``wanted`` holds for these queries of it, by default all."""
    rows = list(range(len(wanted.soft)) if queries is None else queries)
    np.testing.assert_allclose(found.soft, wanted.soft[rows], atol=STEP)
    for name in ("confidence", "query_tokens"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name)[rows], atol=1e-5)
    for one, other in zip(found.soft, rows, strict=True):
        assert np.abs(one - wanted.soft[other]).mean() < 0.1 / 255, "steps tip over rarely"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory)


@pytest.mark.parametrize("cfg", WHOLE)
@pytest.mark.parametrize("seed", [3, 8])
def test_the_order_of_views_changes_nothing(cases: Cases, cfg: FuseConfig, seed: int) -> None:
    scene, links, cache = cases.case(seed)
    labels = fuse_masks.run(scene, links, cache, cfg)
    order = [int(view) for view in np.random.default_rng(seed).permutation(7)]
    views = [replace(links.views[view], view_id=f"view{k}") for k, view in enumerate(order)]
    mixed = fuse_masks.run(scene, FakeLinks(views, 30), cases.copy(seed, tuple(order)), cfg)
    _same(mixed, labels)
    np.testing.assert_allclose(mixed.view_weights, labels.view_weights[:, order], atol=1e-5)
    np.testing.assert_array_equal(mixed.view_tokens, labels.view_tokens[:, order])
    told = tuple(tuple(row[view] for view in order) for row in labels.drop_reasons)
    assert mixed.drop_reasons == told


@pytest.mark.parametrize("cfg", WHOLE)
@pytest.mark.parametrize("place", [0, 4, 7])
def test_a_view_that_sees_nothing_changes_nothing(
    cases: Cases, cfg: FuseConfig, place: int
) -> None:
    scene, links, cache = cases.case(4)
    labels = fuse_masks.run(scene, links, cache, cfg)
    order = [*range(place), -1, *range(place, 7)]
    empty = ViewLinks("", np.zeros(0, np.int32), np.zeros((0, 2), np.float32))
    seen = [*links.views[:place], empty, *links.views[place:]]
    views = [replace(view, view_id=f"view{k}") for k, view in enumerate(seen)]
    longer = flat_scene(30, 8, 40, 60)
    more = fuse_masks.run(longer, FakeLinks(views, 30), cases.copy(4, tuple(order)), cfg)
    _same(more, labels)
    assert not more.view_weights[:, place].any()
    kept = np.delete(more.view_weights, place, axis=1)
    np.testing.assert_allclose(kept, labels.view_weights, atol=1e-5)


@pytest.mark.parametrize("cfg", WHOLE)
def test_queries_do_not_see_each_other(cases: Cases, cfg: FuseConfig) -> None:
    scene, links, cache = cases.case(5)
    whole = fuse_masks.run(scene, links, cache, cfg)
    for queries in ((0,), (2, 0), (3, 1, 2)):
        some = cases.copy(5, tuple(range(7)), queries)
        labels = fuse_masks.run(scene, links, some, cfg, competing=np.zeros(len(queries), bool))
        _same(labels, whole, queries)


def _claims(folder: Path, cosine: float) -> tuple[FakeLinks, Scene, TeacherCache]:
    """Four superpoints on a row; the second query draws what the first draws faintly.

    Their tokens have this cosine.
    """
    links = FakeLinks(
        [
            ViewLinks(
                f"view{v}",
                np.arange(8, dtype=np.int32),
                np.stack([np.arange(8) * 10 + 5, np.full(8, 5)], axis=1).astype(np.float32),
            )
            for v in range(3)
        ],
        8,
    )
    first = [9, 9, 9, 9, 0, 0, -9, -9]
    second = [-9, -9, -9, -9, 9, 9, 9, 9]
    logits = np.tile(np.array([[first], [second]], np.float32), (3, 1, 1, 1))
    tokens = np.tile(np.array([[1, 0], [cosine, np.sqrt(1 - cosine**2)]], np.float32), (3, 1, 1))
    status, iou = np.full((3, 2), MASK, np.uint8), np.full((3, 2), 0.9, np.float32)
    return links, flat_scene(8, 3, 10, 80), write_cache(folder, status, logits, iou, tokens)


def test_rivals_come_from_the_bank_alone(tmp_path: Path) -> None:
    cfg = FuseConfig(neighbours=0)
    for number, cosine in enumerate((0.0, 0.9)):
        links, scene, cache = _claims(tmp_path / str(number), cosine)

        def fused(rivals: Array | None, chosen: FuseConfig = cfg) -> Array:
            return fuse_masks.run(scene, links, cache, chosen, rivals).soft

        plain = fused(None)
        for nobody in (np.array([False, False]), np.array([True, False])):
            np.testing.assert_array_equal(fused(nobody)[0], plain[0])
        banked = fused(np.array([False, True]))
        np.testing.assert_array_equal(banked[1], plain[1])
        wanted = plain[0].copy()
        wanted[4:] *= 0.5 if cosine < cfg.rival_cosine else 1
        np.testing.assert_allclose(banked[0], wanted, atol=STEP)
        off = cfg.model_copy(update={"rivals": 0})
        np.testing.assert_array_equal(fused(np.array([False, True]), off), plain)


def test_what_touches_is_drawn_along(tmp_path: Path) -> None:
    """The third superpoint lies between one surely inside and one surely outside."""
    links, scene, cache = _claims(tmp_path, 0)
    alone, along = (
        fuse_masks.run(scene, links, cache, FuseConfig(neighbours=share)).soft[0]
        for share in (0.0, 0.7)
    )
    assert along[6] > alone[6] + 0.05 and along[2] < alone[2] - 0.02
    assert np.all(along.reshape(4, 2)[:, 0] == along.reshape(4, 2)[:, 1])


EDGES = st.sampled_from([-100.0, -15.875, -1.0, 0.0, 1.0, 15.875, 100.0])


@settings(max_examples=40)
@given(st.data())
def test_wild_answers_give_sound_labels(data: st.DataObject) -> None:
    num_views, num_queries = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    shape = (num_views, num_queries)
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    status = rng.choice([MASK, NO_SEG, FAILED], shape).astype(np.uint8)
    logits = np.full((*shape, 2, 3), data.draw(EDGES), np.float32)
    logits[rng.random(logits.shape) < 0.5] = data.draw(EDGES)
    belief = [0.0, 1e-30, 1e-4, 0.5, 1.0, 7.0]
    iou = rng.choice(np.array(belief, np.float32), shape)
    presence = rng.choice(np.array([0, 1e-30, 0.5, 1], np.float32), shape)
    presence[status == FAILED] = 0
    tokens = rng.choice(np.array([-1e4, 0, 1e-3, 1], np.float32), (*shape, 3))
    views = []
    for view in range(num_views):
        ids = np.flatnonzero(rng.random(6) < 0.6).astype(np.int32)
        uv = rng.uniform(0, 30, (len(ids), 2)).astype(np.float32)
        views.append(ViewLinks(f"view{view}", ids, uv))
    cfg = FuseConfig.model_validate(
        {
            "views": data.draw(st.sampled_from(["best", "all", "filtered"])),
            "gate_floor": data.draw(st.sampled_from([0.0, 0.3, 1.0])),
            "prior": data.draw(st.sampled_from([0.0, 0.25])),
            "no_seg_weight": data.draw(st.sampled_from([0.0, 0.2])),
            "presence": data.draw(st.sampled_from([0.0, 0.15])),
        }
    )
    with tempfile.TemporaryDirectory() as name:
        withheld = (status == NO_SEG) & (rng.random(shape) < 0.5)
        cache = write_cache(
            Path(name), status, logits, iou, tokens, withheld=withheld, presence=presence
        )
        with np.errstate(all="raise", under="ignore"):
            scene, rivals = flat_scene(6, num_views, 30, 30), rng.random(num_queries) < 0.5
            labels = fuse_masks.run(scene, FakeLinks(views, 6), cache, cfg, rivals)
    for part in (labels.soft, labels.confidence, labels.view_weights):
        assert np.all((part >= 0) & (part <= 1))
    totals = labels.view_weights.sum(axis=1)
    assert np.all(np.isclose(totals, 1, atol=1e-5) | (totals == 0))
    lengths = np.linalg.norm(labels.query_tokens, axis=1)
    assert np.all(np.isclose(lengths, 1, atol=1e-4) | (lengths == 0))
    for query, row in enumerate(labels.drop_reasons):
        assert [not told for told in row] == (labels.view_weights[query] > 0).tolist()
        assert not (labels.view_weights[query] > 0)[~cache.drawn[:, query]].any()
    absent = labels.soft.max(axis=1) < cfg.presence
    assert not labels.answers()[absent].any() and not labels.answers()[labels.soft == 0].any()
