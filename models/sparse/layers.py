"""Sparse tensors and convolution layers on CPU and CUDA; the only module that imports spconv.

spconv computes on CUDA, ``models.sparse.cpu`` on the CPU; spconv's layers hold the weights, so a
student runs on both. The module guards against faults of spconv 2.3.8: its CPU-only wheel
``spconv`` computes wrong numbers, non-contiguous indices are misread, and a strided convolution
drops the voxels past an odd border. The import of spconv takes seconds, so it is delayed until the
first layer or tensor is made.
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
    """Refuse an installation with spconv's CPU-only wheel, even beside another wheel.

    Args:
        names: names of the installed distributions.

    Raises:
        ImportError: the wheel ``spconv`` is installed, or no ``spconv-cu...`` is.
    """
    installed = {name.lower().replace("_", "-") for name in names if name}
    if "spconv" in installed:
        raise ImportError(
            "The CPU-only wheel 'spconv' is installed; it computes wrong numbers with more than "
            f"one thread. {_REMEDY}"
        )
    if not any(name.startswith("spconv-cu") for name in installed):
        raise ImportError(f"spconv is not installed. {_REMEDY}")


@cache
def load_spconv() -> Any:
    """Import ``spconv.pytorch`` once, after ``check_wheels``.

    Raises:
        ImportError: spconv is missing, or its CPU-only wheel is installed.
    """
    check_wheels(dist.metadata["Name"] for dist in metadata.distributions())
    # spconv's tensors cause a warning of torch.fx that users cannot act on.
    tracer = logging.getLogger("torch.fx._symbolic_trace")
    tracer.addFilter(lambda record: "is_fx_tracing" not in str(record.msg))
    if not torch.cuda.is_available():
        # Describing 700 CUDA kernels takes 7 s at import, and a CPU runs none of them.
        core: Any = importlib.import_module("spconv.core")
        core.ALL_IMPGEMM_PARAMS = core.ALL_NATIVE_PARAMS = []
    return importlib.import_module("spconv.pytorch")


def sparse_tensor(
    features: Tensor,
    indices: Tensor,
    batch_size: int,
    multiple: int = 1,
    books: Mapping[str, Any] | None = None,
) -> Any:
    """Make a sparse tensor over voxels.

    Args:
        features: (M, C) floating point, one row per voxel.
        indices: (M, 4) int32 contiguous, (batch, x, y, z), not negative, without duplicates.
        batch_size: number of scenes; batch numbers are 0..batch_size-1.
        multiple: the grid's sides are rounded up to multiples of this; a network that halves
            the grid L times needs 2**L, or voxels at the border are lost.
        books: rulebooks of the layers on the CPU (``SparseConv.joins``), if already computed.

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
    """Return the sides of the grid that holds voxels (M, 4), rounded up to multiples."""
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
    """Rulebooks and output voxels of a layer on the CPU.

    ``there`` and ``back`` are rulebooks from inputs to outputs and from outputs to inputs;
    ``turned`` is true if ``back`` numbers offsets in reverse. ``indices`` (N, 4) int32 are the
    output voxels, ``shape`` the sides of their grid.
    """

    there: Rulebook
    back: Rulebook
    turned: bool
    indices: Tensor
    shape: list[int]


class SparseConv(nn.Module):
    """A convolution layer without bias: spconv on CUDA, ``models.sparse.cpu`` on the CPU."""

    def __init__(self, layer: nn.Module, kind: _Kind, key: str) -> None:
        """Wrap a layer of spconv; ``key`` names its rulebook."""
        super().__init__()
        self.layer = layer
        self._kind, self._key = kind, key

    @property
    def weight(self) -> Tensor:
        """The kernel (C_out, kx, ky, kz, C_in)."""
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
        """Return the layer's rulebooks for voxels (M, 4) in a grid of ``shape``.

        They are taken from ``books``, or computed and stored there.
        """
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
    """Make a convolution whose outputs are the input voxels; equal keys share one rulebook."""
    layer = load_spconv().SubMConv3d(
        c_in, c_out, kernel, padding=kernel // 2, bias=False, indice_key=key
    )
    return SparseConv(layer, "same", key)


def downsample(c_in: int, c_out: int, key: str) -> SparseConv:
    """Make a convolution of size and stride 2; an output voxel covers 2x2x2 input voxels."""
    layer = load_spconv().SparseConv3d(c_in, c_out, 2, 2, bias=False, indice_key=key)
    return SparseConv(layer, "down", key)


def upsample(c_in: int, c_out: int, key: str) -> SparseConv:
    """Make the inverse of the ``downsample`` of the same key; outputs are its input voxels."""
    layer = load_spconv().SparseInverseConv3d(c_in, c_out, 2, key, bias=False)
    return SparseConv(layer, "up", key)
