"""Stage: write ground truth as soft labels, to train the upper bound; never label-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.artifacts.soft_masks import PseudoLabels
from data.queries.hierarchical_search import EXTRA_TASKS
from data.queries.prompts import BANK_TASK, bank_text, target_ids
from data.types import Array, GroundTruth, Prompt, PromptTruth


def run(
    labels: PseudoLabels,
    truth: GroundTruth,
    prompts: Sequence[Prompt],
    truths: Mapping[str, PromptTruth],
) -> PseudoLabels:
    """Replace the labels by true masks with confidence 1; queries and tokens stay the same.

    A background category means all objects annotated with its name. A category of a search is
    labelled in the room that the search is about; in other rooms it has no truth and stays
    unlabelled (confidence 0).

    Args:
        labels: the labels of fusion; views and tokens are kept.
        truth: the scene's objects.
        prompts: the prompts of ``labels.prompt_ids``.
        truths: keyed by prompt id; none for background categories, nor for searches about other
            rooms.

    Raises DataError for a query without truth, or one that names an object the scene lacks.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    rows = [_mask(labels.scene_id, by_id[name], truth, truths) for name in labels.prompt_ids]
    soft = np.array(rows, np.float32).reshape(labels.soft.shape)
    has_truth = [by_id[p].task not in EXTRA_TASKS or p in truths for p in labels.prompt_ids]
    confidence = np.ones_like(soft) * np.array(has_truth, np.float32)[:, None]
    return replace(
        labels,
        soft=soft,
        confidence=confidence,
        thresholds=np.full(len(soft), 0.5, np.float32),
    )


def _mask(
    scene_id: str, prompt: Prompt, truth: GroundTruth, truths: Mapping[str, PromptTruth]
) -> Array:
    if prompt.task in EXTRA_TASKS and prompt.prompt_id not in truths:
        return np.zeros(truth.num_points, bool)
    if prompt.task != BANK_TASK:
        return truth.mask(target_ids(scene_id, prompt, truths, truth))
    named = [
        object_id
        for object_id, label in zip(truth.object_ids, truth.labels, strict=True)
        if bank_text(label) == prompt.text
    ]
    return truth.mask(named)
