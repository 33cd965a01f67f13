"""Muon in float32 agrees with PyTorch's own, which rounds to bfloat16."""

from __future__ import annotations

import pytest
import torch

from stages.nano.muon import Muon, orthogonalised

SHAPES = ((6, 10), (10, 6), (6, 10), (8, 8))


def test_steps_are_those_of_pytorch_up_to_its_rounding() -> None:
    drawn = torch.Generator().manual_seed(1)
    start = [torch.randn(shape, generator=drawn) for shape in SHAPES]
    ours, theirs = ([m.clone().requires_grad_() for m in start] for _ in range(2))
    optimizers = (
        Muon(ours, 0.02, 0.1),
        torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(4):
        gradients = [torch.randn(shape, generator=drawn) for shape in SHAPES]
        for matrices, optimizer in zip((ours, theirs), optimizers):
            for matrix, gradient in zip(matrices, gradients):
                matrix.grad = gradient.clone()
            optimizer.step()
    for mine, other, before in zip(ours, theirs, start):
        moved = float((other - before).norm())
        assert float((mine - other).norm()) < 0.02 * moved
        assert float((mine - before).norm()) > 0.5 * moved


def test_what_has_no_gradient_stays() -> None:
    still, moved = torch.ones(2, 3).requires_grad_(), torch.ones(2, 3).requires_grad_()
    moved.grad = torch.eye(2, 3)
    Muon([still, moved], 0.1, 0.1).step()
    assert torch.equal(still, torch.ones(2, 3)) and not torch.equal(moved, torch.ones(2, 3))


def test_a_closure_gives_loss_and_gradients() -> None:
    matrix = torch.ones(2, 3).requires_grad_()
    optimizer = Muon([matrix], 0.1, 0.0)

    def closure() -> torch.Tensor:
        loss = (matrix * torch.eye(2, 3)).sum()
        torch.autograd.backward(loss)
        return loss

    assert float(optimizer.step(closure)) == 2
    assert matrix[0, 0] < 1 and matrix[0, 1] == 1


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 9, 5), (1, 7, 7)])
def test_singular_vectors_stay_and_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(2)).double()
    u, values, vt = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalised(matrices) @ vt.mT
    diagonal = torch.diagonal(found, dim1=1, dim2=2)
    torch.testing.assert_close(found, torch.diag_embed(diagonal), atol=1e-9, rtol=0)
    # Values below a hundredth of the largest would not reach 1 in five rounds.
    assert values.min() > 0.02 * values.max()
    assert 0.6 < diagonal.min() and diagonal.max() < 1.3
