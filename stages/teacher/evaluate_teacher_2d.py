"""Stage: compare every mask of a 2D teacher with ground truth rendered into the same view.

This is evaluation and reads labels. The targets of all queries are rendered once per view at a
fixed stride; the teacher's masks are resampled to that resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.artifacts.teacher import MASK, TeacherCache
from data.artifacts.teacher_2d import Teacher2D
from data.images import cells_to_pixels
from data.queries.hierarchical_search import is_extra
from data.queries.prompts import is_of_bank, target_ids
from data.types import Array, GroundTruth, Progress, Prompt, PromptTruth, Scene, silent
from stages.configs import JudgeConfig
from stages.teacher.oracle import InstanceRenderer


def run(
    scene: Scene,
    ground_truth: GroundTruth,
    prompts: Sequence[Prompt],
    truths: Mapping[str, PromptTruth],
    cache: TeacherCache,
    cfg: JudgeConfig,
    progress: Progress = silent,
) -> Teacher2D:
    """Count intersection and union of every answer in ``cache``; ``truths`` is keyed by prompt id.

    Memory holds the masks of one view at a time. Background categories and the categories of
    searches, which the cache holds after the queries, are skipped, and withheld masks count as
    no mask. Raises DataError for a query without truth or with a truth that names an object the
    scene does not have, ValueError for a cache of other views or queries.
    """
    _check(scene, prompts, cache)
    rows = [_rows(scene, prompt, truths, ground_truth) for prompt in prompts]
    renderer = InstanceRenderer(scene, ground_truth, cfg.stride)
    shape = (len(scene.views), len(prompts))
    covered, intersection, union = (np.zeros(shape, np.int32) for _ in range(3))
    for index, view in enumerate(scene.views if prompts else ()):
        progress(index, len(scene.views))
        objects, logits = renderer.masks(view.view_id), cache.mask_logits(index)
        for query, target_rows in enumerate(rows):
            truth = objects[target_rows].any(axis=0)
            drawn = np.zeros_like(truth)
            if cache.status[index, query] == MASK:
                drawn = _drawn(logits[query], cache.mask_extent, truth.shape)
            covered[index, query] = np.count_nonzero(truth)
            intersection[index, query] = np.count_nonzero(drawn & truth)
            union[index, query] = np.count_nonzero(drawn | truth)
    progress(len(scene.views), len(scene.views))
    status, confidence = cache.status[:, : len(prompts)], cache.predicted_iou[:, : len(prompts)]
    return Teacher2D(
        scene.scene_id,
        cache.view_ids,
        cache.prompt_ids[: len(prompts)],
        renderer.grid.height * renderer.grid.width,
        status.astype(np.uint8),
        covered,
        intersection,
        union,
        np.where(status == MASK, confidence, 0).astype(np.float32),
    )


def _check(scene: Scene, prompts: Sequence[Prompt], cache: TeacherCache) -> None:
    if cache.view_ids != tuple(view.view_id for view in scene.views):
        raise ValueError(f"scene {scene.scene_id}: the teacher cache is of other views")
    query_ids, rest = cache.prompt_ids[: len(prompts)], cache.prompt_ids[len(prompts) :]
    extra = (is_of_bank, is_extra)
    is_known = all(any(is_of(prompt_id, scene.scene_id) for is_of in extra) for prompt_id in rest)
    if query_ids != tuple(prompt.prompt_id for prompt in prompts) or not is_known:
        raise ValueError(f"scene {scene.scene_id}: the teacher cache is of other queries")


def _rows(
    scene: Scene, prompt: Prompt, truths: Mapping[str, PromptTruth], ground_truth: GroundTruth
) -> list[int]:
    """Return the rows of the query's objects among the scene's objects."""
    object_ids = target_ids(scene.scene_id, prompt, truths, ground_truth)
    return [ground_truth.object_ids.index(object_id) for object_id in object_ids]


def _drawn(logits: Array, extent: Array, size: tuple[int, ...]) -> Array:
    """Return the (H, W) bool mask of ``size`` from the (h, w) logits of one mask."""
    covered = (float(extent[0]), float(extent[1]))
    return np.asarray(cells_to_pixels(logits[None], covered, (size[0], size[1]))[0] > 0)
