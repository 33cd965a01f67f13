"""The student: superpoint features from a sparse U-Net, token fusion, masks, and the losses.

A sparse U-Net mixes a superpoint with what is around it, and voxels larger than thin objects mix
colours even before. A few means over the superpoint itself keep what "the grey one", "on the
wall" or "flat" need.

Fusion weighs views in closed form (``stages.fusion.fuse_masks``). ``ViewFusion`` starts as that and
learns, together with the student, to weigh views by all that is known of them.

Shapes: Q queries over S superpoints of one scene. ``weights`` (Q, S) >= 0 say how much a label
counts: size and clearness of the superpoint's label, 0 where nothing is known. With nothing to
count, a loss is 0 and its gradient too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.sparse.unet import PRESETS, SparseUNet, initialise

INPUT_DIM = 7
"""Channels of a voxel: colour, height, normal."""
DESCRIPTOR_DIM = 15
"""Numbers of one superpoint, see ``describe``."""
_SMALLEST = 0.3
"""Voxels; shorter extents are those of the grid, not of the object."""
_FAR = 20.0
"""Voxels, so that distances are about 1."""


class Pooling(NamedTuple):
    """How voxels make up the S superpoints of one scene: P parts.

    ``voxel`` and ``superpoint`` (P,) int64; ``share`` (P,), parts of a superpoint sum to 1.
    """

    voxel: Tensor
    superpoint: Tensor
    share: Tensor
    num_superpoints: int


def pool(features: Tensor, how: Pooling) -> Tensor:
    """(S, C) means over the superpoints' points of the voxels' features (M, C)."""
    return _sum(features[how.voxel] * how.share[:, None].to(features.dtype), how)


def describe(features: Tensor, coords: Tensor, how: Pooling) -> Tensor:
    """(S, 15) float32 numbers that do not change when the scene turns about the vertical axis.

    Mean colour (3), height, upward and horizontal part of the mean normal; spread of the colour
    (3) and of the normal; logarithms of the longer and shorter horizontal and of the vertical
    extent and of the number of voxels; horizontal distance from the middle of the scene.

    Args:
        features: (M, 7) as ``stages.student.training_samples.voxel_inputs`` gives: colour,
            height, normal.
        coords: (M, 3) integer places in the grid.
        how: which voxels are whose.
    """
    features = features.float()
    mean = pool(features, how)
    color_spread = _root(pool(features[:, :3] ** 2, how) - mean[:, :3] ** 2)
    sideways = mean[:, 4:6].norm(dim=1, keepdim=True)
    bent = _root(1 - mean[:, 4:].square().sum(1, keepdim=True))
    places = coords.float() - coords.float().mean(0)
    middle = pool(places, how)
    count = torch.bincount(how.superpoint, minlength=how.num_superpoints).float()
    return torch.cat(
        [
            mean[:, :4],
            mean[:, 6:7],
            sideways,
            color_spread,
            bent,
            torch.log(_extents(places, middle, how) + _SMALLEST),
            torch.log(count.clamp(min=1))[:, None] / 3,
            middle[:, :2].norm(dim=1, keepdim=True) / _FAR,
        ],
        dim=1,
    )


def _extents(places: Tensor, middle: Tensor, how: Pooling) -> Tensor:
    """(S, 3) standard deviations along the longer and shorter horizontal axis and upwards."""
    off = places[how.voxel] - middle[how.superpoint]
    products = torch.stack(
        [off[:, 0] ** 2, off[:, 1] ** 2, off[:, 2] ** 2, off[:, 0] * off[:, 1]], dim=1
    )
    xx, yy, zz, xy = _sum(products * how.share[:, None], how).unbind(dim=1)
    half = (xx + yy) / 2
    # Eigenvalues of the 2 x 2 covariance.
    root = _root((xx - yy) ** 2 / 4 + xy**2)
    return _root(torch.stack([half + root, half - root, zz], dim=1))


def _sum(values: Tensor, how: Pooling) -> Tensor:
    zeros = values.new_zeros(how.num_superpoints, values.shape[1])
    return zeros.index_add(0, how.superpoint, values)


def _root(values: Tensor) -> Tensor:
    """Square root of what is not below 0 but by rounding."""
    return values.clamp(min=0).sqrt()


POSE_DIM = 6
"""Numbers that tell where a view was taken from: camera centre and viewing direction."""
_HEADS = 4
_LARGEST = 3.0
"""No view's weight changes by more than e to this power."""


class Fused(NamedTuple):
    """``tokens`` (Q, D) unit or 0, ``weights`` (Q, V) >= 0 whose rows sum to 1 or are all 0."""

    tokens: Tensor
    weights: Tensor


def fuse_tokens(vectors: Tensor, weights: Tensor) -> Fused:
    """The weighted mean direction of each query's views.

    Args:
        vectors: (Q, V, D); scaled to unit length here.
        weights: (Q, V) >= 0; scaled here so that rows sum to 1.
    """
    total = weights.sum(dim=1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    mean = (shares[:, None] @ F.normalize(vectors, dim=-1))[:, 0]
    return Fused(F.normalize(mean, dim=-1), shares)


class ViewFusion(nn.Module):
    """A small transformer over a query's views that corrects the closed form's weights.

    Each view enters as its token, its pose and the teacher's belief; what comes out is a factor
    on its weight, e^d with d = 0 in a new network. Views do not know their places, so their
    order changes nothing; views without weight are seen by no other, so they change nothing.
    """

    def __init__(self, token_dim: int, width: int = 64, layers: int = 1) -> None:
        """Build a network that keeps the weights it is given until it is trained.

        Args:
            token_dim: D, length of the tokens.
            width: of the transformer, a multiple of 4.
            layers: of the transformer.
        """
        super().__init__()
        self.enter = nn.Linear(token_dim + POSE_DIM + 1, width)
        layer = nn.TransformerEncoderLayer(
            width, _HEADS, dim_feedforward=2 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.leave = nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, vectors: Tensor, weights: Tensor, beliefs: Tensor, poses: Tensor) -> Fused:
        """Fuse Q queries over V views.

        Args:
            vectors: (Q, V, D) [SEG] tokens.
            weights: (Q, V) of the closed form, 0 for a view that has no say.
            beliefs: (Q, V) in [0, 1], the teacher's in its own answers.
            poses: (V, 6) camera centre and viewing direction, in a frame of the scene.
        """
        kept = weights > 0
        asked = kept.any(dim=1)
        if not bool(asked.any()):
            return fuse_tokens(vectors, weights)
        unit = F.normalize(vectors, dim=-1)
        views = torch.cat([unit, poses.expand(len(unit), -1, -1), beliefs[..., None]], dim=-1)
        # A query without a single view would leave attention nothing to look at.
        states = self.encoder(self.enter(views[asked]), src_key_padding_mask=~kept[asked])
        # Bounded, and without masked views before the exponential: one that overflows where
        # nobody looks would make gradients NaN.
        change = _LARGEST * torch.tanh(self.leave(states)[..., 0] / _LARGEST)
        factors = change.masked_fill(~kept[asked], 0.0).exp()
        return fuse_tokens(vectors, weights.index_put((asked,), weights[asked] * factors))


_TINY = 1e-6


def weighted_bce(
    mask_logits: Tensor, targets: Tensor, weights: Tensor, positive_weight: float
) -> Tensor:
    """Excess binary cross entropy, averaged over each query's weights, then over queries.

    The entropy of soft targets is taken off, so that predicting them exactly costs 0.

    Args:
        mask_logits: (Q, S).
        targets: (Q, S) in [0, 1].
        weights: (Q, S).
        positive_weight: factor on the positive part.
    """
    wrong = F.softplus(mask_logits)  # Cost of a negative; that of a positive is less its logit.
    # The best logit for a soft target under the positive weight, and what it costs.
    share = positive_weight * targets / (positive_weight * targets + 1 - targets)
    floor = -(torch.xlogy(positive_weight * targets, share) + torch.xlogy(1 - targets, 1 - share))
    positive = positive_weight * targets
    cost = ((positive + 1 - targets) * wrong - positive * mask_logits - floor) * weights
    return _mean_of_rows(cost.sum(1), weights.sum(1))


def dice(mask_logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """One minus the soft Dice overlap with squared sizes (Milletari et al. 2016), over queries.

    Queries without a target (no weighted label above one half) are left out: overlap with
    nothing says nothing. Equal soft masks cost 0.

    Args:
        mask_logits: (Q, S).
        targets: (Q, S) in [0, 1].
        weights: (Q, S).
    """
    probs = mask_logits.sigmoid()
    overlap = 2 * (weights * probs * targets).sum(1)
    sizes = (weights * (probs**2 + targets**2)).sum(1)
    has_target = ((targets > 0.5) & (weights > 0)).any(1).to(sizes.dtype)
    return _mean_of_rows((1 - overlap / (sizes + _TINY)) * has_target, has_target)


def neighbour_pull(mask_logits: Tensor, pairs: Tensor, affinity: Tensor) -> Tensor:
    """Mean squared difference of the probabilities of touching superpoints, by affinity.

    Args:
        mask_logits: (Q, S).
        pairs: (P, 2) int64; P may be 0.
        affinity: (P,) >= 0, how likely two are one object.
    """
    probs = mask_logits.sigmoid()
    apart = ((probs[:, pairs[:, 0]] - probs[:, pairs[:, 1]]) ** 2 * affinity).sum(1)
    return _mean_of_rows(apart, affinity.sum().expand(len(mask_logits)))


def claimed_tokens(targets: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """(S, T): each superpoint's unit mean of the tokens of the queries that claim it, or 0.

    A query claims a superpoint whose label is above one half; it counts by label times weight.
    """
    claims = torch.where(targets > 0.5, targets * weights, 0.0)
    return F.normalize(claims.T @ F.normalize(tokens, dim=1), dim=1)


def feature_cosine(token_features: Tensor, wanted: Tensor) -> Tensor:
    """Mean of one minus cosine between features and wanted tokens, where there is one.

    Args:
        token_features: (S, T).
        wanted: (S, T) unit rows, zero rows are left out; see ``claimed_tokens``.
    """
    has_token = (wanted != 0).any(1).to(token_features.dtype)
    cosine = (F.normalize(token_features, dim=1) * wanted).sum(1)
    return ((1 - cosine) * has_token).sum() / has_token.sum().clamp(min=1)


def absent(mask_logits: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy of queries whose object is not in the scene: every superpoint is negative.

    Args:
        mask_logits: (K, S); K may be 0.
        weights: (S,): how well each superpoint is known.
    """
    per_query = (F.softplus(mask_logits) * weights).sum(1)
    return _mean_of_rows(per_query, weights.sum().expand(len(mask_logits)))


def _mean_of_rows(sums: Tensor, totals: Tensor) -> Tensor:
    """Mean over the rows whose total is positive of sum / total; 0 when there is none."""
    known = (totals > 0).to(sums.dtype)
    means = sums / torch.where(totals > 0, totals, 1.0)
    return (means * known).sum() / known.sum().clamp(min=1)


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
    (``models.student``), joined by one hidden layer.
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
