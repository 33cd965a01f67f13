"""Growth of cost with points, views, queries and scenes, over a decade each, as an exponent.

Every stage is timed at three sizes, the last ten times the first. The exponent is the slope of log
time over log size: 1 for proportional cost, less where constant cost matters.
"""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import chain, networks
from benchmarks.chain import Size
from benchmarks.harness import Row, Scale, median_seconds, peak_megabytes, require, row
from benchmarks.schedule import scheduled
from data.artifacts.soft_masks import read_pseudo
from data.types import Prompt
from stages.evaluation import evaluate

_LIMIT = 1.1
_SHARE = 10.0
"""Of a scene's points and masks at most a tenth may be left of it: its rows of figures."""
_STEPS = (0.1, 0.316, 1.0)
_FEW = 4
_SMALL = Size(3000, 2, _FEW, 96, 144, (18, 27))


def run(scale: Scale, folder: Path, repeats: int) -> list[Row]:
    """Measure exponents by quantity and stage, and memory as scenes are added.

    Without repeats nothing is timed, and only the largest size is run.
    """
    rows: list[Row] = []
    points, views, queries = scale.growth_points, scale.growth_views, scale.growth_queries
    few = points // 10
    steps = _STEPS if repeats else _STEPS[-1:]
    sizes = {
        "points": [_size(scale, count, _FEW, _FEW) for count in _decade(points, steps)],
        "views": [_size(scale, few, count, _FEW) for count in _decade(views, steps)],
        "queries": [_size(scale, few, _FEW, count) for count in _decade(queries, steps)],
    }
    for axis, of_axis in sizes.items():
        grown = [int(getattr(size, axis)) for size in of_axis]
        for stage, seconds in _stages(of_axis, folder / axis, repeats).items():
            rows += _exponent(axis, stage, grown, seconds, repeats)
    grown = _decade(points // 4, steps)
    rows += _exponent("points", "student", grown, networks.student_seconds(grown, repeats), repeats)
    for axis, grown in (("views", _decade(views, steps)), ("queries", _decade(queries, steps))):
        asked = [(n, _FEW) if axis == "views" else (1, n) for n in grown]
        seconds = networks.teacher_seconds(asked, repeats)
        rows += _exponent(axis, "teacher", grown, seconds, repeats)
    return rows + _scenes(scale, folder, repeats, steps)


def _decade(most: int, steps: Sequence[float]) -> list[int]:
    return [max(1, round(most * step)) for step in steps]


def _size(scale: Scale, points: int, views: int, queries: int) -> Size:
    return Size(points, views, queries, scale.height // 2, scale.width // 2, scale.mask_size)


def _stages(sizes: list[Size], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return the median times by stage at each size, after a warm-up run."""
    found: dict[str, list[float]] = {}
    for size in sizes:
        inputs = chain.make_inputs(size)
        costs = []
        for _ in range(repeats + 1):
            costs.append(chain.run(inputs, folder))
            shutil.rmtree(folder)
        for stage in costs[0].seconds:
            times = [cost.seconds[stage] for cost in costs[1:] or costs]
            found.setdefault(stage, []).append(statistics.median(times))
    return found


def _exponent(
    axis: str, stage: str, sizes: list[int], seconds: list[float], repeats: int
) -> list[Row]:
    """Make one row; none when no time was measured."""
    if not repeats:
        return []
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    name = f"growth of {stage} with {axis}, {sizes[0]} to {sizes[-1]}: limit of exponent"
    return [row(name, max(slope, 0.01), _LIMIT, "", 1, repeats)]


def _scenes(scale: Scale, folder: Path, repeats: int, steps: Sequence[float]) -> list[Row]:
    """Schedule and evaluate many scenes: time, and memory of the most and the fewest."""
    inputs = chain.make_inputs(_SMALL)
    chain.run(inputs, folder / "one")
    labels = read_pseudo(next((folder / "one" / "fuse").glob("[!.]*")))
    prompts = [Prompt(name, "room", "the thing", "reasoning") for name in labels.prompt_ids]
    scene = chain.evaluation_scene(inputs.scan, prompts, labels)

    def score(count: int) -> list[int]:
        found = evaluate.run(chain.renamed(scene, number) for number in range(count))
        require(len(found.rows) == count * len(prompts), "growth: queries without a score")
        return [len(found.rows)]

    counts = _decade(scale.growth_scenes, steps)
    seconds = [median_seconds(partial(score, count), repeats) for count in counts]
    rows = _exponent("scenes", "evaluate", counts, seconds, repeats)
    if not repeats:
        scheduled(folder, counts[-1])
        return []
    few = min(repeats, 3)  # Each is a process of its own, which takes seconds.
    times = [statistics.median(scheduled(folder, count)[0] for _ in range(few)) for count in counts]
    rows += _exponent("scenes", "schedule", counts, times, few)
    least, most = (peak_megabytes(partial(score, n)) for n in (counts[0], counts[-1]))
    added = max(most - least, 1e-6) / (counts[-1] - counts[0])
    masks = sum(mask.nbytes for of_source in scene.masks.values() for mask in of_source.values())
    held = (inputs.scan.cloud.points.nbytes + masks) / 1e6
    label = (
        f"growth of evaluate with scenes, {counts[0]} to {counts[-1]}: memory that one more adds"
    )
    return [*rows, row(f"{label} beside its points and masks", added, held, "MB", _SHARE, 1)]
