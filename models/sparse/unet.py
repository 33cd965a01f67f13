"""Residual sparse U-Net over voxels with batch normalisation across processes.

The layout is MinkUNet's (Choy et al., 4D Spatio-Temporal ConvNets, 2019): a stem at full
resolution; encoder stages that halve the grid with a 2x2x2 convolution of stride 2 and apply
residual blocks; as many decoder stages that apply the inverse convolution, concatenate the
features of the same resolution, and apply residual blocks.

``torch.nn.SyncBatchNorm`` needs CUDA and cannot leave out a process that has no scene of its own,
so ``SharedBatchNorm`` is used. In one process it equals ``torch.nn.BatchNorm1d`` bit by bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from models.sparse.layers import (
    SparseConv,
    downsample,
    grid_shape,
    sparse_tensor,
    submanifold,
    upsample,
)


class _Moments(NamedTuple):
    """``mean`` and biased ``variance`` (C,) of ``total`` () rows, all float32.

    ``follows`` () is 1 if the moments depend on this process's rows, else 0.
    """

    mean: Tensor
    variance: Tensor
    total: Tensor
    follows: Tensor


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d whose training statistics are over the rows of all processes.

    Rows of a process with ``counts`` False are normalised but do not enter the statistics. All
    processes must run forward and backward through their layers in the same order.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows (N, C), N >= 1, floating point; the result has the same type.

        A single row over all processes has no variance; it is normalised by the running
        statistics.
        """
        if self.training and _world_size() > 1:
            moments = self._moments_of_all(x.detach().float())
            normalise: Any = _Normalise.apply
            shared: Tensor = normalise(x, self.weight, self.bias, moments, self.eps)
            return shared
        if len(x) > 1:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)

    def _moments_of_all(self, x: Tensor) -> _Moments:
        """Merge the processes' counts, means and variances (Chan et al. 1983)."""
        variance, mean = torch.var_mean(x, dim=0, correction=0)
        rows = mean.new_full((1,), len(x) if self.counts else 0)
        own = torch.cat([rows, mean, variance])
        each = [torch.empty_like(own) for _ in range(_world_size())]
        distributed.all_gather(each, own)
        merged = torch.stack(each)
        counts, (means, variances) = merged[:, :1], merged[:, 1:].chunk(2, dim=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        return self._kept(mean, variance, total)

    @torch.no_grad()
    def _kept(self, mean: Tensor, variance: Tensor, total: Tensor) -> _Moments:
        """Update the running statistics; return them for a single row, else the moments."""
        running_mean, running_var = self.running_mean, self.running_var
        if running_mean is None or running_var is None or self.momentum is None:
            raise ValueError("shared batch normalisation needs running statistics and a momentum")
        several = total > 1
        mean = torch.where(several, mean, running_mean)
        variance = torch.where(several, variance, running_var)
        unbiased = torch.where(several, variance * total / (total - 1).clamp(min=1), running_var)
        running_mean.lerp_(mean, self.momentum)
        running_var.lerp_(unbiased, self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(several)
        return _Moments(mean, variance, total, (several & self.counts).to(mean.dtype))


class _Normalise(torch.autograd.Function):
    """Batch normalisation by given moments, with the gradient through the moments."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, moments: _Moments, eps: float
    ) -> Tensor:
        scale = torch.rsqrt(moments.variance + eps)
        ctx.save_for_backward(x, weight, moments.mean, scale, moments.total, moments.follows)
        factor = scale * weight
        return torch.addcmul(bias - moments.mean * factor, x.float(), factor).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return batch normalisation's gradient (Ioffe and Szegedy 2015), summed over processes.

        The gradients of weight and bias are this process's share; the reduction of gradients
        adds the shares of the others.
        """
        x, weight, mean, scale, total, follows = ctx.saved_tensors
        gradient = gradients[0].float()
        normal = (x.float() - mean) * scale
        bias_gradient, weight_gradient = gradient.sum(0), (gradient * normal).sum(0)
        sums = torch.stack([bias_gradient, weight_gradient])
        distributed.all_reduce(sums)
        by_mean, by_scale = sums * (follows / total)
        by_row = (gradient - by_mean - normal * by_scale) * (scale * weight)
        return by_row.to(x.dtype), weight_gradient, bias_gradient, None, None


def count_rows(module: nn.Module, counts: bool) -> None:
    """Set whether this process's rows enter the statistics of all layers of ``module``."""
    for layer in module.modules():
        if isinstance(layer, SharedBatchNorm):
            layer.counts = counts


def _world_size() -> int:
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


@dataclass(frozen=True)
class Layout:
    """Sizes of a U-Net; ``encoder`` and ``decoder`` hold (channels, residual blocks) per stage."""

    stem_channels: int
    stem_kernel: int
    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, int], ...]


PRESETS = {
    # 140,000 weights with the heads of a student, for trials of a pipeline: it learns little.
    "nano": Layout(8, 3, ((8, 1), (16, 1), (16, 1), (16, 1)), ((16, 1), (16, 1), (8, 1), (8, 0))),
    # No decoder block at full resolution: it would take half of the time.
    "tiny": Layout(
        16, 3, ((32, 1), (64, 1), (96, 1), (128, 1)), ((96, 1), (64, 1), (32, 1), (32, 0))
    ),
    "minkunet14": Layout(
        32, 5, ((32, 1), (64, 1), (128, 1), (256, 1)), ((128, 1), (128, 1), (96, 1), (96, 1))
    ),
    "minkunet34": Layout(
        32, 5, ((32, 2), (64, 3), (128, 4), (256, 6)), ((256, 2), (128, 2), (96, 2), (96, 2))
    ),
}


class _Norm(nn.Module):
    """Batch normalisation over all voxels of the batch, with an optional ReLU."""

    def __init__(self, channels: int, relu: bool = True) -> None:
        super().__init__()
        self.norm = SharedBatchNorm(channels)
        self.relu = relu

    def forward(self, x: Any) -> Any:
        features = self.norm(x.features)
        return x.replace_feature(features.relu_() if self.relu else features)


class ResidualBlock(nn.Module):
    """Two 3x3x3 submanifold convolutions and a shortcut, linear where the channels change."""

    def __init__(self, c_in: int, c_out: int, key: str) -> None:
        """Build a block; blocks of one resolution share the rulebook ``key``."""
        super().__init__()
        self.conv1, self.norm1 = submanifold(c_in, c_out, 3, key), _Norm(c_out)
        self.conv2, self.norm2 = submanifold(c_out, c_out, 3, key), _Norm(c_out, relu=False)
        self.shortcut = nn.Identity() if c_in == c_out else nn.Linear(c_in, c_out, bias=False)

    def forward(self, x: Any) -> Any:
        """Apply the block to a SparseConvTensor of c_in channels."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x))))
        return y.replace_feature((y.features + self.shortcut(x.features)).relu_())


def _blocks(c_in: int, c_out: int, count: int, key: str) -> nn.Sequential:
    sizes = [c_in] + [c_out] * count
    return nn.Sequential(*[ResidualBlock(a, b, key) for a, b in zip(sizes[:-1], sizes[1:])])


class SparseUNet(nn.Module):
    """A sparse U-Net from voxel features (M, c_in) to (M, ``out_channels``)."""

    def __init__(self, c_in: int, layout: Layout) -> None:
        """Build the stages of ``layout`` (see ``PRESETS``)."""
        super().__init__()
        self.multiple = 2 ** len(layout.encoder)
        channels = layout.stem_channels
        self.stem = nn.Sequential(
            submanifold(c_in, channels, layout.stem_kernel, "stem"), _Norm(channels)
        )
        skips = []
        self.down, self.encoder = nn.ModuleList(), nn.ModuleList()
        for level, (width, count) in enumerate(layout.encoder):
            skips.append(channels)
            self.down.append(
                nn.Sequential(downsample(channels, channels, f"down{level}"), _Norm(channels))
            )
            self.encoder.append(_blocks(channels, width, count, f"level{level + 1}"))
            channels = width
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level, (width, count) in zip(reversed(range(len(skips))), layout.decoder, strict=True):
            self.up.append(nn.Sequential(upsample(channels, width, f"down{level}"), _Norm(width)))
            channels = width + skips[level]
            self.decoder.append(_blocks(channels, width, count, f"level{level}"))
            channels = width if count else channels
        self.out_channels = channels

    def rulebooks(self, indices: Tensor) -> dict[str, Any]:
        """Compute the rulebooks of voxels (M, 4) that ``forward`` needs on the CPU."""
        books: dict[str, Any] = {}
        shape = grid_shape(indices, self.multiple)
        ways = [*zip(self.down, self.encoder), *zip(self.up, self.decoder)]
        for part in (self.stem, *chain.from_iterable(ways)):
            for layer in part.modules():
                if isinstance(layer, SparseConv):
                    *_, indices, shape = layer.joins(indices, shape, books)
        return books

    def forward(
        self,
        features: Tensor,
        indices: Tensor,
        batch_size: int,
        books: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Compute (M, out_channels) features of the voxels, in their order.

        Args:
            features: (M, c_in) float32.
            indices: (M, 4) int32 contiguous, (batch, x, y, z).
            batch_size: number of scenes.
            books: ``rulebooks(indices)``, or None to compute them.

        Raises:
            ValueError: ``sparse_tensor`` refuses the voxels.
        """
        x = self.stem(sparse_tensor(features, indices, batch_size, self.multiple, books))
        skips = []
        for down, blocks in zip(self.down, self.encoder, strict=True):
            skips.append(x)
            x = blocks(down(x))
        for up, blocks in zip(self.up, self.decoder, strict=True):
            x, skip = up(x), skips.pop()
            x = blocks(x.replace_feature(torch.cat([x.features, skip.features], 1)))
        out: Tensor = x.features
        return out


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Initialise all sparse kernels and linear maps (He et al. 2015, fan in) from ``generator``."""
    for weight in module.parameters():
        if weight.ndim == 1:  # Normalisation stays at one and zero.
            continue
        fan_in = weight[0].numel()
        with torch.no_grad():
            weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
