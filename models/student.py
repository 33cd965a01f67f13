"""The student: superpoint features from a sparse U-Net, asked for masks with query tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.descriptors import DESCRIPTOR_DIM, INPUT_DIM, Pooling, describe, pool
from models.fusion import Fused, ViewFusion, fuse_tokens
from models.sparse_unet import PRESETS, SparseUNet, initialise


class Features(NamedTuple):
    """``mask`` (S, D) answers queries; ``token`` (S, T) lives in the space of the tokens.

    ``image`` (S, C) lives in that of the teacher's image features; None without such a head.
    """

    mask: Tensor
    token: Tensor
    image: Tensor | None = None


class Student(nn.Module):
    """Backbone, pooling into superpoints and two heads; masks are dot products.

    A superpoint is what the backbone makes of it and its surroundings, and what it is by itself
    (``models.descriptors``), joined by one hidden layer.
    The mask logit of superpoint i and query q is ``scale * <f_i, W t_q> + bias``: ``t_q`` has
    unit length, ``W`` (D, T) starts orthogonal, ``scale`` at 1, ``bias`` below 0. What voxels
    hold is averaged over a superpoint's points (as in SPFormer and Reason3D), so an answer never
    ends inside one.
    """

    def __init__(
        self,
        preset: str,
        token_dim: int,
        feature_dim: int,
        seed: int,
        learnt_fusion: bool = False,
        image_dim: int = 0,
    ) -> None:
        """Build a student whose weights depend on the arguments only.

        Args:
            preset: a key of ``PRESETS``.
            token_dim: T, length of the query tokens.
            feature_dim: D, length of the mask features.
            seed: of the initial weights.
            learnt_fusion: whether views' tokens are fused by a network instead of the closed form.
            image_dim: C, length of the teacher's image features; 0 for no head. All other
                weights are the same with and without.

        Raises:
            ValueError: unknown preset.
            ImportError: spconv is missing or the wrong wheel.
        """
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        with torch.random.fork_rng(devices=[]):  # Layers draw weights nobody keeps.
            torch.manual_seed(seed)
            self.backbone = SparseUNet(INPUT_DIM, PRESETS[preset])
            width = self.backbone.out_channels
            self.norm = nn.LayerNorm(width)
            self.join = nn.Linear(width + DESCRIPTOR_DIM, feature_dim)
            self.mask_head = nn.Linear(feature_dim, feature_dim)
            self.token_head = nn.Linear(feature_dim, token_dim)
            self.token_map = nn.Linear(token_dim, feature_dim, bias=False)
            self.fusion = ViewFusion(token_dim) if learnt_fusion else None
            self.image_head = nn.Linear(feature_dim, image_dim) if image_dim else None
        self.scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.full((), -2.0))  # Most points belong to no mask.
        generator = torch.Generator().manual_seed(seed)
        initialise(self.backbone, generator)
        for head in (self.join, self.mask_head, self.token_head):
            nn.init.normal_(head.weight, 0, head.in_features**-0.5, generator=generator)
            nn.init.zeros_(head.bias)
        nn.init.orthogonal_(self.token_map.weight, generator=generator)
        if self.image_head is not None:
            nn.init.normal_(self.image_head.weight, 0, feature_dim**-0.5, generator=generator)
            nn.init.zeros_(self.image_head.bias)

    def forward(
        self,
        features: Tensor,
        indices: Tensor,
        scenes: list[Pooling],
        books: Mapping[str, Any] | None = None,
    ) -> list[Features]:
        """Features of each scene's superpoints.

        Args:
            features: (M, 7) of all scenes' voxels, one scene after the other.
            indices: (M, 4) int32, see ``SparseUNet.forward``.
            scenes: their voxels counted from each scene's first.
            books: ``backbone.rulebooks(indices)``, if it is there.
        """
        x = self.backbone(features, indices, len(scenes), books)
        sizes = torch.bincount(indices[:, 0].long(), minlength=len(scenes)).tolist()
        voxels = [torch.split(tensor, sizes) for tensor in (x, features, indices[:, 1:])]
        return [self._heads(*one) for one in zip(*voxels, scenes, strict=True)]

    def _heads(self, x: Tensor, features: Tensor, coords: Tensor, how: Pooling) -> Features:
        around = self.norm(pool(x, how).float())
        joined = F.gelu(self.join(torch.cat([around, describe(features, coords, how)], dim=1)))
        image = None if self.image_head is None else self.image_head(joined)
        return Features(self.mask_head(joined), self.token_head(joined), image)

    def fuse(self, vectors: Tensor, weights: Tensor, beliefs: Tensor, poses: Tensor) -> Fused:
        """One token a query; arguments as ``ViewFusion.forward``."""
        if self.fusion is None:
            return fuse_tokens(vectors, weights)
        fused: Fused = self.fusion(vectors, weights, beliefs, poses)
        return fused

    def mask_logits(self, mask_features: Tensor, tokens: Tensor) -> Tensor:
        """(Q, S) mask logits of queries over superpoints.

        Args:
            mask_features: (S, D), ``Features.mask``.
            tokens: (Q, T); scaled to unit length here. A zero row (no view answered the query)
                gives minus infinity everywhere: an empty mask, probability 0.
        """
        unit = F.normalize(tokens.float(), dim=1)
        asked = self.token_map(unit)
        logits = self.scale * (asked @ mask_features.float().T) + self.bias
        empty: Tensor = logits.masked_fill((unit == 0).all(1, keepdim=True), -torch.inf)
        return empty
