"""Which parts of LISA-nano are trained at what rate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from models.lisa.trainee import NanoTrainee
from stages.nano.configs import NanoTrainConfig


def new_optimizers(trainee: NanoTrainee, cfg: NanoTrainConfig) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the layers' matrices, AdamW for all the rest.

    Muon's rate is relative to updates of AdamW's usual size.
    """
    parameters = [p for p in trainee.parameters() if p.requires_grad]
    inner = {id(p) for p in inner_matrices(trainee)}
    matrices = [p for p in parameters if id(p) in inner]
    others = [p for p in parameters if id(p) not in inner]
    decayed = [p for p in others if p.ndim > 1]
    plain = [p for p in others if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": cfg.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    muon = torch.optim.Muon(
        matrices,
        lr=cfg.matrix_lr,
        weight_decay=cfg.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [muon, torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98))]


def inner_matrices(trainee: NanoTrainee) -> list[Tensor]:
    """Weights of the linear layers between a network's first and last ones."""
    network = trainee.network
    parts = (
        network.vision_tower.encoder,
        network.projector,
        network.language_model.model.layers,
        network.seg_head,
        network.image_encoder.layers,
        network.mask_decoder,
    )
    modules = (module for part in parts for module in part.modules())
    return [m.weight for m in modules if isinstance(m, torch.nn.Linear)]


def vision_of(trainee: NanoTrainee) -> list[nn.Module]:
    """Both towers, the mask decoder and what reads the towers in training only."""
    network = trainee.network
    readers = [trainee.dense_sam, trainee.dense_clip, trainee.paint_sam, trainee.paint_clip]
    return [network.vision_tower, network.image_encoder, network.mask_decoder, *readers]
