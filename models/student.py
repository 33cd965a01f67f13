"""The student: point features from a sparse U-Net, asked for masks with query tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.sparse_unet import PRESETS, SparseUNet, initialise


class VoxelFeatures(NamedTuple):
    """``mask`` (M, D) answers queries; ``token`` (M, T) lives in the space of the tokens."""

    mask: Tensor
    token: Tensor


class Student(nn.Module):
    """Backbone and two linear heads; masks are dot products with mapped tokens.

    The mask logit of voxel i and query q is ``scale * <f_i, W t_q> + bias``: ``t_q`` has unit
    length, ``W`` (D, T) starts orthogonal, ``scale`` at 1, ``bias`` below 0.
    """

    def __init__(self, preset: str, c_in: int, token_dim: int, feature_dim: int, seed: int) -> None:
        """Build a student whose weights depend on the arguments only.

        Args:
            preset: a key of ``PRESETS``.
            c_in: channels of the voxel inputs.
            token_dim: T, length of the query tokens.
            feature_dim: D, length of the mask features.
            seed: of the initial weights.

        Raises:
            ValueError: unknown preset.
            ImportError: spconv is missing or the wrong wheel.
        """
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        with torch.random.fork_rng(devices=[]):  # Layers draw weights nobody keeps.
            self.backbone = SparseUNet(c_in, PRESETS[preset])
            self.mask_head = nn.Linear(self.backbone.out_channels, feature_dim)
            self.token_head = nn.Linear(self.backbone.out_channels, token_dim)
            self.token_map = nn.Linear(token_dim, feature_dim, bias=False)
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.full((), -2.0))  # Most points belong to no mask.
        generator = torch.Generator().manual_seed(seed)
        initialise(self.backbone, generator)
        for head in (self.mask_head, self.token_head):
            nn.init.normal_(head.weight, 0, head.in_features**-0.5, generator=generator)
            nn.init.zeros_(head.bias)
        nn.init.orthogonal_(self.token_map.weight, generator=generator)

    def forward(self, features: Tensor, indices: Tensor, batch_size: int) -> VoxelFeatures:
        """Features of voxels; arguments as ``SparseUNet.forward``."""
        x = self.backbone(features, indices, batch_size)
        return VoxelFeatures(self.mask_head(x), self.token_head(x))

    def mask_logits(self, mask_features: Tensor, tokens: Tensor) -> Tensor:
        """(Q, M) mask logits of queries over voxels.

        Args:
            mask_features: (M, D), ``VoxelFeatures.mask``.
            tokens: (Q, T); scaled to unit length here. A zero row (no view answered the query)
                gives minus infinity everywhere: an empty mask, probability 0.
        """
        unit = F.normalize(tokens.float(), dim=1)
        asked = self.token_map(unit)
        logits = self.scale * (asked @ mask_features.float().T) + self.bias
        empty: Tensor = logits.masked_fill((unit == 0).all(1, keepdim=True), -torch.inf)
        return empty
