"""The student: superpoint features from a sparse U-Net, token fusion, masks, and the losses.

The features of a sparse U-Net mix a superpoint with its surroundings, and voxels larger than thin
objects mix colours. So statistics over the superpoint alone (``describe``) are added, which queries
such as "the grey one", "on the wall" or "flat" need.

Label fusion weighs views in closed form (``stages.fusion.fuse_masks``). ``ViewFusion`` starts from
these weights and learns corrections together with the student.

Shapes: Q queries over S superpoints of one scene. ``weights`` (Q, S) >= 0 weigh labels by the
superpoint's size and confidence, 0 for unlabelled superpoints. If all weights are 0, a loss and
its gradient are 0.
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
"""Statistics of one superpoint, see ``describe``."""
_SMALLEST = 0.3
"""Smallest extent in voxels; shorter extents come from the grid, not from the object."""
_FAR = 20.0
"""Unit of distances in voxels, which makes them about 1."""


class Pooling(NamedTuple):
    """Weights that average voxels into the S superpoints of one scene, as P sparse entries.

    Entry p adds voxel ``voxel[p]`` with weight ``share[p]`` to superpoint ``superpoint[p]``; the
    indices are (P,) int64 and the shares of a superpoint sum to 1.
    """

    voxel: Tensor
    superpoint: Tensor
    share: Tensor
    num_superpoints: int


def pool(features: Tensor, how: Pooling) -> Tensor:
    """Average voxel features (M, C) over the points of each superpoint; returns (S, C)."""
    return _sum(features[how.voxel] * how.share[:, None].to(features.dtype), how)


def describe(features: Tensor, coords: Tensor, how: Pooling) -> Tensor:
    """Return (S, 15) float32 statistics that are invariant to rotations about the vertical axis.

    Mean colour (3), mean height, upward and horizontal part of the mean normal; deviation of the
    colour (3) and of the normal; logarithms of the longer horizontal, the shorter horizontal and
    the vertical extent and of the number of voxels; horizontal distance from the scene's centre.

    Args:
        features: (M, 7) colour, height and normal of the voxels, as made by
            ``stages.student.training_samples.voxel_inputs``.
        coords: (M, 3) integer coordinates of the voxels.
        how: the voxels of each superpoint.
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
    """Return (S, 3) standard deviations along the longer, the shorter horizontal axis and z."""
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
    """Return the square root; values below 0 by rounding count as 0."""
    return values.clamp(min=0).sqrt()


POSE_DIM = 6
"""Length of a view's pose: camera centre (3) and viewing direction (3)."""
_HEADS = 4
_LARGEST = 3.0
"""Largest change of the logarithm of a view's weight."""


class Fused(NamedTuple):
    """Fused ``tokens`` (Q, D), unit or 0, and ``weights`` (Q, V) >= 0; rows sum to 1 or are 0."""

    tokens: Tensor
    weights: Tensor


def fuse_tokens(vectors: Tensor, weights: Tensor) -> Fused:
    """Return the weighted mean direction of each query's [SEG] embeddings.

    Args:
        vectors: (Q, V, D); scaled to unit length here.
        weights: (Q, V) >= 0; scaled here so that rows sum to 1.
    """
    total = weights.sum(dim=1, keepdim=True)
    shares = weights / torch.where(total > 0, total, 1.0)
    mean = (shares[:, None] @ F.normalize(vectors, dim=-1))[:, 0]
    return Fused(F.normalize(mean, dim=-1), shares)


class ViewFusion(nn.Module):
    """A small transformer over a query's views that corrects the weights of the closed form.

    The input of a view is its embedding, its pose and its confidence; the output is a factor e^d
    on its weight, with d = 0 in a new network. There is no positional encoding, so the order of
    views does not matter; views of weight 0 are masked out and have no influence.
    """

    def __init__(self, token_dim: int, width: int = 64, layers: int = 1) -> None:
        """Build a network that returns its input weights unchanged until it is trained.

        Args:
            token_dim: D, length of the embeddings.
            width: width of the transformer, a multiple of 4.
            layers: number of transformer layers.
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

    def forward(self, vectors: Tensor, weights: Tensor, confidence: Tensor, poses: Tensor) -> Fused:
        """Fuse Q queries over V views.

        Args:
            vectors: (Q, V, D) [SEG] embeddings.
            weights: (Q, V) of the closed form, 0 for a dropped view.
            confidence: (Q, V) in [0, 1], presence times predicted IoU of the teacher's answers.
            poses: (V, 6) camera centre and viewing direction in a frame of the scene.
        """
        kept = weights > 0
        has_view = kept.any(dim=1)
        if not bool(has_view.any()):
            return fuse_tokens(vectors, weights)
        unit = F.normalize(vectors, dim=-1)
        views = torch.cat([unit, poses.expand(len(unit), -1, -1), confidence[..., None]], dim=-1)
        # Attention over a query without views would be undefined, so such queries are left out.
        states = self.encoder(self.enter(views[has_view]), src_key_padding_mask=~kept[has_view])
        # The change is bounded, and masked views get 0 before the exponential: an overflow in a
        # masked view would make gradients NaN.
        change = _LARGEST * torch.tanh(self.leave(states)[..., 0] / _LARGEST)
        factors = change.masked_fill(~kept[has_view], 0.0).exp()
        return fuse_tokens(vectors, weights.index_put((has_view,), weights[has_view] * factors))


_TINY = 1e-6


def weighted_bce(
    mask_logits: Tensor, targets: Tensor, weights: Tensor, positive_weight: float
) -> Tensor:
    """Return the binary cross entropy in excess of its minimum.

    The cost is averaged with each query's weights, then over queries. The entropy of soft targets
    is subtracted, so that predicting the targets exactly costs 0.

    Args:
        mask_logits: (Q, S).
        targets: (Q, S) in [0, 1].
        weights: (Q, S).
        positive_weight: factor on the positive part.
    """
    wrong = F.softplus(mask_logits)  # Cost of a negative; a positive costs this minus its logit.
    # The minimum of the cost over logits, for a soft target and the positive weight.
    share = positive_weight * targets / (positive_weight * targets + 1 - targets)
    floor = -(torch.xlogy(positive_weight * targets, share) + torch.xlogy(1 - targets, 1 - share))
    positive = positive_weight * targets
    cost = ((positive + 1 - targets) * wrong - positive * mask_logits - floor) * weights
    return _mean_of_rows(cost.sum(1), weights.sum(1))


def dice(mask_logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Return one minus the soft Dice overlap with squared sizes (Milletari et al. 2016).

    The mean is over queries with a target, that is a label above one half with positive weight;
    the overlap with an empty mask is undefined. Equal soft masks cost 0.

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
    """Return the mean squared difference of probabilities of adjacent superpoints.

    Args:
        mask_logits: (Q, S).
        pairs: (P, 2) int64 adjacent superpoints; P may be 0.
        affinity: (P,) >= 0, weights of the pairs, larger for pairs likely of one object.
    """
    probs = mask_logits.sigmoid()
    apart = ((probs[:, pairs[:, 0]] - probs[:, pairs[:, 1]]) ** 2 * affinity).sum(1)
    return _mean_of_rows(apart, affinity.sum().expand(len(mask_logits)))


def claimed_tokens(targets: Tensor, weights: Tensor, tokens: Tensor) -> Tensor:
    """Return (S, T), for each superpoint the unit mean of the tokens of queries that claim it.

    A query claims a superpoint when its label there is above one half; its token is weighted by
    label times weight. Unclaimed superpoints get 0.
    """
    claims = torch.where(targets > 0.5, targets * weights, 0.0)
    return F.normalize(claims.T @ F.normalize(tokens, dim=1), dim=1)


def feature_cosine(token_features: Tensor, target_tokens: Tensor) -> Tensor:
    """Return the mean of one minus the cosine between features and target tokens.

    Args:
        token_features: (S, T).
        target_tokens: (S, T) unit rows; zero rows are left out, see ``claimed_tokens``.
    """
    has_token = (target_tokens != 0).any(1).to(token_features.dtype)
    cosine = (F.normalize(token_features, dim=1) * target_tokens).sum(1)
    return ((1 - cosine) * has_token).sum() / has_token.sum().clamp(min=1)


def absent(mask_logits: Tensor, weights: Tensor) -> Tensor:
    """Return the cross entropy of absent queries, for which every superpoint is negative.

    Args:
        mask_logits: (K, S); K may be 0.
        weights: (S,) weights of the superpoints.
    """
    per_query = (F.softplus(mask_logits) * weights).sum(1)
    return _mean_of_rows(per_query, weights.sum().expand(len(mask_logits)))


def _mean_of_rows(sums: Tensor, totals: Tensor) -> Tensor:
    """Return the mean of sum / total over the rows with a positive total; 0 without such rows."""
    counted = (totals > 0).to(sums.dtype)
    means = sums / torch.where(totals > 0, totals, 1.0)
    return (means * counted).sum() / counted.sum().clamp(min=1)


class Features(NamedTuple):
    """Outputs of the student's heads for S superpoints.

    ``mask`` (S, D) is compared with queries; ``token`` (S, T) is in the space of the tokens;
    ``image`` (S, C) is in the space of the teacher's image features, None without that head.
    """

    mask: Tensor
    token: Tensor
    image: Tensor | None = None


class Student(nn.Module):
    """Sparse U-Net, pooling into superpoints, and heads; masks are dot products.

    One hidden layer joins the pooled backbone features of a superpoint with its own statistics
    (``describe``). The mask logit of superpoint i and query q is ``scale * <f_i, W t_q> + bias``:
    ``t_q`` has unit length, ``W`` (D, T) starts orthogonal, ``scale`` at 1, ``bias`` below 0.
    Voxel features are averaged over the points of a superpoint (as in SPFormer and Reason3D), so
    a mask holds whole superpoints.
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
            seed: seed of the initial weights.
            learnt_fusion: fuse the embeddings of views by ``ViewFusion``, not in closed form.
            image_dim: C, length of the teacher's image features; 0 for no image head. The other
                weights do not depend on it.

        Raises:
            ValueError: unknown preset.
            ImportError: spconv is missing, or its CPU-only wheel is installed.
        """
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"preset must be one of {sorted(PRESETS)}, got {preset!r}")
        with torch.random.fork_rng(devices=[]):  # Layers draw weights that are replaced below.
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
        """Compute the features of each scene's superpoints.

        Args:
            features: (M, 7) of all scenes' voxels, one scene after the other.
            indices: (M, 4) int32, see ``SparseUNet.forward``.
            scenes: pooling of each scene; voxel indices start at 0 in each scene.
            books: ``backbone.rulebooks(indices)``, or None to compute them.
        """
        x = self.backbone(features, indices, len(scenes), books)
        sizes = torch.bincount(indices[:, 0].long(), minlength=len(scenes)).tolist()
        voxels = [torch.split(tensor, sizes) for tensor in (x, features, indices[:, 1:])]
        return [self._heads(*scene) for scene in zip(*voxels, scenes, strict=True)]

    def _heads(self, x: Tensor, features: Tensor, coords: Tensor, how: Pooling) -> Features:
        around = self.norm(pool(x, how).float())
        joined = F.gelu(self.join(torch.cat([around, describe(features, coords, how)], dim=1)))
        image = None if self.image_head is None else self.image_head(joined)
        return Features(self.mask_head(joined), self.token_head(joined), image)

    def fuse(self, vectors: Tensor, weights: Tensor, confidence: Tensor, poses: Tensor) -> Fused:
        """Fuse the views of each query into one token; arguments as ``ViewFusion.forward``."""
        if self.fusion is None:
            return fuse_tokens(vectors, weights)
        fused: Fused = self.fusion(vectors, weights, confidence, poses)
        return fused

    def mask_logits(self, mask_features: Tensor, tokens: Tensor) -> Tensor:
        """Return the mask logits (Q, S) of queries over superpoints.

        Args:
            mask_features: (S, D), ``Features.mask``.
            tokens: (Q, T); scaled to unit length here. A zero row (no view answered the query)
                gives minus infinity, that is probability 0 and an empty mask.
        """
        unit = F.normalize(tokens.float(), dim=1)
        queries = self.token_map(unit)
        logits = self.scale * (queries @ mask_features.float().T) + self.bias
        empty: Tensor = logits.masked_fill((unit == 0).all(1, keepdim=True), -torch.inf)
        return empty
