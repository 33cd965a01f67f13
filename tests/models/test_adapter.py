"""The ridge regression: by hand, and its left-out error against explicit refits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.text_adapter import PENALTIES, Adapter, fit_adapter

Doubles = NDArray[np.float64]


def _unit(rows: Doubles) -> Doubles:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _pairs(n: int, e: int, d: int, noise: float = 0.3) -> tuple[Doubles, Doubles, Doubles]:
    rng = np.random.default_rng([n, e, d])
    features = rng.normal(size=(n, e))
    tokens = features @ rng.normal(size=(e, d)) / e**0.5 + noise * rng.normal(size=(n, d)) + 0.5
    return features, tokens, rng.uniform(0.2, 3, n)


def _ridge(x: Doubles, y: Doubles, w: Doubles, penalty: float) -> tuple[Doubles, Doubles]:
    """Normal equations of the bordered system, the bias column not shrunk."""
    bordered = np.hstack([x, np.ones((len(x), 1))])
    shrink = penalty * np.eye(bordered.shape[1])
    shrink[-1, -1] = 0
    solved = np.linalg.solve(bordered.T @ (w[:, None] * bordered) + shrink, bordered.T * w @ y)
    return np.asarray(solved[:-1], np.float64), np.asarray(solved[-1], np.float64)


def test_two_sentences_by_hand() -> None:
    # Features (1, 0) and (0, 1), tokens 1 and -1 in one dimension. Centred: +-(1/2, -1/2), of
    # singular value 1, and +-1; so weight = 1 / (1 + penalty) * (1, -1) and no bias. Left out,
    # each is predicted to be the other: the error does not depend on the penalty, and of equal
    # errors the largest penalty is kept.
    fit = fit_adapter(np.eye(2), np.array([[1.0], [-1.0]]))
    gain = 1 / (1 + fit.penalty)
    np.testing.assert_allclose(fit.adapter.weight, [[gain], [-gain]], rtol=1e-6)
    np.testing.assert_allclose(fit.adapter.bias, [0], atol=1e-12)
    np.testing.assert_allclose(fit.left_out, [[-1], [1]], rtol=1e-9)
    assert fit.left_out_cosine == pytest.approx(-1)
    assert not fit.residual


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "e", "d"), [(12, 4, 3), (7, 20, 5), (9, 6, 6), (30, 5, 5)])
def test_left_out_predictions_are_those_of_explicit_refits(
    n: int, e: int, d: int, weighted: bool
) -> None:
    features, tokens, given = _pairs(n, e, d)
    fit = fit_adapter(features, tokens, given if weighted else None)
    weights = given / given.mean() if weighted else np.ones(n)
    x, y = _unit(features), _unit(tokens)
    errors = {}
    for shift in (x, None) if e == d else (None,):
        base = np.zeros_like(y) if shift is None else shift
        for penalty in PENALTIES:
            left_out = np.empty_like(y)
            for i in range(n):
                rest = np.arange(n) != i
                weight, bias = _ridge(x[rest], (y - base)[rest], weights[rest], penalty)
                left_out[i] = base[i] + x[i] @ weight + bias
            error = float(weights @ ((left_out - y) ** 2).sum(1) / n)
            errors[float(penalty), shift is not None] = error, left_out
    best = min(errors, key=lambda key: errors[key][0])
    assert (fit.penalty, fit.residual) == best
    np.testing.assert_allclose(fit.left_out, errors[best][1], atol=1e-7)
    cosines = (_unit(errors[best][1]) * y).sum(1)
    assert fit.left_out_cosine == pytest.approx(np.average(cosines, weights=weights), abs=1e-7)
    base = x if best[1] else np.zeros_like(y)
    weight, bias = _ridge(x, y - base, weights, best[0])
    wanted = weight + np.eye(e) if best[1] else weight
    np.testing.assert_allclose(fit.adapter.weight, wanted, atol=1e-5)
    np.testing.assert_allclose(fit.adapter.bias, bias, atol=1e-5)
    np.testing.assert_allclose(
        fit.adapter.apply(3 * features), _unit(base + x @ weight + bias), atol=1e-5
    )


def test_the_fit_minimises_the_penalised_error() -> None:
    features, tokens, weights = _pairs(10, 3, 2)
    fit = fit_adapter(features, tokens, weights)
    x, y, w = _unit(features), _unit(tokens), weights / weights.mean()

    def loss(flat: Doubles) -> float:
        weight, bias = flat[:6].reshape(3, 2), flat[6:]
        return float(w @ ((x @ weight + bias - y) ** 2).sum(1) + fit.penalty * (weight**2).sum())

    found = minimize(loss, np.zeros(8), tol=1e-12).x
    np.testing.assert_allclose(fit.adapter.weight, found[:6].reshape(3, 2), atol=1e-4)
    np.testing.assert_allclose(fit.adapter.bias, found[6:], atol=1e-4)


def test_features_that_are_the_tokens_are_kept() -> None:
    tokens = np.random.default_rng(0).normal(size=(15, 12))
    fit = fit_adapter(2 * tokens, tokens)
    assert fit.residual
    assert fit.left_out_cosine > 0.999
    new = np.random.default_rng(1).normal(size=(5, 12))
    np.testing.assert_allclose(fit.adapter.apply(new), _unit(new), atol=1e-5)


def test_features_of_the_same_length_that_are_others_are_not_shrunk_to_the_identity() -> None:
    features = np.random.default_rng(0).normal(size=(200, 8))
    fit = fit_adapter(features, -features)
    assert not fit.residual
    assert fit.left_out_cosine > 0.999


def test_more_noise_wants_more_shrinking() -> None:
    penalties = [fit_adapter(*_pairs(25, 10, 4, noise)[:2]).penalty for noise in (0.01, 0.3, 3)]
    assert penalties[0] < penalties[1] < penalties[2]


def test_weights_count_sentences() -> None:
    # A sentence of weight 2 is one that was said twice, whatever the unit of the weights.
    features, tokens, _ = _pairs(8, 3, 3)
    weights = np.array([1, 2, 1, 1, 2, 1, 1, 1.0])
    one, other = (fit_adapter(features, tokens, w) for w in (weights, 7 * weights))
    np.testing.assert_allclose(one.adapter.weight, other.adapter.weight, atol=1e-12)
    x, y, w = _unit(features), _unit(tokens), weights / weights.mean()
    base = x if one.residual else np.zeros_like(y)
    twice = np.repeat(np.arange(8), weights.astype(int))
    weight, bias = _ridge(
        x[twice], (y - base)[twice], np.full(len(twice), 1 / weights.mean()), one.penalty
    )
    wanted = weight + np.eye(3) if one.residual else weight
    np.testing.assert_allclose(one.adapter.weight, wanted, atol=1e-5)
    np.testing.assert_allclose(one.adapter.bias, bias, atol=1e-5)
    assert w.sum() == 8


def test_one_sentence_and_equal_sentences() -> None:
    token = np.array([[0.0, 3.0]])
    fit = fit_adapter(np.ones((1, 3)), token)
    assert np.isnan(fit.left_out_cosine)
    np.testing.assert_allclose(fit.adapter.apply(np.eye(3)), [[0, 1]] * 3, atol=1e-6)
    # With features of the tokens' length, a new sentence keeps what is its own.
    own = fit_adapter(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(own.adapter.apply(np.eye(2)), np.eye(2), atol=1e-6)
    same = fit_adapter(np.ones((4, 3)), np.eye(2)[[0, 0, 0, 1]])
    assert not same.adapter.weight.any()
    assert np.isfinite(same.left_out).all()


def test_same_bits_twice_and_unit_length() -> None:
    features, tokens, weights = _pairs(20, 40, 7)
    one, other = (fit_adapter(features, tokens, weights) for _ in range(2))
    assert np.array_equal(one.adapter.weight, other.adapter.weight)
    found = one.adapter.apply(np.vstack([features, np.zeros(40)]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found[:-1], axis=1), 1, atol=1e-6)
    assert not found[-1].any()
    assert one.adapter.apply(np.zeros((0, 40))).shape == (0, 7)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((np.zeros((0, 3)), np.zeros((0, 2))), "n > 0"),
        ((np.ones((2, 3)), np.ones((3, 2))), "n > 0"),
        ((np.ones(3), np.ones((3, 2))), "n > 0"),
        ((np.ones((2, 3)), np.ones((2, 2)), np.ones(3)), "weights"),
        ((np.ones((2, 3)), np.ones((2, 2)), np.array([1.0, 0])), "weights"),
        ((np.ones((2, 3)), np.array([[1.0, 0], [0, 0]])), "tokens: a row of zeros"),
        ((np.full((2, 3), np.nan), np.ones((2, 2))), "features: a value is not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(given: tuple[Any, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fit_adapter(*given)


def test_features_of_another_length_are_refused() -> None:
    adapter = Adapter(np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"\(n, 3\)"):
        adapter.apply(np.ones((1, 2)))
    with pytest.raises(ValueError, match="do not fit"):
        Adapter(np.ones((3, 2), np.float32), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="finite"):
        Adapter(np.full((3, 2), np.inf, np.float32), np.zeros(2, np.float32))
