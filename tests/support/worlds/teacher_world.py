"""Builders for tests of teachers, their cache and fusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.artifacts.links import Links, ViewLinks
from data.artifacts.teacher import (
    FAILED,
    MASK,
    NO_SEG,
    TeacherCache,
    TeacherWriter,
    ViewAnswers,
    read_teacher,
)
from data.types import Array, Camera, PointCloud, Scene, View
from models.oracle import OracleErrors, OracleTeacher, code
from models.teacher import MaskGrid, TeacherAnswer

EXACT = OracleErrors(
    seed=0,
    ragged=0,
    miss=0,
    confuse=0,
    hallucinate=0,
    token_noise=0,
    iou_noise=0,
    min_cells=1,
)


def finish(folder: Path) -> Path:
    """Mark a folder as a finished artifact."""
    (folder / "metadata.json").write_text("{}")
    return folder


def with_images(scene: Scene, folder: Path) -> Scene:
    """Return the scene with a flat grey image on disk for every view."""
    views = []
    for index, view in enumerate(scene.views):
        path = folder / f"{view.view_id}.png"
        shape = (view.camera.height, view.camera.width, 3)
        Image.fromarray(np.full(shape, 40 * index % 256, np.uint8)).save(path)
        views.append(replace(view, image_path=path))
    return replace(scene, views=tuple(views))


def disc_teacher(errors: OracleErrors, num_views: int = 200) -> tuple[OracleTeacher, list[str]]:
    """Return an oracle over three objects in each view: two chairs of different size and a bed."""
    y, x = np.ogrid[:40, :60]
    discs = [(10, 12, 6.0), (30, 20, 9.0), (18, 44, 10.0)]
    masks = np.stack([np.hypot(y - row, x - column) <= radius for row, column, radius in discs])
    teacher = OracleTeacher(
        "scene",
        (5, 6, 7),
        ("chair", "chair", "bed"),
        lambda view_id: masks,
        {"the small chair": (5,), "the bed": (7,), "the toilet": (), "a chair or bed": (6, 7)},
        MaskGrid(40, 60, (60.0, 40.0)),
        errors,
    )
    return teacher, [f"view{i}" for i in range(num_views)]


@dataclass
class CountingTeacher:
    """Wraps a teacher, counts its calls and calls ``before`` ahead of each encoding."""

    inner: Any
    before: Callable[[str], None] = lambda view_id: None
    encoded: list[str] | None = None
    asked: list[list[str]] | None = None
    name: str = "counting"

    @property
    def embedding_dim(self) -> int:
        return int(self.inner.embedding_dim)

    def mask_grid(self, height: int, width: int) -> MaskGrid:
        grid: MaskGrid = self.inner.mask_grid(height, width)
        return grid

    def encode_view(self, image: Array, view_id: str) -> Any:
        self.before(view_id)
        self.encoded = [*(self.encoded or []), view_id]
        return self.inner.encode_view(image, view_id)

    def answer(self, view: Any, texts: Sequence[str]) -> list[TeacherAnswer]:
        self.asked = [*(self.asked or []), list(texts)]
        answers: list[TeacherAnswer] = self.inner.answer(view, texts)
        return answers


class FakeLinks(Links):
    """Links held in memory."""

    def __init__(self, views: list[ViewLinks], num_points: int) -> None:
        self.views = views
        self.num_points = num_points
        self.view_ids = tuple(view.view_id for view in views)

    def view(self, index: int) -> ViewLinks:
        return self.views[index]


def flat_scene(num_points: int, num_views: int, height: int, width: int) -> Scene:
    """Make a row of points 4 cm apart, facing up; superpoints are pairs of neighbours."""
    camera = Camera("PINHOLE", np.diag([50.0, 50.0, 1.0]), height, width)
    views = tuple(
        View(f"view{i}", camera, np.eye(4), Path(f"view{i}.png")) for i in range(num_views)
    )
    points = np.zeros((num_points, 3), np.float32)
    points[:, 0] = 0.04 * np.arange(num_points)
    up = np.tile(np.array([0, 0, 1], np.float32), (num_points, 1))
    cloud = PointCloud(points, np.full((num_points, 3), 90, np.uint8), up)
    superpoint_ids = (np.arange(num_points) // 2).astype(np.int32)
    triangles = np.zeros((0, 3), np.int32)
    return Scene("flat", cloud, triangles, superpoint_ids, views, [np.zeros((1, 1))] * num_views)


def write_cache(
    folder: Path,
    status: Array,
    logits: Array,
    predicted_iou: Array,
    embeddings: Array,
    extent: tuple[float, float] | None = None,
    withheld: Array | None = None,
    more_ids: Sequence[str] = (),
    presence: Array | None = None,
) -> TeacherCache:
    """A finished cache: ``status`` (V, Q), ``logits`` (V, Q, h, w), ``embeddings`` (V, Q, D).

    ``withheld`` (V, Q) bool is for masks held back, ``presence`` (V, Q) how likely [SEG] was;
    ``more_ids`` are those of the last queries.
    """
    folder.mkdir(parents=True, exist_ok=True)
    num_views, num_queries, height, width = logits.shape
    prompt_ids = [*(f"q{i}" for i in range(num_queries - len(more_ids))), *more_ids]
    writer = TeacherWriter(folder, [f"view{i}" for i in range(num_views)], prompt_ids)
    writer.begin((height, width), extent or (float(width), float(height)), embeddings.shape[2])
    for view in range(num_views):
        texts = tuple("[SEG]" if s == MASK else "no" for s in status[view])
        row = (status[view], logits[view], predicted_iou[view], embeddings[view], texts)
        held = None if withheld is None else withheld[view]
        likely = None if presence is None else presence[view]
        writer.write_view(view, ViewAnswers(*row, presence=likely, withheld=held))
    return read_teacher(finish(folder))


def random_case(
    folder: Path, seed: int = 0, num_views: int = 7, num_queries: int = 4
) -> tuple[Scene, FakeLinks, TeacherCache]:
    """Random answers of every status, some masks held back, a shared token with noise.

    Points are seen at random; nothing is drawn for the last query.
    """
    rng = np.random.default_rng(seed)
    scene = flat_scene(30, num_views, 40, 60)
    views = []
    for view in scene.views:
        ids = np.flatnonzero(rng.random(30) < 0.5).astype(np.int32)
        uv = (rng.random((len(ids), 2)) * (60, 40)).astype(np.float32)
        views.append(ViewLinks(view.view_id, ids, uv))
    shape = (num_views, num_queries)
    status = rng.choice([MASK, MASK, MASK, NO_SEG, FAILED], shape).astype(np.uint8)
    status[:, -1] = rng.choice([NO_SEG, FAILED], num_views)
    tokens = code("topic") + 0.15 * rng.normal(size=(*shape, 64))
    withheld = (status == NO_SEG) & (rng.random(shape) < 0.7)
    withheld[:, -1] = False
    likely = rng.random(shape) * 0.5 + 0.5 * (status == MASK)
    cache = write_cache(
        folder,
        status,
        rng.normal(0, 3, (*shape, 8, 10)).astype(np.float32),
        rng.random(shape, np.float32),
        tokens.astype(np.float32),
        (10.0, 6.67),
        withheld,
        presence=np.where(status == FAILED, 0, likely).astype(np.float32),
    )
    return scene, FakeLinks(views, 30), cache


def copied(
    folder: Path,
    cache: TeacherCache,
    views: Sequence[int],
    queries: Sequence[int] | None = None,
) -> TeacherCache:
    """A cache of these views and queries of another, in this order; -1 is a view without masks."""
    queries = range(len(cache.prompt_ids)) if queries is None else queries
    logits = np.stack([cache.mask_logits(view) for view in views])[:, queries]
    blank = np.array(views)[:, None] < 0
    pick = np.ix_(views, queries)
    status = np.where(blank, NO_SEG, cache.status[pick]).astype(np.uint8)
    return write_cache(
        folder,
        status,
        logits,
        cache.predicted_iou[pick],
        cache.seg_embeddings[pick],
        (float(cache.mask_extent[0]), float(cache.mask_extent[1])),
        (status == NO_SEG) & cache.drawn[pick] & ~blank,
        presence=np.where(blank, 0, cache.presence[pick]).astype(np.float32),
    )
