"""The one room that imports spconv: sparse tensors and convolutions on CPU and CUDA.

On CUDA spconv computes, on the CPU ``models.sparse.cpu``; spconv's layers hold the weights, so a
student is the same on both. Facts this file guards (spconv 2.3.8): the CPU-only wheel ``spconv``
computes wrong numbers; non-contiguous indices are read as garbage; a strided convolution drops
the voxels past an odd border. spconv takes seconds to import, so it is imported when the first
layer or tensor is made.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from models.sparse.cpu import Rulebook, convolve, halve, submanifold_rulebook

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


def sparse_tensor(
    features: Tensor,
    indices: Tensor,
    batch_size: int,
    multiple: int = 1,
    books: Mapping[str, Any] | None = None,
) -> Any:
    """A sparse tensor over voxels.

    Args:
        features: (M, C) floating point, one row a voxel.
        indices: (M, 4) int32 contiguous, (batch, x, y, z), not negative, no row twice.
        batch_size: number of scenes; batch numbers are 0..batch_size-1.
        multiple: the grid's sides are rounded up to multiples of this; a network that halves
            the grid L times needs 2**L, or voxels at the border are lost.
        books: what layers joined on the CPU, where it is known (``SparseConv.joins``).

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
    made = load_spconv().SparseConvTensor(
        features, indices, grid_shape(indices, multiple), batch_size
    )
    made.indice_dict.update(books or {})
    return made


def grid_shape(indices: Tensor, multiple: int = 1) -> list[int]:
    """Sides of the grid that holds voxels (M, 4), rounded up to multiples."""
    return [-(-int(size + 1) // multiple) * multiple for size in indices.amax(0)[1:]]


def _refuse_duplicates(indices: Tensor, sizes: list[int]) -> None:
    keys = indices[:, 0].long()
    for axis in (1, 2, 3):
        keys = keys * sizes[axis] + indices[:, axis]
    if bool((keys[1:] > keys[:-1]).all()):
        return
    keys = keys.sort().values
    if bool((keys[1:] == keys[:-1]).any()):
        raise ValueError("indices hold a voxel twice")


class Joins(NamedTuple):
    """Which voxels a layer joins on the CPU, and what voxels it leaves.

    ``there`` and ``back`` are rulebooks from inputs to outputs and from outputs to inputs,
    ``turned`` says whether the second counts offsets from the other end; ``indices`` (N, 4) int32
    and ``shape`` are the outputs' places and grid.
    """

    there: Rulebook
    back: Rulebook
    turned: bool
    indices: Tensor
    shape: list[int]


class SparseConv(nn.Module):
    """One layer without bias: spconv's own on CUDA, ``models.sparse.cpu`` on the CPU."""

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
        there, back, turned, indices, shape = self.joins(x.indices, x.spatial_shape, x.indice_dict)
        features = convolve(x.features, self.weight, there, back, turned, len(indices))
        made = load_spconv().SparseConvTensor(features, indices, shape, x.batch_size)
        made.indice_dict = x.indice_dict
        return made

    def joins(self, indices: Tensor, shape: list[int], books: dict[str, Any]) -> Joins:
        """What the layer joins of voxels (M, 4) in a grid; found in ``books`` or put there."""
        if self._kind == "same":
            if self._key not in books:
                books[self._key] = submanifold_rulebook(indices.numpy(), self.weight.shape[1])
            book = books[self._key]
            return Joins(book, book, True, indices, shape)
        if self._kind == "down":
            if self._key not in books:
                books[self._key] = halve(indices.numpy(), tuple(shape)), indices, shape
            halved = books[self._key][0]
            coarse = torch.from_numpy(halved.indices)
            return Joins(halved.down, halved.up, False, coarse, [size // 2 for size in shape])
        halved, indices, shape = books[self._key]
        return Joins(halved.up, halved.down, False, indices, shape)


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
