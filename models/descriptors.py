"""What a superpoint is, in plain numbers: its colour, place, size and shape.

A sparse U-Net mixes a superpoint with what is around it, and voxels larger than thin objects mix
colours even before. A few means over the superpoint itself keep what "the grey one", "on the
wall" or "flat" need.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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
        features: (M, 7) as ``data.batches.voxel_inputs`` gives: colour, height, normal.
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
