"""Scoring masks of the student and of the fusion against ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Row, Scale, amount, compare, peak_megabytes, require, row
from benchmarks.reference import evaluation as reference
from data.artifacts.evaluation import SOURCES, Evaluation
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages.evaluation import evaluate
from stages.evaluation.evaluate import EvaluationScene

_NUM_OBJECTS = 40
_POOL = 16  # Different masks; queries share them to spare memory.
_FEWER = 10  # Times fewer queries, for how memory grows.
_FLAT = 0.5  # So many more queries may not take twice the memory.


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Time evaluation and measure its memory; intersections and unions must be equal.

    Means must agree within 1e-6. For the memory, masks are unpacked from bits on access, as masks
    of an artifact are.
    """
    scene, instance_ids = _scene(scale.eval_points, scale.eval_queries)

    def ours() -> Iterator[Evaluation]:
        yield evaluate.run([scene])

    def theirs() -> Iterator[dict[str, Any]]:
        counts: dict[str, list[tuple[int, int]]] = {source: [] for source in SOURCES}
        for source in SOURCES:
            for prompt_id, truth in scene.truths.items():
                mask = scene.masks[source][prompt_id]
                counts[source].append(reference.score(mask, instance_ids, truth.object_ids))
        yield {source: (part, reference.summary(part)) for source, part in counts.items()}

    work = f"{scale.eval_queries} queries x {amount(scale.eval_points)} points"
    name = f"evaluation, {work}, {len(SOURCES)} sources"
    rows = compare(name, ours, theirs, _check, 5, repeats)
    if not rows:
        return []
    fewer = max(scale.eval_queries // _FEWER, 1)
    small, _ = _scene(scale.eval_points, fewer)
    told = f"{name}: peak memory beside that of {fewer} queries"
    return [*rows, row(told, _peak(scene), _peak(small), "MB", _FLAT, 1)]


class _Unpacked(Mapping[str, Array]):
    """Masks by prompt id that are unpacked on access and not kept."""

    def __init__(self, masks: Mapping[str, Array]) -> None:
        packed = {id(mask): np.packbits(mask) for mask in masks.values()}
        self._bits = {prompt_id: packed[id(mask)] for prompt_id, mask in masks.items()}
        self._count = len(next(iter(masks.values())))

    def __getitem__(self, prompt_id: str) -> Array:
        bits = self._bits[prompt_id]
        return np.unpackbits(bits, count=self._count).view(bool)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)


def _peak(scene: EvaluationScene) -> float:
    masks = {source: _Unpacked(of_source) for source, of_source in scene.masks.items()}
    return peak_megabytes(lambda: [evaluate.run([replace(scene, masks=masks)])])


def _scene(num_points: int, num_queries: int) -> tuple[EvaluationScene, Array]:
    """Make a scene whose objects are runs of points, and the object of each point (N,), -1 none."""
    random = np.random.default_rng(5)
    borders = np.sort(random.choice(num_points, 2 * _NUM_OBJECTS, replace=False)).reshape(-1, 2)
    instance_ids = np.full(num_points, -1, np.int32)
    for object_id, (start, end) in enumerate(borders):
        instance_ids[start:end] = object_id
    lists = [np.flatnonzero(instance_ids == i).astype(np.int32) for i in range(_NUM_OBJECTS)]
    offsets = np.cumsum([0, *map(len, lists)])
    labels = tuple(f"object{i}" for i in range(_NUM_OBJECTS))
    truth = GroundTruth(
        tuple(range(_NUM_OBJECTS)), labels, np.concatenate(lists), offsets, num_points
    )
    pool = [np.isin(instance_ids, (i, i + 1)) for i in range(_POOL)]
    pool = [mask ^ (random.random(num_points) < 0.02) for mask in pool]
    prompts, truths = [], {}
    for query in range(num_queries):
        prompt = Prompt(f"room_{query:04d}", "room", "the object", "referring")
        wanted = tuple(int(i) for i in np.unique(query % _POOL + random.integers(0, 3, query % 4)))
        prompts.append(prompt)
        truths[prompt.prompt_id] = PromptTruth(prompt.prompt_id, wanted, "object")
    masks = {
        source: {p.prompt_id: pool[(i + shift % 2) % _POOL] for i, p in enumerate(prompts)}
        for shift, source in enumerate(SOURCES)
    }
    return EvaluationScene("room", prompts, truths, truth, masks), instance_ids


def _check(mine: Evaluation, theirs: dict[str, Any]) -> None:
    for source, (counts, means) in theirs.items():
        scores = [r.scores[source] for r in mine.rows]
        same = [(s.intersection, s.union) for s in scores] == counts
        require(same, f"{source}: other intersections or unions")
        require(any(i > 0 for i, _ in counts), f"{source}: masks that meet no truth")
        for name, value in means.items():
            found = mine.summary[source][name]
            require(abs(found - value) <= 1e-6, f"{source}: {name} {found} and {value}")
