"""Sparse convolutions against dense ones, and what the room of spconv refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.sparse import layers as sparse

SHAPE = (2, 8, 10, 6)


def random_voxels(seed: int, share: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(SHAPE, generator=generator) < share
    active[1, -1, -1, -1] = True  # The grid's far corner fixes its size.
    return torch.nonzero(active).int().contiguous()


def random_features(indices: Tensor, channels: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(indices), channels, generator=generator)


def to_dense(features: Tensor, indices: Tensor) -> Tensor:
    """(B, C, X, Y, Z), zero where there is no voxel."""
    dense = features.new_zeros(*SHAPE, features.shape[1])
    dense = dense.index_put(tuple(indices.long().T), features)
    return dense.permute(0, 4, 1, 2, 3)


def at(dense: Tensor, indices: Tensor) -> Tensor:
    return dense.permute(0, 2, 3, 4, 1)[tuple(indices.long().T)]


def gradients(output: Tensor, probe: Tensor, *inputs: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((output * probe).sum(), inputs))


def assert_same(
    sparse_outputs: list[Tensor], dense_outputs: list[Tensor], tolerance: float = 1e-4
) -> None:
    for a, b in zip(sparse_outputs, dense_outputs, strict=True):
        assert torch.allclose(a, b, atol=tolerance, rtol=1e-4), (a - b).abs().max()


@pytest.mark.parametrize("kernel", [3, 5])
def test_submanifold_equals_masked_dense(kernel: int) -> None:
    indices = random_voxels(0)
    x = random_features(indices, 5, 1).requires_grad_()
    conv = sparse.submanifold(5, 7, kernel, "a")
    y = conv(sparse.sparse_tensor(x, indices, 2))
    assert torch.equal(y.indices, indices)
    weight = conv.weight.permute(0, 4, 1, 2, 3)
    dense = at(F.conv3d(to_dense(x, indices), weight, padding=kernel // 2), indices)
    probe = random_features(indices, 7, 2)
    assert_same(
        [y.features, *gradients(y.features, probe, x, conv.weight)],
        [dense, *gradients(dense, probe, x, conv.weight)],
    )


def test_strided_equals_dense() -> None:
    indices = random_voxels(3, 0.05)
    x = random_features(indices, 4, 4).requires_grad_()
    conv = sparse.downsample(4, 6, "d")
    y = conv(sparse.sparse_tensor(x, indices, 2))
    coarse = torch.unique(torch.cat([indices[:, :1], indices[:, 1:] // 2], 1), dim=0)
    assert torch.equal(torch.unique(y.indices, dim=0), coarse) and len(y.indices) == len(coarse)
    dense = at(
        F.conv3d(to_dense(x, indices), conv.weight.permute(0, 4, 1, 2, 3), stride=2), y.indices
    )
    probe = random_features(y.indices, 6, 5)
    assert_same(
        [y.features, *gradients(y.features, probe, x, conv.weight)],
        [dense, *gradients(dense, probe, x, conv.weight)],
    )


def test_inverse_equals_dense_transposed() -> None:
    indices = random_voxels(6, 0.1)
    x = random_features(indices, 3, 7)
    down, up = sparse.downsample(3, 4, "d"), sparse.upsample(4, 5, "d")
    middle = down(sparse.sparse_tensor(x, indices, 2))
    features = middle.features.detach().requires_grad_()
    y = up(middle.replace_feature(features))
    assert torch.equal(y.indices, indices)
    coarse = features.new_zeros(2, 4, 5, 3, 4).index_put(tuple(middle.indices.long().T), features)
    weight = up.weight.permute(4, 0, 1, 2, 3)
    dense = at(F.conv_transpose3d(coarse.permute(0, 4, 1, 2, 3), weight, stride=2), indices)
    probe = random_features(indices, 5, 8)
    assert_same(
        [y.features, *gradients(y.features, probe, features, up.weight)],
        [dense, *gradients(dense, probe, features, up.weight)],
    )


def small_network() -> Callable[[Any], Any]:
    torch.manual_seed(0)
    layers = [
        sparse.submanifold(4, 8, 3, "a"),
        sparse.downsample(8, 8, "d"),
        sparse.submanifold(8, 8, 3, "b"),
        sparse.upsample(8, 6, "d"),
    ]

    def forward(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return forward


def test_order_of_voxels_does_not_matter() -> None:
    network, indices = small_network(), random_voxels(9)
    x = random_features(indices, 4, 10)
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    plain = network(sparse.sparse_tensor(x, indices, 2)).features
    shuffled = network(sparse.sparse_tensor(x[order], indices[order].contiguous(), 2)).features
    assert torch.allclose(plain[order], shuffled, atol=1e-5)


def test_same_bits_on_every_run_and_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    indices = torch.nonzero(torch.rand(2, 40, 40, 20) < 0.3).int().contiguous()
    first, down = sparse.submanifold(16, 32, 3, "a"), sparse.downsample(32, 32, "d")
    up = sparse.upsample(32, 16, "d")
    threads, outputs = torch.get_num_threads(), []
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            monkeypatch.setenv("OMP_NUM_THREADS", str(2 * count - 1))
            x = random_features(indices, 16, 12).requires_grad_()
            y = up(down(first(sparse.sparse_tensor(x, indices, 2, 2)))).features
            wanted = (x, first.weight, down.weight, up.weight)
            outputs.append([y.detach(), *torch.autograd.grad((y**2).sum(), wanted)])
    finally:
        torch.set_num_threads(threads)
    for again in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(outputs[0], again, strict=True))


def test_odd_grid_loses_no_voxel_when_rounded_up() -> None:
    indices = torch.tensor([[0, 0, 0, 0], [0, 4, 4, 4]], dtype=torch.int32)
    x = torch.ones(2, 1)
    for multiple, kept in ((1, 1), (2, 2)):
        down = sparse.downsample(1, 1, "d")
        assert len(down(sparse.sparse_tensor(x, indices, 1, multiple)).indices) == kept


def test_bad_indices_are_refused() -> None:
    good = torch.tensor([[0, 0, 1, 2], [0, 3, 1, 0]], dtype=torch.int32)
    x = torch.ones(2, 1)
    assert not good.T.contiguous().T.is_contiguous()
    for indices, word in (
        (good.T.contiguous().T, "contiguous"),
        (good.long(), "int32"),
        (good[:, :3].contiguous(), r"\(M, 4\)"),
        (good[:1], "features"),
        (good[[1, 1]], "twice"),
        (good - 1, "negative"),
        (good + 1, "below 1"),
    ):
        with pytest.raises(ValueError, match=word):
            sparse.sparse_tensor(x, indices, 1)
    with pytest.raises(ValueError, match="at least one"):
        sparse.sparse_tensor(x[:0], good[:0], 1)


def test_unsorted_indices_without_duplicates_are_fine() -> None:
    indices = torch.tensor([[0, 3, 1, 0], [0, 0, 1, 2]], dtype=torch.int32)
    assert len(sparse.sparse_tensor(torch.ones(2, 1), indices, 1).indices) == 2


def test_wrong_wheels_are_refused() -> None:
    sparse.check_wheels(["torch", "spconv-cu118"])
    sparse.check_wheels(["spconv_cu126"])
    with pytest.raises(ImportError, match="CPU-only"):
        sparse.check_wheels(["spconv", "torch"])
    with pytest.raises(ImportError, match="CPU-only"):
        sparse.check_wheels(["spconv-cu118", "spconv"])
    with pytest.raises(ImportError, match="not installed"):
        sparse.check_wheels(["torch"])
