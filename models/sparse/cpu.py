"""Sparse convolution on the CPU by rulebooks, in threads over blocks of outputs.

A rulebook lists pairs of input and output rows with the kernel offset between them. It is divided
into blocks of outputs; inside a block, pairs are sorted by offset, then by output. A thread
computes one block at a time, offset by offset, so that its rows stay in the core's cache, where
matrix products run twice as fast as on all rows at once. Blocks depend on the voxels alone and
every sum has a fixed order, so results are bit-identical for any number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compiled import compiled
from data.parallel import mapped, num_threads

Array = NDArray[Any]

BLOCK_ROWS = 512
"""Outputs per block: fewer make small matrix products, more exceed the cache."""

_SEARCHED_ROWS = 2048
"""Voxels per task of the neighbour search; a multiple of ``BLOCK_ROWS``."""


class Rulebook(NamedTuple):
    """Pairs of input and output rows, sorted by block of ``BLOCK_ROWS`` outputs, then by offset.

    ``inputs`` and ``outputs`` are (P,) int32 rows. The pairs of block b and offset k are
    ``bounds[b, k]:bounds[b, k + 1]``; ``bounds`` is (B, K + 1) int64. Each output has at most one
    pair per offset.
    """

    inputs: Array
    outputs: Array
    bounds: Array


class Grid:
    """Sorted keys of voxels, for the search of neighbours.

    ``keys`` (M,) int64 are ascending linear indices, ``order`` (M,) int32 the rows of the voxels.
    One step along x, y and z changes the key by ``strides``.
    """

    def __init__(self, indices: Array, reach: int) -> None:
        """Sort voxels (M, 4) int32 (batch, x, y, z) for neighbours up to ``reach`` steps away.

        The grid is padded by ``reach``, so that neighbours outside have keys of no voxel.
        """
        sizes = [int(size) + 1 + 2 * reach for size in indices[:, 1:].max(0)]
        self.strides = (sizes[1] * sizes[2], sizes[2], 1)
        keys = indices[:, 0].astype(np.int64)
        for axis in range(3):
            keys = keys * sizes[axis] + (indices[:, axis + 1] + reach)
        self.order = np.arange(len(keys), dtype=np.int32)
        if not bool((keys[1:] > keys[:-1]).all()):
            self.order = np.argsort(keys).astype(np.int32)
            keys = keys[self.order]
        self.keys = keys


def submanifold_rulebook(indices: Array, kernel: int) -> Rulebook:
    """List the pairs of voxels (M, 4) at most ``kernel // 2`` steps apart along each axis.

    Offsets are numbered in x, y, z order, z fastest. The reverse of a pair with offset k has
    offset K - 1 - k.
    """
    reach = kernel // 2
    grid = Grid(indices, reach)
    sides = np.arange(-reach, reach + 1)
    columns = (sides[:, None] * grid.strides[0] + sides * grid.strides[1]).ravel()

    def blocks(start: int) -> Rulebook:
        ends = start, min(start + _SEARCHED_ROWS, len(indices))
        return Rulebook(*_near(grid.keys, grid.order, columns, reach, *ends, BLOCK_ROWS))

    return _joined(list(mapped(blocks, range(0, len(indices), _SEARCHED_ROWS))))


def _joined(parts: Sequence[Rulebook]) -> Rulebook:
    if len(parts) == 1:
        return parts[0]
    inputs, outputs, bounds = zip(*parts, strict=True)
    starts = np.cumsum([0, *map(len, inputs[:-1])])
    moved = [part + start for part, start in zip(bounds, starts, strict=True)]
    return Rulebook(np.concatenate(inputs), np.concatenate(outputs), np.concatenate(moved))


class Halved(NamedTuple):
    """A grid of half the resolution.

    ``indices`` (N, 4) int32 are its voxels. ``down`` has fine voxels as inputs and coarse voxels
    as outputs, ``up`` the reverse; the offsets 0..7 are positions in a 2x2x2 cell.
    """

    indices: Array
    down: Rulebook
    up: Rulebook


def halve(indices: Array, shape: tuple[int, ...]) -> Halved:
    """Merge voxels (M, 4) of a grid of ``shape`` in 2x2x2 cells.

    Voxels past the last whole cell of an odd side are dropped, as in spconv.
    """
    inside = (indices[:, 1:] < np.array(shape) // 2 * 2).all(1)
    fine = np.flatnonzero(inside).astype(np.int32)
    coarse, parts = indices[fine], indices[fine, 1:] & 1
    coarse[:, 1:] >>= 1
    grid = Grid(coarse, 0)
    first = np.concatenate([[True], grid.keys[1:] != grid.keys[:-1]])[: len(fine)]
    row = np.empty(len(fine), np.int32)
    row[grid.order] = np.cumsum(first) - 1
    offsets = (parts @ np.array([4, 2, 1])).astype(np.int32)
    cells = np.ascontiguousarray(coarse[grid.order[first]])
    down = _by_output(fine, row, offsets, len(cells))
    return Halved(cells, down, _by_output(row, fine, offsets, len(indices)))


def _by_output(inputs: Array, outputs: Array, offsets: Array, num_outputs: int) -> Rulebook:
    """Sort the pairs of a 2x2x2 kernel into the blocks of a rulebook."""
    number = (outputs // BLOCK_ROWS).astype(np.int64) * 8 + offsets
    order = np.lexsort((outputs, number))
    num_blocks = -(-num_outputs // BLOCK_ROWS)
    starts = np.searchsorted(number[order], np.arange(8 * num_blocks + 1))
    bounds = starts[8 * np.arange(num_blocks)[:, None] + np.arange(9)]
    return Rulebook(inputs[order], outputs[order], bounds)


@compiled
def _near(
    keys: Array, order: Array, columns: Array, reach: int, first: int, last: int, block: int
) -> tuple[Array, Array, Array]:
    """List the pairs of the sorted voxels ``first:last`` in blocks, by a merge along the keys."""
    side = 2 * reach + 1
    num_blocks = -(-(last - first) // block)
    table = np.full((len(columns) * side, last - first), -1, np.int32)
    counts = np.zeros((num_blocks, len(table)), np.int64)
    for column in range(len(columns)):
        low = np.searchsorted(keys, keys[first] + columns[column] - reach)
        for row in range(first, last):
            wanted = keys[row] + columns[column] - reach
            while low < len(keys) and keys[low] < wanted:
                low += 1
            at = low
            while at < len(keys) and keys[at] < wanted + side:
                offset = column * side + keys[at] - wanted
                table[offset, row - first] = at
                counts[(row - first) // block, offset] += 1
                at += 1
    inputs, outputs = np.empty(counts.sum(), np.int32), np.empty(counts.sum(), np.int32)
    bounds = np.zeros((num_blocks, len(table) + 1), np.int64)
    pair = 0
    for number in range(num_blocks):
        begin, end = number * block, min((number + 1) * block, last - first)
        bounds[number, 0] = pair
        for offset in range(len(table)):
            if counts[number, offset] > 0:
                for row in range(begin, end):
                    if table[offset, row] >= 0:
                        inputs[pair] = order[table[offset, row]]
                        outputs[pair] = order[first + row]
                        pair += 1
            bounds[number, offset + 1] = pair
    return inputs, outputs, bounds


def warm_search() -> None:
    """Load or compile the neighbour search."""
    keys, rows = np.zeros(1, np.int64), np.zeros(1, np.int32)
    _near(keys, rows, np.zeros(1, np.int64), 0, 0, 1, 1)


_GROUPS = 16
"""Most partial sums of a kernel's gradient, and so most threads of the backward pass."""
_WORTH = 3_000_000
"""Multiplications (about 0.1 ms) for which one more thread pays off."""
_PARTS = 4
"""Parts of a convolution per thread, which balance threads that start late."""

_TURN = threading.Lock()


def convolve(
    features: Tensor, weight: Tensor, there: Rulebook, back: Rulebook, turned: bool, rows: int
) -> Tensor:
    """Convolve: sum the products of input features and offset matrices over a rulebook's pairs.

    Args:
        features: (M, C_in) float32 on the CPU.
        weight: (C_out, kx, ky, kz, C_in).
        there: rulebook from inputs to outputs.
        back: rulebook of the same pairs from outputs to inputs.
        turned: whether ``back`` numbers offsets in reverse, K - 1 - k.
        rows: N, number of outputs.

    Returns:
        (N, C_out), differentiable with respect to ``features`` and ``weight``.

    Raises:
        ValueError: features or weight are not float32.
    """
    if {features.dtype, weight.dtype} != {torch.float32}:
        raise ValueError(
            f"features and weight must be float32 on the CPU, got {features.dtype} and "
            f"{weight.dtype}"
        )
    apply: Any = _Convolution.apply
    result: Tensor = apply(features, weight, there, back, turned, rows)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        there: Rulebook,
        back: Rulebook,
        turned: bool,
        rows: int,
    ) -> Tensor:
        features = features.contiguous()
        # (K, C_out, C_in).
        matrices = weight.detach().flatten(1, 3).transpose(0, 1).contiguous()
        ctx.save_for_backward(features, weight, matrices)
        ctx.back, ctx.turned = back, turned
        return gathered_sum(features, matrices, there, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, matrices = ctx.saved_tensors
        gradient, needed = gradients[0].contiguous(), ctx.needs_input_grad
        by_input, by_matrix = gathered_gradients(
            features, matrices, gradient, ctx.back, ctx.turned, needed
        )
        by_weight = None
        if by_matrix is not None:
            by_weight = by_matrix.transpose(0, 1).reshape(weight.shape)
        return by_input, by_weight, None, None, None, None


def gathered_sum(features: Tensor, matrices: Tensor, book: Rulebook, rows: int) -> Tensor:
    """Return (rows, C_out), sums over pairs of input features times ``matrices``.

    ``matrices`` are (K, C_out, C_in), one per offset.
    """
    result = features.new_zeros(rows, matrices.shape[1])
    source, target, each = features.detach().numpy(), result.numpy(), matrices.numpy()
    threads = _threads(book, matrices)
    parts = _parts(book, threads * _PARTS if threads > 1 else 1)

    def work(numbers: Iterator[int]) -> None:
        rooms = _room(source), _room(target)
        for number in numbers:
            pairs = book.inputs, book.outputs, parts[number]
            _add_products(*pairs, False, source, each, True, *rooms, target)

    _in_threads(work, len(parts), threads)
    return result


def gathered_gradients(
    features: Tensor,
    matrices: Tensor,
    gradient: Tensor,
    book: Rulebook,
    turned: bool,
    needed: tuple[bool, ...],
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients (M, C_in) of features and (K, C_out, C_in) of the kernel.

    A gradient that is not ``needed`` is None. ``matrices`` (K, C_out, C_in) are the kernel;
    ``book`` has outputs as inputs, and numbers offsets in reverse if ``turned``.
    """
    by_input = torch.zeros_like(features) if needed[0] else None
    parts = _parts(book, _GROUPS)
    by_matrix = matrices.new_zeros(len(parts), *matrices.shape) if needed[1] else None
    source, rows, each = gradient.numpy(), features.detach().numpy(), matrices.numpy()

    def work(numbers: Iterator[int]) -> None:
        rooms = _room(source), _room(rows)
        for number in numbers:
            pairs = book.inputs, book.outputs, parts[number]
            if by_input is not None:
                _add_products(*pairs, turned, source, each, False, *rooms, by_input.numpy())
            if by_matrix is not None:
                _add_kernels(*pairs, turned, source, rows, *rooms, by_matrix[number].numpy())

    _in_threads(work, len(parts), _threads(book, matrices))
    return by_input, None if by_matrix is None else by_matrix.sum(0)


def _parts(book: Rulebook, most: int) -> list[Array]:
    """Split the bounds of the blocks into at most ``most`` parts of similar size."""
    return np.array_split(book.bounds, max(1, min(most, len(book.bounds))))


def _room(rows: Array) -> Array:
    """Allocate a buffer for the rows of one offset of a block."""
    return np.empty((BLOCK_ROWS, rows.shape[1]), np.float32)


def _threads(book: Rulebook, matrices: Tensor) -> int:
    effort = len(book.inputs) * matrices[0].numel()
    return max(1, min(num_threads(), effort // _WORTH))


def _in_threads(work: Callable[[Iterator[int]], None], count: int, threads: int) -> None:
    """Process the numbers below ``count`` in this thread and ``threads - 1`` others.

    BLAS runs single-threaded during the call, because more threads round products differently.
    """
    numbers = iter(range(count))
    # The lock keeps two calls from restoring each other's limit of BLAS threads.
    with _TURN, _blas().limit(limits=1):
        others = [_helpers(os.getpid()).submit(work, numbers) for _ in range(threads - 1)]
        try:
            work(numbers)
        finally:
            begun = [other for other in others if not other.cancel()]
            wait(begun)
        for other in begun:
            other.result()


@cache
def _helpers(process: int) -> ThreadPoolExecutor:
    """Return the pool of threads of a process, which is kept because starting threads is slow.

    The process id is the cache key, because a forked process has none of its parent's threads.
    """
    return ThreadPoolExecutor(max(num_threads() - 1, 1), f"convolutions of {process}")


@cache
def _blas() -> Any:
    """Return the controller of the BLAS libraries, after loading the one that Numba calls."""
    import scipy.linalg.cython_blas  # noqa: F401 - loads the BLAS that Numba calls.
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@compiled
def _add_products(
    inputs: Array,
    outputs: Array,
    bounds: Array,
    turned: bool,
    source: Array,
    matrices: Array,
    transposed: bool,
    taken: Array,
    product: Array,
    target: Array,
) -> None:
    """Add to ``target``, for all pairs of the given blocks, a row of ``source`` times a matrix."""
    last = bounds.shape[1] - 2
    for block in range(len(bounds)):
        for offset in range(last + 1):
            start, count = bounds[block, offset], bounds[block, offset + 1] - bounds[block, offset]
            if count == 0:
                continue
            matrix = matrices[last - offset if turned else offset]
            _take(source, inputs[start : start + count], taken)
            if transposed:
                np.dot(taken[:count], matrix.T, product[:count])
            else:
                np.dot(taken[:count], matrix, product[:count])
            for n in range(count):
                row = outputs[start + n]
                for c in range(target.shape[1]):
                    target[row, c] += product[n, c]


@compiled
def _add_kernels(
    outputs: Array,
    inputs: Array,
    bounds: Array,
    turned: bool,
    gradient: Array,
    features: Array,
    taken: Array,
    product: Array,
    kernel: Array,
) -> None:
    """Add gradient times features of all pairs of the given blocks to ``kernel``.

    ``kernel`` is (K, C_out, C_in).
    """
    both = np.empty(kernel.shape[1:], np.float32)
    last = bounds.shape[1] - 2
    for block in range(len(bounds)):
        for offset in range(last + 1):
            start, count = bounds[block, offset], bounds[block, offset + 1] - bounds[block, offset]
            if count == 0:
                continue
            _take(gradient, outputs[start : start + count], taken)
            _take(features, inputs[start : start + count], product)
            np.dot(taken[:count].T, product[:count], both)
            kernel[last - offset if turned else offset] += both


@compiled
def _take(source: Array, rows: Array, target: Array) -> None:
    for n in range(len(rows)):
        row = rows[n]
        for c in range(source.shape[1]):
            target[n, c] = source[row, c]


def warm() -> None:
    """Load or compile the loops of sparse convolution; starts no thread."""
    number, rows = np.zeros((1, 1), np.float32), np.zeros(1, np.int32)
    pairs = rows, rows, np.array([[0, 1]])
    rooms = number.copy(), number.copy()
    _add_products(*pairs, False, number, number[None], True, *rooms, number.copy())
    _add_kernels(*pairs, False, number, number, *rooms, number[None].copy())
    warm_search()
