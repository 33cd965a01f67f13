"""Token-for-query: the closed form against plain numpy, and what the network may not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.student import POSE_DIM, Fused, ViewFusion, fuse_tokens


def case(queries: int = 3, views: int = 7, dim: int = 8, seed: int = 0) -> tuple[Tensor, ...]:
    """Tokens around a topic, weights with zeros among them, beliefs, poses."""
    rng = torch.Generator().manual_seed(seed)
    topic = torch.randn(queries, 1, dim, generator=rng)
    vectors = topic + 0.6 * torch.randn(queries, views, dim, generator=rng)
    weights = torch.rand(queries, views, generator=rng)
    weights[0, 2] = weights[1, :] = 0
    beliefs = torch.rand(queries, views, generator=rng)
    return vectors, weights, beliefs, torch.randn(views, POSE_DIM, generator=rng)


def network(dim: int = 8, trained: bool = False) -> ViewFusion:
    torch.manual_seed(1)
    made = ViewFusion(dim, width=16, layers=2)
    if trained:
        torch.nn.init.normal_(made.leave.weight, 0, 0.5)
    return made


def test_the_closed_form_is_a_weighted_mean_direction() -> None:
    vectors, weights, _, _ = case()
    fused = fuse_tokens(vectors, weights)
    for query in (0, 2):
        tokens = vectors[query].double().numpy()
        share = weights[query].double().numpy() / weights[query].double().numpy().sum()
        mean = share @ (tokens / np.linalg.norm(tokens, axis=1, keepdims=True))
        np.testing.assert_allclose(fused.weights[query], share, atol=1e-6)
        np.testing.assert_allclose(fused.tokens[query], mean / np.linalg.norm(mean), atol=1e-6)
    assert not fused.tokens[1].any() and not fused.weights[1].any()


def test_the_closed_form_by_hand_ignores_lengths() -> None:
    vectors = torch.tensor([[[5.0, 0.0], [0.0, 0.1], [3.0, 3.0]]])
    fused = fuse_tokens(vectors, torch.tensor([[1.5, 2.0, 0.0]]))
    torch.testing.assert_close(fused.weights, torch.tensor([[3 / 7, 4 / 7, 0]]))
    torch.testing.assert_close(fused.tokens, torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("mode", [True, False])
def test_a_new_network_is_the_closed_form(mode: bool) -> None:
    given = case()
    fused = network().train(mode)(*given)
    closed = fuse_tokens(*given[:2])
    assert torch.equal(fused.tokens, closed.tokens) and torch.equal(fused.weights, closed.weights)


def same(one: Fused, two: Fused, order: list[int]) -> None:
    torch.testing.assert_close(one.tokens, two.tokens, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.weights[:, order], two.weights, atol=1e-5, rtol=0)


def test_the_order_of_views_and_queries_changes_nothing() -> None:
    vectors, weights, beliefs, poses = case()
    fusion, order = network(trained=True), [3, 0, 6, 1, 5, 2, 4]
    plain = fusion(vectors, weights, beliefs, poses)
    assert not torch.allclose(plain.tokens, fuse_tokens(vectors, weights).tokens, atol=1e-3)
    mixed = fusion(vectors[:, order], weights[:, order], beliefs[:, order], poses[order])
    same(plain, mixed, order)
    rows = fusion(vectors[[2, 0, 1]], weights[[2, 0, 1]], beliefs[[2, 0, 1]], poses)
    torch.testing.assert_close(rows.tokens, plain.tokens[[2, 0, 1]], atol=1e-5, rtol=0)


def test_a_view_without_weight_changes_nothing() -> None:
    vectors, weights, beliefs, poses = case()
    fusion = network(trained=True)
    before = fusion(vectors, weights, beliefs, poses)
    for fill in (0.0, 0.7):  # Drew nothing, or was dropped by fusion.
        more = torch.cat([vectors, torch.full_like(vectors[:, :1], fill)], dim=1)
        none = torch.cat([weights, torch.zeros(3, 1)], dim=1)
        belief = torch.cat([beliefs, torch.full((3, 1), fill)], dim=1)
        after = fusion(more, none, belief, torch.cat([poses, torch.ones(1, POSE_DIM)]))
        torch.testing.assert_close(after.tokens, before.tokens, atol=1e-5, rtol=0)
        torch.testing.assert_close(after.weights[:, :-1], before.weights, atol=1e-5, rtol=0)
        assert not after.weights[:, -1].any()


def test_a_query_without_views_has_no_token_and_breaks_no_gradient() -> None:
    vectors, weights, beliefs, poses = case()
    fusion = network(trained=True)
    fused = fusion(vectors, weights, beliefs, poses)
    assert not fused.tokens[1].any() and not fused.weights[1].any()
    fused.tokens.sum().backward()
    gradients = [p.grad for p in fusion.parameters() if p.grad is not None]
    assert len(gradients) == len(list(fusion.parameters()))
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    nothing = fusion(vectors, torch.zeros_like(weights), beliefs, poses)
    assert not nothing.tokens.any() and not nothing.weights.any()
    empty = fusion(vectors[:, :0], weights[:, :0], beliefs[:, :0], poses[:0])
    assert empty.tokens.shape == (3, 8) and not empty.tokens.any()
    assert fusion(vectors[:0], weights[:0], beliefs[:0], poses).tokens.shape == (0, 8)


def test_gradients_equal_finite_differences() -> None:
    vectors, weights, beliefs, poses = (t.double() for t in case(2, 3, 4))
    fusion = network(4, trained=True).double()
    inputs = vectors.requires_grad_(), beliefs.requires_grad_(), poses.requires_grad_()

    def tokens(vectors: Tensor, beliefs: Tensor, poses: Tensor) -> Tensor:
        fused: Fused = fusion(vectors, weights, beliefs, poses)
        return fused.tokens

    assert torch.autograd.gradcheck(tokens, inputs)


def test_factors_are_bounded_and_gradients_finite() -> None:
    given = case()
    fusion = network(trained=True)
    with torch.no_grad():
        fusion.leave.weight.mul_(1e4)
        fusion.leave.bias.fill_(1e3)
    fused = fusion(*given)
    fused.tokens.sum().backward()
    torch.testing.assert_close(fused.weights.sum(1), torch.tensor([1.0, 0.0, 1.0]))
    assert bool((fused.weights[given[1] > 0] > 0).all())  # No view is silenced.
    assert all(
        bool(torch.isfinite(p.grad).all()) for p in fusion.parameters() if p.grad is not None
    )


def test_what_is_learnt_moves_the_token_towards_a_view() -> None:
    views = torch.eye(4, 8)[None]  # At right angles: the token nears a view as its weight grows.
    beliefs, poses = case(views=4)[2:]
    given = views, torch.full((1, 4), 0.25), beliefs[:1], poses
    fusion = network()
    optimizer = torch.optim.Adam(fusion.parameters(), lr=0.01)
    reached = []
    for _ in range(20):
        loss = 1 - fusion(*given).tokens[0] @ views[0, 2]
        reached.append(1 - loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert reached[0] == pytest.approx(0.5)  # The mean of four unit vectors at right angles.
    assert reached[1] > 0.5 and reached[-1] > 0.6  # Already the first step helps.
    end = fusion(*given).weights[0].detach()
    assert end[2] > 0.26 and float(end.sum()) == pytest.approx(1, abs=1e-5)
