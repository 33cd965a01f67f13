"""Stage: ground truth in the shape of soft labels, to train the upper bound. Never label-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from data.artifacts.pseudo import PseudoLabels
from data.bank import BANK_TASK, bank_text
from data.types import Array, GroundTruth, Prompt, PromptTruth
from stages.targets import target_ids


def run(
    labels: PseudoLabels,
    truth: GroundTruth,
    prompts: Sequence[Prompt],
    truths: Mapping[str, PromptTruth],
) -> PseudoLabels:
    """The same queries and tokens with true masks, all of them sure.

    A category of the bank means all objects annotated with its name.

    Args:
        labels: of fusion; views and tokens are kept.
        truth: the scene's objects.
        prompts: of ``labels.prompt_ids``, with their words.
        truths: by prompt id; none for the bank.

    Raises DataError for a query without truth, or one that names an object the scene lacks.
    """
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    rows = [_mask(labels.scene_id, by_id[name], truth, truths) for name in labels.prompt_ids]
    soft = np.array(rows, np.float32).reshape(labels.soft.shape)
    return replace(
        labels,
        soft=soft,
        confidence=np.ones_like(soft),
        thresholds=np.full(len(soft), 0.5, np.float32),
    )


def _mask(
    scene_id: str, prompt: Prompt, truth: GroundTruth, truths: Mapping[str, PromptTruth]
) -> Array:
    if prompt.task != BANK_TASK:
        return truth.mask(target_ids(scene_id, prompt, truths, truth))
    named = [
        object_id
        for object_id, label in zip(truth.object_ids, truth.labels, strict=True)
        if bank_text(label) == prompt.text
    ]
    return truth.mask(named)
