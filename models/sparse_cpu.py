"""Sparse convolution on the CPU: gather, multiply, add, block by block in threads of our own.

One thread does a block of outputs, offset by offset, with all it touches in its core's cache, where
a product of matrices runs at twice the speed it has on all rows at once. Every sum has one order,
so results are the same bits on every run and number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compiled import compiled
from data.threads import mapped, num_threads
from models.rulebooks import Block, Rulebook, warm_search

Array = NDArray[Any]
_GROUPS = 16
"""Most partial sums of a kernel's gradient, and so most threads in going back."""
_WORTH = 50_000_000
"""Multiplications of a convolution, some milliseconds, for which one more thread pays."""


def convolve(
    features: Tensor, weight: Tensor, there: Rulebook, back: Rulebook, turned: bool, rows: int
) -> Tensor:
    """Sum over a rulebook's pairs of the input's features times the offset's matrix.

    Args:
        features: (M, C_in) on the CPU.
        weight: (C_out, kx, ky, kz, C_in).
        there: from inputs to outputs.
        back: the same pairs from outputs to inputs.
        turned: whether ``back`` counts offsets from the other end, K - 1 - k.
        rows: N, number of outputs.

    Returns:
        (N, C_out); gradients reach ``features`` and ``weight``.
    """
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
        ctx.save_for_backward(features, weight)
        ctx.back, ctx.turned = back, turned
        return gathered_sum(features, _matrices(weight).transpose(1, 2).contiguous(), there, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        features, weight = ctx.saved_tensors
        matrices = _matrices(weight)
        if ctx.turned:
            matrices = matrices.flip(0)
        by_input, by_matrix = gathered_gradients(
            features,
            matrices.contiguous(),
            gradients[0].contiguous(),
            ctx.back,
            ctx.needs_input_grad,
        )
        by_weight = None
        if by_matrix is not None:
            by_matrix = by_matrix.flip(0) if ctx.turned else by_matrix
            by_weight = by_matrix.permute(2, 0, 1).reshape(weight.shape)
        return by_input, by_weight, None, None, None, None


def _matrices(weight: Tensor) -> Tensor:
    """(K, C_out, C_in)."""
    return weight.detach().flatten(1, 3).transpose(0, 1)


def gathered_sum(features: Tensor, matrices: Tensor, book: Rulebook, rows: int) -> Tensor:
    """(rows, C_out) sums over pairs of an input's features times ``matrices`` (K, C_in, C_out)."""
    result = features.new_zeros(rows, matrices.shape[2])
    source, target, each = features.detach().numpy(), result.numpy(), matrices.unbind()

    def work(numbers: Iterator[int]) -> None:
        most = _most_pairs(book)
        left = features.new_empty(most, source.shape[1])
        right = features.new_empty(most, target.shape[1])
        taken, product = left.numpy(), right.numpy()
        for number in numbers:
            for offset, inputs, outputs in _by_offset(book[number]):
                count = len(inputs)
                _take(source, inputs, taken)
                torch.mm(left[:count], each[offset], out=right[:count])
                _add(product, outputs, target)

    _in_threads(work, len(book), _multiplications(book, matrices))
    return result


def gathered_gradients(
    features: Tensor, matrices: Tensor, gradient: Tensor, book: Rulebook, needed: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients (M, C_in) of features and (K, C_in, C_out) of a kernel, where ``needed``.

    ``matrices`` (K, C_out, C_in) are the kernel's; ``book`` goes from outputs to inputs.
    """
    by_input = torch.zeros_like(features) if needed[0] else None
    groups = np.array_split(np.arange(len(book)), min(_GROUPS, len(book)))
    shape = len(groups), len(matrices), features.shape[1], gradient.shape[1]
    by_matrix = matrices.new_zeros(shape) if needed[1] else None
    source, rows = gradient.numpy(), features.detach().numpy()
    target = None if by_input is None else by_input.numpy()
    sums = None if by_matrix is None else [part.unbind() for part in by_matrix]
    each = matrices.unbind()

    def work(numbers: Iterator[int]) -> None:
        most = _most_pairs(book)
        left = features.new_empty(most, source.shape[1])
        right = features.new_empty(most, rows.shape[1])
        taken, product = left.numpy(), right.numpy()
        for number in numbers:
            for block in groups[number]:
                for offset, outputs, inputs in _by_offset(book[block]):
                    count = len(inputs)
                    a, b = left[:count], right[:count]
                    _take(source, outputs, taken)
                    if target is not None:
                        torch.mm(a, each[offset], out=b)
                        _add(product, inputs, target)
                    if sums is not None:
                        _take(rows, inputs, product)
                        sums[number][offset].addmm_(b.T, a)

    _in_threads(work, len(groups), _multiplications(book, matrices))
    if by_matrix is None:
        return by_input, None
    total = by_matrix[0]
    for part in by_matrix[1:]:
        total += part
    return by_input, total


def _by_offset(block: Block) -> Iterator[tuple[int, Array, Array]]:
    bounds = block.bounds.tolist()
    for offset, (start, stop) in enumerate(zip(bounds[:-1], bounds[1:])):
        if start < stop:
            yield offset, block.inputs[start:stop], block.outputs[start:stop]


def _most_pairs(book: Rulebook) -> int:
    return max(int(np.diff(block.bounds).max()) for block in book)


def _multiplications(book: Rulebook, matrices: Tensor) -> int:
    return sum(len(block.inputs) for block in book) * matrices[0].numel()


def _in_threads(work: Callable[[Iterator[int]], None], count: int, effort: int) -> None:
    """Let threads take the numbers below ``count`` one by one, until there are none.

    As many as ``effort``, the multiplications in all, is worth.
    """
    numbers = iter(range(count))
    threads = max(1, min(num_threads(), count, effort // _WORTH))

    def start(_: int) -> None:
        torch.set_num_threads(1)  # A thread has a number of its own, all cores at first.
        work(numbers)

    with _single():
        for _ in mapped(start, range(threads), threads):
            pass


@contextmanager
def _single() -> Iterator[None]:
    """Products in one thread each meanwhile: split among more they would be other bits."""
    before = torch.get_num_threads()
    if before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@compiled
def _take(source: Array, rows: Array, target: Array) -> None:
    for n in range(len(rows)):
        row = rows[n]
        for c in range(source.shape[1]):
            target[n, c] = source[row, c]


@compiled
def _add(values: Array, rows: Array, target: Array) -> None:
    for n in range(len(rows)):
        row = rows[n]
        for c in range(values.shape[1]):
            target[row, c] += values[n, c]


def warm() -> None:
    """Load the compiled loops of sparse convolution, or compile them; no thread starts."""
    values, rows = np.zeros((1, 1), np.float32), np.zeros(1, np.int32)
    _take(values, rows, values.copy())
    _add(values, rows, values.copy())
    warm_search()
