"""Sparse convolution on the CPU: rulebooks of joined voxels, then blocks in threads.

A rulebook lists pairs of an input and an output row with the number of the kernel's offset
between them. It is cut into blocks of outputs, so that threads write to rows of their own and
what a block touches stays in a core's cache; in a block, pairs lie by offset, then by output.
All of this depends on the voxels alone, so sums over pairs are the same bits on every run and
number of threads.

One thread does a block of outputs, offset by offset, with all it touches in its core's cache, where
a product of matrices runs at twice the speed it has on all rows at once. Every sum has one order,
so results are the same bits on every run and number of threads.
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
"""Outputs of a block: with fewer, products are of few rows; more leave the cache."""

_SEARCHED_ROWS = 2048
"""Voxels of which a thread lists the pairs in one go; a multiple of a block's."""


class Rulebook(NamedTuple):
    """Pairs of inputs and outputs by block of ``BLOCK_ROWS`` outputs, and there by offset.

    ``inputs`` and ``outputs`` (P,) int32 rows; those of block b and offset k are
    ``bounds[b, k]:bounds[b, k + 1]``, ``bounds`` (B, K + 1) int64. An offset has at most one pair
    for each output.
    """

    inputs: Array
    outputs: Array
    bounds: Array


class Grid:
    """Places of voxels in order, to find neighbours in.

    ``keys`` (M,) int64 ascending numbers of places, ``order`` (M,) int32 the voxels' rows; keys of
    places that differ by one step along x, y and z differ by ``strides``.
    """

    def __init__(self, indices: Array, reach: int) -> None:
        """Sort voxels (M, 4) int32 (batch, x, y, z), to be asked for up to ``reach`` steps away.

        Places outside the grid have keys of their own, so that nothing is found there.
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
    """Pairs of voxels (M, 4) at most ``kernel // 2`` apart; offsets count x, y, z, z fastest.

    Offset k of a pair is the opposite, K - 1 - k, of the same pair turned round.
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

    ``indices`` (N, 4) int32 in order; ``down`` joins the voxels of the fine grid (inputs) to these,
    ``up`` is the same the other way round; offsets 0..7 say which part of the 2x2x2 it is.
    """

    indices: Array
    down: Rulebook
    up: Rulebook


def halve(indices: Array, shape: tuple[int, ...]) -> Halved:
    """Join voxels (M, 4) of a grid of ``shape`` in cells of 2x2x2, none past an odd border."""
    inside = (indices[:, 1:] < np.array(shape) // 2 * 2).all(1)
    fine = np.flatnonzero(inside).astype(np.int32)
    coarse, parts = indices[fine], indices[fine, 1:] & 1
    coarse[:, 1:] >>= 1
    grid = Grid(coarse, 0)
    first = np.concatenate([[True], grid.keys[1:] != grid.keys[:-1]])[: len(fine)]
    row = np.empty(len(fine), np.int32)
    row[grid.order] = np.cumsum(first) - 1
    offsets = (parts @ np.array([4, 2, 1])).astype(np.int32)
    found = np.ascontiguousarray(coarse[grid.order[first]])
    down = _by_output(fine, row, offsets, len(found))
    return Halved(found, down, _by_output(row, fine, offsets, len(indices)))


def _by_output(inputs: Array, outputs: Array, offsets: Array, num_outputs: int) -> Rulebook:
    """Pairs of a 2x2x2 kernel, cut into blocks."""
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
    """Pairs of the voxels ``first:last`` in order, by ``block`` of them, walking along the keys."""
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
    """Load the compiled search for neighbours, or compile it."""
    keys, rows = np.zeros(1, np.int64), np.zeros(1, np.int32)
    _near(keys, rows, np.zeros(1, np.int64), 0, 0, 1, 1)


_GROUPS = 16
"""Most partial sums of a kernel's gradient, and so most threads in going back."""
_WORTH = 3_000_000
"""Multiplications of a convolution, a tenth of a millisecond, for which one more thread pays."""
_PARTS = 4
"""Parts of a convolution that a thread takes one after another, for one that begins late."""

_TURN = threading.Lock()


def convolve(
    features: Tensor, weight: Tensor, there: Rulebook, back: Rulebook, turned: bool, rows: int
) -> Tensor:
    """Sum over a rulebook's pairs of the input's features times the offset's matrix.

    Args:
        features: (M, C_in) float32 on the CPU.
        weight: (C_out, kx, ky, kz, C_in).
        there: from inputs to outputs.
        back: the same pairs from outputs to inputs.
        turned: whether ``back`` counts offsets from the other end, K - 1 - k.
        rows: N, number of outputs.

    Returns:
        (N, C_out); gradients reach ``features`` and ``weight``.

    Raises:
        ValueError: features or weight of another type.
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
    """(rows, C_out) sums over pairs of an input's features times ``matrices`` (K, C_out, C_in)."""
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
    """Gradients (M, C_in) of features and (K, C_out, C_in) of a kernel, where ``needed``.

    ``matrices`` (K, C_out, C_in) are the kernel's; ``book`` goes from outputs to inputs, and
    counts offsets from the other end if ``turned``.
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
    """The bounds of ``book``'s blocks, cut into ``most`` parts of like size or fewer."""
    return np.array_split(book.bounds, max(1, min(most, len(book.bounds))))


def _room(rows: Array) -> Array:
    """For the rows of as many pairs as one offset of a block has at most."""
    return np.empty((BLOCK_ROWS, rows.shape[1]), np.float32)


def _threads(book: Rulebook, matrices: Tensor) -> int:
    effort = len(book.inputs) * matrices[0].numel()
    return max(1, min(num_threads(), effort // _WORTH))


def _in_threads(work: Callable[[Iterator[int]], None], count: int, threads: int) -> None:
    """Let this thread and others take the numbers below ``count`` one by one, until none is left.

    Products are done in one thread each meanwhile: split among more they would be other bits.
    """
    numbers = iter(range(count))
    # Two at once would each bring back the other's number of threads.
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
    """Threads that stay: to start one takes as long as a small convolution; no fork has them."""
    return ThreadPoolExecutor(max(num_threads() - 1, 1), f"convolutions of {process}")


@cache
def _blas() -> Any:
    """The libraries of matrix products; looked for once, when those that Numba calls are loaded."""
    import scipy.linalg.cython_blas  # noqa: F401 - its BLAS is the one.
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
    """Add to ``target``, for all pairs of some blocks, a row of ``source`` times a matrix."""
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
    """Add to ``kernel`` (K, C_out, C_in), for all pairs of some blocks, gradient times features."""
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
    """Load the compiled loops of sparse convolution, or compile them; no thread starts."""
    number, rows = np.zeros((1, 1), np.float32), np.zeros(1, np.int32)
    pairs = rows, rows, np.array([[0, 1]])
    rooms = number.copy(), number.copy()
    _add_products(*pairs, False, number, number[None], True, *rooms, number.copy())
    _add_kernels(*pairs, False, number, number, *rooms, number[None].copy())
    warm_search()
