"""Residual sparse U-Net over voxels, in the sizes of the MinkUNet family.

The well known layout (Choy et al., 4D Spatio-Temporal ConvNets, 2019): a stem at full
resolution; stages that halve the grid with a 2x2x2 convolution of stride 2 and then apply
residual blocks; as many stages that go back with the inverse convolution, join the features
of the same resolution, and apply residual blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from models.batch_norm import SharedBatchNorm
from models.sparse import (
    SparseConv,
    downsample,
    grid_shape,
    sparse_tensor,
    submanifold,
    upsample,
)


@dataclass(frozen=True)
class Layout:
    """Sizes of a U-Net: (channels, residual blocks) of every stage."""

    stem_channels: int
    stem_kernel: int
    encoder: tuple[tuple[int, int], ...]
    decoder: tuple[tuple[int, int], ...]


PRESETS = {
    # No block at full resolution on the way back: there it would cost half of all the time.
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
    """Batch normalisation over all voxels of the batch, and ReLU where wanted."""

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
        """Blocks of one resolution share the rulebook ``key``."""
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
    """Voxel features (M, c_in) to voxel features (M, ``out_channels``)."""

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
        """What ``forward`` on the CPU must know of voxels (M, 4), which no weight has a part in."""
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
        """(M, out_channels) features of the voxels, in their order.

        Args:
            features: (M, c_in) float32.
            indices: (M, 4) int32 contiguous, (batch, x, y, z).
            batch_size: number of scenes.
            books: ``rulebooks(indices)``, if it is there.

        Raises:
            ValueError: voxels ``sparse_tensor`` refuses.
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
    """Draw all sparse kernels and linear maps anew (He et al. 2015, fan in) from ``generator``."""
    for weight in module.parameters():
        if weight.ndim == 1:  # Normalisation stays at one and zero.
            continue
        fan_in = weight[0].numel()
        with torch.no_grad():
            weight.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
