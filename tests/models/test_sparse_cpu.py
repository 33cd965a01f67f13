"""Convolutions of our own on the CPU: pairs against a plain search, values against spconv's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info
from torch import Tensor

from data import parallel
from data.types import Array
from models.sparse import cpu
from models.sparse import layers as sparse
from models.sparse.cpu import Rulebook, convolve, halve, submanifold_rulebook


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks of few voxels, the last of them not full, all worth a thread."""
    monkeypatch.setattr(cpu, "BLOCK_ROWS", 16)
    monkeypatch.setattr(cpu, "_SEARCHED_ROWS", 64)
    monkeypatch.setattr(cpu, "_WORTH", 1)


def some_voxels(seed: int, count: int = 150, side: int = 7) -> Array:
    """(count, 4) int32 of two scenes in no order, among them both scenes' corners."""
    random = np.random.default_rng(seed)
    places = np.array(list(product(range(2), range(side), range(side), range(side))), np.int32)
    inner = random.permutation(len(places) - 4)[: count - 4] + 1
    inner = inner[(inner != side**3 - 1) & (inner != side**3)]
    ends = [0, side**3 - 1, side**3, len(places) - 1]
    return np.ascontiguousarray(places[random.permutation(np.unique([*inner, *ends]))])


def pairs_of(book: Rulebook) -> list[tuple[int, int, int]]:
    """Every (input, output, offset) in the book, in its order."""
    return [
        (int(book.inputs[at]), int(book.outputs[at]), offset)
        for bounds in book.bounds
        for offset in range(len(bounds) - 1)
        for at in range(bounds[offset], bounds[offset + 1])
    ]


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("in_order", [True, False])
def test_pairs_are_those_that_a_plain_search_finds(kernel: int, in_order: bool) -> None:
    indices = some_voxels(kernel)
    if in_order:
        indices = np.ascontiguousarray(indices[np.lexsort(indices.T[::-1])])
    where = {tuple(voxel): row for row, voxel in enumerate(indices.tolist())}
    steps = list(product(range(-(kernel // 2), kernel // 2 + 1), repeat=3))
    wanted = {
        (where[near], row, offset)
        for (batch, x, y, z), row in where.items()
        for offset, (a, b, c) in enumerate(steps)
        if (near := (batch, x + a, y + b, z + c)) in where
    }
    found = pairs_of(submanifold_rulebook(indices, kernel))
    assert len(found) == len(set(found)) and set(found) == wanted


def test_no_output_is_in_two_blocks() -> None:
    indices = some_voxels(1)
    halved = halve(indices, (8, 8, 8))
    for book in (submanifold_rulebook(indices, 3), halved.down, halved.up):
        seen = [set(book.outputs[bounds[0] : bounds[-1]].tolist()) for bounds in book.bounds]
        assert len(seen) > 1 and sum(map(len, seen)) == len(set().union(*seen))


def test_cells_of_two_by_hand() -> None:
    indices = np.array([[0, 3, 0, 1], [0, 0, 0, 0], [0, 2, 1, 0], [1, 0, 0, 1]], np.int32)
    halved = halve(indices, (4, 2, 2))
    assert halved.indices.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]]
    # x counts 4, y 2, z 1 of the offset.
    assert sorted(pairs_of(halved.down)) == [(0, 1, 5), (1, 0, 0), (2, 1, 2), (3, 2, 1)]
    assert sorted(pairs_of(halved.up)) == [(0, 1, 0), (1, 0, 5), (1, 2, 2), (2, 3, 1)]


def test_voxels_past_an_odd_border_are_in_no_pair() -> None:
    indices = np.array([[0, 0, 0, 0], [0, 2, 0, 0]], np.int32)
    halved = halve(indices, (3, 2, 2))
    assert halved.indices.tolist() == [[0, 0, 0, 0]]
    assert pairs_of(halved.down) == [(0, 0, 0)] and pairs_of(halved.up) == [(0, 0, 0)]
    book = halved.up, halved.down
    up = convolve(torch.ones(1, 1), torch.ones(1, 2, 2, 2, 1), *book, False, 2)
    assert up.tolist() == [[1.0], [0.0]]


def outcomes(indices: Tensor, native: bool) -> list[Tensor]:
    """Output of four layers and the gradients of all that is learnt, by ours or by spconv's own."""
    torch.manual_seed(3)
    layers = [
        sparse.submanifold(7, 12, 5, "stem"),
        sparse.downsample(12, 12, "down"),
        sparse.submanifold(12, 20, 3, "level"),
        sparse.upsample(20, 8, "down"),
    ]
    features = torch.randn(len(indices), 7, requires_grad=True)
    x = sparse.sparse_tensor(features, indices, 2, 2)
    for layer in layers:
        spconv_layer = layer.layer
        spconv_layer.algo = sparse.load_spconv().ConvAlgo.Native
        x = spconv_layer(x) if native else layer(x)
    learnt = [features, *(layer.weight for layer in layers)]
    return [x.features.detach(), *torch.autograd.grad((x.features**2).sum(), learnt)]


def test_values_and_gradients_are_those_of_spconv() -> None:
    indices = torch.from_numpy(some_voxels(4))
    for own, theirs in zip(outcomes(indices, False), outcomes(indices, True), strict=True):
        assert torch.allclose(own, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    indices, found = torch.from_numpy(some_voxels(5, 500, 10)), []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        found.append(outcomes(indices, False))
    for again in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], again, strict=True))


def test_only_what_is_asked_for_has_a_gradient() -> None:
    book = submanifold_rulebook(some_voxels(6), 3)
    rows = len(some_voxels(6))
    fixed, learnt = torch.randn(rows, 2), torch.randn(3, 3, 3, 3, 2, requires_grad=True)
    (found,) = torch.autograd.grad(convolve(fixed, learnt, book, book, True, rows).sum(), learnt)
    assert found.shape == learnt.shape and found.abs().sum() > 0
    moving, kernel = fixed.clone().requires_grad_(), learnt.detach()
    (found,) = torch.autograd.grad(convolve(moving, kernel, book, book, True, rows).sum(), moving)
    assert found.shape == moving.shape and found.abs().sum() > 0


def test_other_types_are_refused() -> None:
    book = submanifold_rulebook(some_voxels(6), 3)
    rows = len(some_voxels(6))
    features, kernel = torch.randn(rows, 2), torch.randn(3, 3, 3, 3, 2)
    for wrong in ((features.double(), kernel), (features, kernel.bfloat16())):
        with pytest.raises(ValueError, match="must be float32"):
            convolve(*wrong, book, book, True, rows)


def test_convolutions_of_several_threads_leave_the_number_of_threads_as_it_was() -> None:
    indices = some_voxels(5, 500, 10)
    book = submanifold_rulebook(indices, 3)
    features, kernel = torch.randn(len(indices), 8), torch.randn(8, 3, 3, 3, 8)

    def convolved(_: int) -> Tensor:
        return convolve(features, kernel, book, book, True, len(indices))

    alone, before = convolved(0), [library["num_threads"] for library in threadpool_info()]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(alone, found) for found in pool.map(convolved, range(40)))
    assert [library["num_threads"] for library in threadpool_info()] == before


def test_an_error_inside_kept_memory_comes_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for system in ("linux", "darwin"):
        monkeypatch.setattr("sys.platform", system)
        with pytest.raises(KeyError, match="mine"), parallel.kept_memory():
            (tmp_path / system).touch()
            raise KeyError("mine")
        assert (tmp_path / system).exists()
