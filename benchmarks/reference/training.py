"""A step of training as this project's first version made it, around today's network and losses.

Convolutions are spconv's own on the CPU: a rulebook is built in every forward pass, then each
offset of a kernel gathers all its rows, multiplies them and adds them to the output, one thread
doing all. Samples came from a thread then, too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from models.sparse.layers import SparseConv, load_spconv
from stages.student.objectives import Objective
from stages.student.sample_loader import Share


def use_spconv(objective: Objective) -> None:
    """From now on let spconv compute the sparse convolutions, and find the voxels they join."""
    setattr(objective.student.backbone, "rulebooks", lambda indices: {})
    for layer in objective.modules():
        if isinstance(layer, SparseConv):
            own: Any = layer.layer
            own.algo = load_spconv().ConvAlgo.Native
            setattr(layer, "forward", partial(own.__call__))


def optimizer(model: torch.nn.Module, lr: float, decay: float) -> torch.optim.Optimizer:
    """The optimiser AdamW whose weight decay acts on kernels and matrices only."""
    shaped: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        (shaped if parameter.ndim > 1 else plain).append(parameter)
    groups = [{"params": shaped, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def step(
    objective: Objective, optimiser: torch.optim.Optimizer, share: Share, largest: float
) -> dict[str, float]:
    """Losses before the step, which is taken with gradients no longer than ``largest``."""
    objective.train()
    parts = objective(share)
    optimiser.zero_grad(set_to_none=True)
    parts["loss"].backward()
    torch.nn.utils.clip_grad_norm_(objective.student.parameters(), largest)
    optimiser.step()
    return {name: part.item() for name, part in parts.items()}
