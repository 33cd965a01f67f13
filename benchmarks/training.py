"""The student's training step compared with the first version's, with the loading of samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from benchmarks.harness import Row, Scale, amount, require, row, seconds, verify
from benchmarks.reference import training as reference
from benchmarks.rooms import room_scene
from data.artifacts.soft_masks import PseudoLabels
from data.parallel import kept_memory
from data.types import Array, Prompt
from models.sparse import cpu
from models.student import Student
from stages.configs import StudentConfig
from stages.student.distributed import repeatable
from stages.student.objectives import Objective
from stages.student.sample_loader import SampleLoader, Share
from stages.student.train_student import Trainer
from stages.student.training_samples import TrainingScene

_TOLERANCE = 1e-4  # Of the loss, for each of its parts; the second step sees the first's weights.
STEPS, _SHARE_REPEATS = 2, 3
_STEPS_IN_ALL = 1000  # Learning begins as in a long training, with a small rate.
_EDGE, _POINTS = 0.04, 300_000  # 100 k voxels.
_TOKEN_DIM, _VIEWS = 128, 8
_WARM_UP = 100  # Steps of these to the peak of the rate.
_MAX_GRADIENT = 10.0
_INSIDE = (cpu, "gathered_sum"), (cpu, "gathered_gradients")
"""What counts as sparse convolution: gathers, products, sums, there and back.

Not rulebooks, which another thread finds ahead.
"""


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Measure the time of steps, and the share of sparse convolutions."""
    del folder
    edge = min(_EDGE * (_POINTS / scale.train_points) ** 0.5, 0.5)
    cfg = StudentConfig(
        preset="minkunet14", voxel_size=edge, batch_scenes=1, queries_per_scene=scale.queries
    )
    room = _room(scale)
    loader = SampleLoader([replace(room) for _ in range(STEPS)], cfg)
    trainer = Trainer(cfg, loader, _fabric(), None)
    objective = Objective(Student(**trainer.description["network"], seed=cfg.seed), cfg.loss)
    reference.use_spconv(objective)
    optimizer = reference.optimizer(objective, cfg.lr / _WARM_UP, cfg.weight_decay)

    # All steps before the first is told: settings of torch must not end before they began.
    def ours() -> list[dict[str, float]]:
        with repeatable(), kept_memory():
            return [_losses(trainer, share) for share in loader.epoch(0, trainer.prepare)]

    def theirs() -> list[dict[str, float]]:
        with repeatable():
            shares = loader.epoch(0)
            return [reference.step(objective, optimizer, s, _MAX_GRADIENT) for s in shares]

    voxels = [len(share.samples[0].features) for share in loader.epoch(0)]
    mean = round(sum(voxels) / len(voxels) / 1000) * 1000
    name = f"training, {STEPS} steps at {amount(mean)} voxels"
    verify(name, ours, theirs, _check)
    if repeats == 0:
        return []
    rows = [row(f"{name}: time", *seconds(ours, theirs, repeats), "s", 1.5, repeats)]
    label = f"{name}: share inside sparse convolutions"
    few = min(repeats, _SHARE_REPEATS)
    return [*rows, row(label, *_shares(ours, few), "s", 0.7, few)]


def _losses(trainer: Trainer, share: Share) -> dict[str, float]:
    """Return a step's losses."""
    told = trainer.step(share, 0, _STEPS_IN_ALL, 0)
    return {name: value for name, value in told.items() if name != "lr"}


def _fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, plugins=[LightningEnvironment()])


def _room(scale: Scale) -> TrainingScene:
    """The furnished room, its cells of half a metre as superpoints, with random labels."""
    scene = room_scene(scale.train_points, _VIEWS, 48, 64)
    cells = np.floor(scene.cloud.points / 0.5).astype(np.int64)
    ids = np.unique(cells, axis=0, return_inverse=True)[1].astype(np.int32).ravel()
    random = np.random.default_rng(5)
    scene = replace(scene, superpoint_ids=ids)
    prompts = [
        Prompt(f"query{n}", scene.scene_id, f"thing {n}", "find") for n in range(scale.queries)
    ]
    own = random.standard_normal((scale.queries, _VIEWS, _TOKEN_DIM))
    views = _unit(own + 2 * own[:, :1])
    weights = random.uniform(0.2, 1.0, views.shape[:2]).astype(np.float32)
    labels = PseudoLabels(
        scene.scene_id,
        tuple(prompt.prompt_id for prompt in prompts),
        tuple(view.view_id for view in scene.views),
        (random.random((scale.queries, ids.max() + 1)) < 0.1).astype(np.float32)[:, ids],
        np.full((scale.queries, len(ids)), 0.8, np.float32),
        weights,
        tuple(tuple("" for _ in scene.views) for _ in prompts),
        _unit((weights[..., None] * views).sum(1)),
        np.full(scale.queries, 0.5, np.float32),
        views,
        np.full_like(weights, 0.9),
        np.tile(np.array([0.5, 4, 4], np.float32), (scale.queries, 1)),
    )
    return TrainingScene(scene, prompts, labels)


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / lengths, np.float32)


def _shares(steps: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Return median seconds of the steps without waiting for samples, and of their parts."""
    measured = []
    for _ in range(repeats):
        inside: list[float] = []
        whole: list[float] = []
        with ExitStack() as stack:
            for module, function in _INSIDE:
                right = getattr(module, function)
                stack.enter_context(patch.object(module, function, _timed(right, inside)))
            stack.enter_context(patch.object(Trainer, "step", _timed(Trainer.step, whole)))
            steps()
        measured.append((sum(whole), sum(inside)))
    middle = np.median(measured, axis=0)
    return float(middle[0]), float(middle[1])


def _timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            times.append(time.perf_counter() - start)

    return timed


def _check(mine: dict[str, float], theirs: dict[str, float]) -> None:
    require(mine.keys() == theirs.keys(), f"losses {sorted(mine)}, {sorted(theirs)}")
    for name, value in theirs.items():
        off = abs(mine[name] - value) / theirs["loss"]
        require(off <= _TOLERANCE, f"{name} differs by {off:.2g} of the loss")
