"""The masks that the [SEG]s of a view's answers ask SAM for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.lisa.answering import Decoded
from models.lisa.network import LisaNetwork

CELLS_PER_EMBEDDING = 4
"""Mask cells per side of a cell of SAM's image embedding."""
_MOST_MASKS = 64
"""Masks decoded together at most: SAM repeats the image's embedding for each."""


@dataclass(frozen=True, eq=False)
class AskedMasks:
    """Of one answer with n [SEG]s, on the CPU, float32, in the answer's order.

    ``embeddings`` (n, C); ``logits`` (n, h, w) on SAM's grid; ``iou`` (n,) as SAM predicts it.
    """

    embeddings: Tensor
    logits: Tensor
    iou: Tensor


def grid_side(network: LisaNetwork) -> int:
    """Cells per side of SAM's masks."""
    return CELLS_PER_EMBEDDING * network.config.sam_grid


def ask_masks(
    network: LisaNetwork, sam_embedding: Tensor, decoded: Sequence[Decoded], best_of_three: bool
) -> list[AskedMasks]:
    """One entry per answer; all [SEG]s of the view are decoded together.

    ``sam_embedding`` (1, C, g, g) is the view's.
    """
    states = [state for answer in decoded for state in answer.seg_states]
    counts = [len(answer.seg_states) for answer in decoded]
    side = grid_side(network)
    embeddings = torch.zeros(0, network.config.embedding_dim)
    logits, iou = torch.zeros(0, side, side), torch.zeros(0)
    if states:
        weight = next(network.seg_head.parameters())
        embeddings = network.seg_head(torch.stack(states).to(weight.dtype))
        parts = [
            network.decode_masks(sam_embedding, part[None], best_of_three)
            for part in torch.split(embeddings, _MOST_MASKS)
        ]
        logits = torch.cat([part[0][0] for part in parts])
        iou = torch.cat([part[1][0] for part in parts])
    per_answer = (torch.split(t.float().cpu(), counts) for t in (embeddings, logits, iou))
    return [AskedMasks(*parts) for parts in zip(*per_answer, strict=True)]
