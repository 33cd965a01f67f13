"""Batch normalisation over the voxels of all processes that train one network together.

``torch.nn.SyncBatchNorm`` does so on CUDA alone, and cannot leave out a process whose rows were
lent to it. In one process this is ``torch.nn.BatchNorm1d`` itself, to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F


class _Moments(NamedTuple):
    """``mean`` and biased ``variance`` (C,) of ``total`` () rows, all float32.

    ``follows`` () is 1 where the moments move with this process's rows, else 0.
    """

    mean: Tensor
    variance: Tensor
    total: Tensor
    follows: Tensor


class SharedBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d that, in training, takes its statistics over the rows of all processes.

    Rows of a process whose ``counts`` is False are normalised and count for nothing. All
    processes must call their layers, and go back through them, in the same order.
    """

    counts = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise rows (N, C), N >= 1, floating point; the result has their type.

        One row in all has no variance: it takes the running statistics, as in prediction.
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
        """Note the moments in the running ones, and use those where there is a single row."""
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
    """Rows less mean, by deviation, scaled and shifted; knows that moments are made of rows."""

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
        """Batch normalisation's gradient (Ioffe and Szegedy 2015) with sums over all processes.

        Weight and bias get this process's share; whoever averages gradients adds the others'.
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
    """Say whether this process's rows count in the statistics of all layers of ``module``."""
    for layer in module.modules():
        if isinstance(layer, SharedBatchNorm):
            layer.counts = counts


def _world_size() -> int:
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1
