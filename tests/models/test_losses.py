"""Losses: gradients against finite differences, hand-computed values, and laws."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from models import student

Q, S, T = 3, 8, 4


def draw(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


TARGETS = draw(0, Q, S).sigmoid()
WEIGHTS = draw(1, Q, S).abs() * (draw(2, Q, S) > -0.5)
PAIRS = torch.tensor([[0, 1], [1, 4], [2, 7], [3, 5]])
AFFINITY = torch.tensor([0.9, 0.0, 0.4, 0.7]).double()
HARD = (draw(3, Q, S) > 0).double()
TOKENS = draw(4, Q, T)
WANTED = student.claimed_tokens(TARGETS, WEIGHTS, TOKENS)

OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "bce": lambda x: student.weighted_bce(x, TARGETS, WEIGHTS, 3.0),
    "dice": lambda x: student.dice(x, TARGETS, WEIGHTS),
    "neighbours": lambda x: student.neighbour_pull(x, PAIRS, AFFINITY),
    "absent": lambda x: student.absent(x, WEIGHTS[0]),
}


@pytest.mark.parametrize("name", OF_LOGITS)
def test_gradients_equal_finite_differences(name: str) -> None:
    x = draw(5, Q, S).requires_grad_()
    assert torch.autograd.gradcheck(OF_LOGITS[name], (x,))


def test_gradient_of_feature_cosine() -> None:
    x = draw(6, S, T).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: student.feature_cosine(x, WANTED), (x,))


@pytest.mark.parametrize("name", OF_LOGITS)
def test_order_of_superpoints_and_queries_does_not_matter(name: str) -> None:
    x, columns, rows = draw(5, Q, S), torch.randperm(S), torch.randperm(Q)
    mixed = {
        "bce": lambda: student.weighted_bce(
            x[rows][:, columns], TARGETS[rows][:, columns], WEIGHTS[rows][:, columns], 3.0
        ),
        "dice": lambda: student.dice(
            x[rows][:, columns], TARGETS[rows][:, columns], WEIGHTS[rows][:, columns]
        ),
        "neighbours": lambda: student.neighbour_pull(
            x[rows][:, columns], columns.argsort()[PAIRS], AFFINITY
        ),
        "absent": lambda: student.absent(x[rows][:, columns], WEIGHTS[0, columns]),
    }
    assert torch.allclose(mixed[name](), OF_LOGITS[name](x))


def test_perfect_predictions_cost_nothing() -> None:
    sure = (2 * HARD - 1) * 40
    assert student.weighted_bce(sure, HARD, WEIGHTS, 3.0) < 1e-6
    assert student.dice(sure, HARD, WEIGHTS) < 1e-6
    assert student.dice(TARGETS.logit(), TARGETS, WEIGHTS) < 1e-6
    assert student.weighted_bce(TARGETS.logit(), TARGETS, WEIGHTS, 1.0).abs() < 1e-9
    assert student.absent(torch.full((Q, S), -40.0), torch.ones(S)) < 1e-6
    assert student.feature_cosine(3 * WANTED, WANTED) < 1e-9
    alike = torch.tensor([0.5, 0.5, -1.0, 2.0, 9.0, 2.0, 0.0, -1.0]).double().expand(Q, S)
    assert student.neighbour_pull(alike, PAIRS, AFFINITY).item() == 0


def test_perfect_bce_is_the_least_under_a_positive_weight() -> None:
    best = (3 * TARGETS / (1 - TARGETS)).log()
    assert student.weighted_bce(best, TARGETS, WEIGHTS, 3.0).abs() < 1e-9
    assert student.weighted_bce(best + 0.1, TARGETS, WEIGHTS, 3.0) > 1e-4


def test_hand_computed_values() -> None:
    x, ones = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    target = torch.tensor([[1.0, 0.0]]).double()
    log2 = torch.log(torch.tensor(2.0)).item()
    assert student.weighted_bce(x, target, ones, 3.0).item() == pytest.approx(2 * log2)
    assert student.dice(x, target, ones).item() == pytest.approx(1 - 1 / 1.5, abs=1e-5)
    assert student.absent(x, ones[0]).item() == pytest.approx(log2)
    cosine = student.feature_cosine(
        torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    )
    assert cosine.item() == pytest.approx(1.0)


def test_neighbour_pull_by_hand() -> None:
    probs = torch.tensor([[0.2, 0.6, 0.9], [0.5, 0.5, 0.1]]).double()
    pairs, affinity = torch.tensor([[0, 1], [1, 2]]), torch.tensor([0.5, 1.0]).double()
    # (0.4^2 * 0.5 + 0.3^2) / 1.5 of the first query, 0.4^2 / 1.5 of the second.
    expected = (0.17 / 1.5 + 0.16 / 1.5) / 2
    assert student.neighbour_pull(probs.logit(), pairs, affinity).item() == pytest.approx(expected)
    swapped = student.neighbour_pull(probs.logit(), pairs.flip(1), 7 * affinity)
    assert swapped.item() == pytest.approx(expected)


def test_unknown_superpoints_do_not_count() -> None:
    x = draw(5, Q, S)
    changed = torch.where(WEIGHTS > 0, x, x + 5)
    for name in ("bce", "dice"):
        assert torch.equal(OF_LOGITS[name](x), OF_LOGITS[name](changed))


def test_nothing_known_costs_nothing() -> None:
    x = draw(5, Q, S).requires_grad_()
    nothing = torch.zeros_like(WEIGHTS)
    for loss in (
        student.weighted_bce(x, TARGETS, nothing, 3.0),
        student.dice(x, TARGETS, nothing),
        student.dice(x, torch.zeros_like(TARGETS), WEIGHTS),
        student.absent(x, nothing[0]),
        student.absent(x[:0], WEIGHTS[0]),
        student.neighbour_pull(x, PAIRS[:0], AFFINITY[:0]),
        student.neighbour_pull(x, PAIRS, 0 * AFFINITY),
        student.neighbour_pull(x[:0], PAIRS, AFFINITY),
    ):
        assert loss.item() == 0
        assert not torch.autograd.grad(loss, x)[0].any()
    assert student.feature_cosine(draw(6, S, T), torch.zeros(S, T).double()).item() == 0


def test_claimed_tokens() -> None:
    tokens = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    targets = torch.tensor([[1.0, 1.0, 0.4, 1.0], [0.0, 0.8, 0.1, 1.0]])
    weights = torch.tensor([[0.5, 0.8, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]])
    wanted = student.claimed_tokens(targets, weights, tokens)
    half = 0.5**0.5
    expected = torch.tensor([[1.0, 0.0], [half, half], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(wanted, expected)
