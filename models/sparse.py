"""The one room that imports spconv: sparse tensors and convolutions on CPU and CUDA.

On CUDA spconv computes, on the CPU ``models.sparse_cpu``; spconv's layers hold the weights, so a
student is the same on both. Facts this file guards (spconv 2.3.8): the CPU-only wheel ``spconv``
computes wrong numbers; non-contiguous indices are read as garbage; a strided convolution drops
the voxels past an odd border. spconv takes seconds to import, so it is imported when the first
layer or tensor is made.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.rulebooks import halve, submanifold_rulebook
from models.sparse_cpu import convolve

_Kind = Literal["same", "down", "up"]
_REMEDY = (
    "Run 'pip uninstall -y spconv' and then 'pip install --force-reinstall spconv-cu118', "
    "which computes on CPU and CUDA."
)


def check_wheels(names: Iterable[str]) -> None:
    """Refuse an installation that holds spconv's CPU-only wheel, alone or beside another.

    Args:
        names: names of the installed distributions.

    Raises:
        ImportError: the wheel ``spconv`` is installed, or no ``spconv-cu...`` is.
    """
    found = {name.lower().replace("_", "-") for name in names if name}
    if "spconv" in found:
        raise ImportError(
            "The CPU-only wheel 'spconv' is installed; it computes wrong numbers with more than "
            f"one thread. {_REMEDY}"
        )
    if not any(name.startswith("spconv-cu") for name in found):
        raise ImportError(f"spconv is not installed. {_REMEDY}")


@cache
def load_spconv() -> Any:
    """The module ``spconv.pytorch``, imported once, after ``check_wheels``.

    Raises:
        ImportError: the wrong wheel is installed, or none.
    """
    check_wheels(dist.metadata["Name"] for dist in metadata.distributions())
    # spconv's tensors set off a warning of torch.fx that no user can do anything about.
    tracer = logging.getLogger("torch.fx._symbolic_trace")
    tracer.addFilter(lambda record: "is_fx_tracing" not in str(record.msg))
    if not torch.cuda.is_available():
        # Describing 500 CUDA kernels takes 5 s of every start; a CPU can run none of them.
        core: Any = importlib.import_module("spconv.core")
        core.ALL_IMPGEMM_PARAMS = []
    return importlib.import_module("spconv.pytorch")


def sparse_tensor(features: Tensor, indices: Tensor, batch_size: int, multiple: int = 1) -> Any:
    """A sparse tensor over voxels.

    Args:
        features: (M, C) floating point, one row a voxel.
        indices: (M, 4) int32 contiguous, (batch, x, y, z), not negative, no row twice.
        batch_size: number of scenes; batch numbers are 0..batch_size-1.
        multiple: the grid's sides are rounded up to multiples of this; a network that halves
            the grid L times needs 2**L, or voxels at the border are lost.

    Returns:
        spconv's SparseConvTensor.

    Raises:
        ValueError: shapes, type, layout or values other than these.
    """
    if indices.dtype != torch.int32 or indices.ndim != 2 or indices.shape[1] != 4:
        raise ValueError(
            f"indices must be (M, 4) int32, got {tuple(indices.shape)} {indices.dtype}"
        )
    if not indices.is_contiguous():
        raise ValueError("indices must be contiguous: spconv reads others as garbage")
    if features.ndim != 2 or len(features) != len(indices):
        raise ValueError(f"features must be ({len(indices)}, C), got {tuple(features.shape)}")
    if features.device != indices.device:
        raise ValueError(f"features on {features.device} but indices on {indices.device}")
    if len(indices) == 0:
        raise ValueError("a sparse tensor needs at least one voxel")
    sizes = [int(size) + 1 for size in indices.amax(0)]
    if int(indices.amin()) < 0 or sizes[0] > batch_size:
        raise ValueError(f"indices must not be negative and batch numbers below {batch_size}")
    _refuse_duplicates(indices, sizes)
    shape = [-(-size // multiple) * multiple for size in sizes[1:]]
    return load_spconv().SparseConvTensor(features, indices, shape, batch_size)


def _refuse_duplicates(indices: Tensor, sizes: list[int]) -> None:
    keys = indices[:, 0].long()
    for axis in (1, 2, 3):
        keys = keys * sizes[axis] + indices[:, axis]
    if bool((keys[1:] > keys[:-1]).all()):
        return
    keys = keys.sort().values
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("indices hold a voxel twice")


class SparseConv(nn.Module):
    """One layer without bias: spconv's own on CUDA, ``models.sparse_cpu`` on the CPU."""

    def __init__(self, layer: nn.Module, kind: _Kind, key: str) -> None:
        """Wrap a layer of spconv, whose algorithm serves CUDA."""
        super().__init__()
        self.layer = layer
        self._kind, self._key = kind, key

    @property
    def weight(self) -> Tensor:
        """(C_out, kx, ky, kz, C_in): the learnt kernel."""
        weight: Tensor = self.layer.weight  # type: ignore[assignment]
        return weight

    def forward(self, x: Any) -> Any:
        """Apply the layer to a SparseConvTensor."""
        if x.features.is_cuda:
            return self.layer(x)
        if self._kind == "same":
            return self._same(x)
        return self._down(x) if self._kind == "down" else self._up(x)

    def _same(self, x: Any) -> Any:
        books = x.indice_dict
        if self._key not in books:
            books[self._key] = submanifold_rulebook(x.indices.numpy(), self.weight.shape[1])
        book = books[self._key]
        return x.replace_feature(
            convolve(x.features, self.weight, book, book, True, len(x.indices))
        )

    def _down(self, x: Any) -> Any:
        halved = halve(x.indices.numpy(), x.spatial_shape)
        x.indice_dict[self._key] = halved, x.indices, x.spatial_shape
        indices = torch.from_numpy(halved.indices)
        features = convolve(x.features, self.weight, halved.down, halved.up, False, len(indices))
        return _like(x, features, indices, [size // 2 for size in x.spatial_shape])

    def _up(self, x: Any) -> Any:
        halved, indices, shape = x.indice_dict[self._key]
        features = convolve(x.features, self.weight, halved.up, halved.down, False, len(indices))
        return _like(x, features, indices, shape)


def _like(x: Any, features: Tensor, indices: Tensor, shape: list[int]) -> Any:
    """A sparse tensor that shares the rulebooks of ``x``."""
    made = load_spconv().SparseConvTensor(features, indices, shape, x.batch_size)
    made.indice_dict = x.indice_dict
    return made


def submanifold(c_in: int, c_out: int, kernel: int, key: str) -> SparseConv:
    """Convolution whose output has the voxels of its input; equal keys share one rulebook."""
    layer = load_spconv().SubMConv3d(
        c_in, c_out, kernel, padding=kernel // 2, bias=False, indice_key=key
    )
    return SparseConv(layer, "same", key)


def downsample(c_in: int, c_out: int, key: str) -> SparseConv:
    """Convolution of size and stride 2: a voxel of the output covers 2x2x2 of the input."""
    layer = load_spconv().SparseConv3d(c_in, c_out, 2, 2, bias=False, indice_key=key)
    return SparseConv(layer, "down", key)


def upsample(c_in: int, c_out: int, key: str) -> SparseConv:
    """Inverse of the ``downsample`` of the same key: back to that layer's input voxels."""
    layer = load_spconv().SparseInverseConv3d(c_in, c_out, 2, key, bias=False)
    return SparseConv(layer, "up", key)
