"""Which voxels a sparse convolution joins, found on the CPU: rulebooks, cut for threads and caches.

A rulebook lists pairs of an input and an output row with the number of the kernel's offset
between them. It is cut into blocks of outputs, so that threads write to rows of their own and
what a block touches stays in a core's cache; in a block, pairs lie by offset, then by output.
All of this depends on the voxels alone, so sums over pairs are the same bits on every run and
number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.compiled import compiled
from data.threads import mapped

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
