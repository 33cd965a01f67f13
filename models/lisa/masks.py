"""The masks that the [SEG]s of a view's answers ask SAM for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.lisa.answering import Decoded
from models.lisa.batching import mask_parts
from models.lisa.network import LisaNetwork

CELLS_PER_EMBEDDING = 4
"""Mask cells per side of a cell of SAM's image embedding."""


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


def seg_embeddings(network: LisaNetwork, states: Sequence[Tensor]) -> Tensor:
    """(n, C) on the network's device: what n states (hidden,) that said [SEG] ask SAM with."""
    weight = next(network.seg_head.parameters())
    if not states:
        return torch.zeros(0, network.config.embedding_dim, device=weight.device)
    embeddings: Tensor = network.seg_head(torch.stack(list(states)).to(weight.dtype))
    return embeddings


def ask_masks(
    network: LisaNetwork, sam_embedding: Tensor, decoded: Sequence[Decoded], best_of_three: bool
) -> list[AskedMasks]:
    """One entry per answer; all [SEG]s of the view are decoded together.

    ``sam_embedding`` (1, C, g, g) is the view's.
    """
    return _ask(network, sam_embedding, [one.seg_states for one in decoded], best_of_three)


def ask_unsaid(
    network: LisaNetwork, sam_embedding: Tensor, decoded: Sequence[Decoded], best_of_three: bool
) -> list[AskedMasks]:
    """As ``ask_masks``; an answer without [SEG] has the one mask that it came nearest to."""
    states = [one.seg_states or ([] if one.nearest is None else [one.nearest]) for one in decoded]
    return _ask(network, sam_embedding, states, best_of_three)


def _ask(
    network: LisaNetwork,
    sam_embedding: Tensor,
    states_of: Sequence[Sequence[Tensor]],
    best_of_three: bool,
) -> list[AskedMasks]:
    states = [state for of_one in states_of for state in of_one]
    counts = [len(of_one) for of_one in states_of]
    side = grid_side(network)
    embeddings = seg_embeddings(network, states)
    logits, iou = torch.zeros(0, side, side), torch.zeros(0)
    if states:
        parts = [
            network.decode_masks(sam_embedding, part[None], best_of_three)
            for part in torch.tensor_split(embeddings, mask_parts(len(states), embeddings.device))
        ]
        logits = torch.cat([part[0][0] for part in parts])
        iou = torch.cat([part[1][0] for part in parts])
    per_answer = (torch.split(t.float().cpu(), counts) for t in (embeddings, logits, iou))
    return [AskedMasks(*parts) for parts in zip(*per_answer, strict=True)]
