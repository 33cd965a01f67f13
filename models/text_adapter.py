"""Map text-encoder features to the teacher's tokens by ridge regression.

The map is fitted in closed form on pairs (feature of a sentence, token of the teacher for it),
both of unit length. The penalty with the smallest exact leave-one-out error is chosen, so the fit
is deterministic and works for few sentences with long features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
_Doubles = NDArray[np.float64]

PENALTIES = 10.0 ** (np.arange(-16, 17) / 4)
"""Candidate ridge penalties, 1e-4 to 1e4, in units of sentences of weight 1."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An affine map with ``weight`` (E, D) and ``bias`` (D,), both float32."""

    weight: FloatArray
    bias: FloatArray

    def __post_init__(self) -> None:
        """Raise ValueError unless the shapes of weight and bias agree and all values are finite."""
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[1:]:
            raise ValueError(f"weight {self.weight.shape} and bias {self.bias.shape} do not fit")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ValueError("a value of the adapter is not finite")

    def apply(self, features: NDArray[np.floating]) -> FloatArray:
        """Map ``features`` (n, E), scaled to unit length here, to unit tokens (n, D) float32.

        A zero feature gives a zero token. Raises ValueError for another length E.
        """
        if features.ndim != 2 or features.shape[1] != len(self.weight):
            raise ValueError(f"features must be (n, {len(self.weight)}), got {features.shape}")
        unit = _unit(features)
        tokens = _unit(unit @ self.weight.astype(np.float64) + self.bias)
        tokens[~unit.any(1)] = 0
        return tokens.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted adapter and its leave-one-out predictions.

    ``penalty`` is one of ``PENALTIES``; ``residual`` is true if the map was shrunk to the identity
    instead of to 0. ``left_out`` (n, D) float64 predicts each sentence's token from the other
    sentences, not scaled to unit length; ``left_out_cosine`` is the weighted mean cosine of these
    predictions with the tokens, NaN with one sentence.
    """

    adapter: Adapter
    penalty: float
    residual: bool
    left_out: _Doubles
    left_out_cosine: float


def fit_adapter(
    features: NDArray[np.floating],
    tokens: NDArray[np.floating],
    weights: NDArray[np.floating] | None = None,
) -> Fit:
    """Fit the affine map from unit features to unit tokens with the least left-out squared error.

    If both have the same length, the map may be shrunk to the identity instead of to 0; the
    left-out error decides. The bias is not shrunk.

    Args:
        features: (n, E) nonzero rows; scaled to unit length here.
        tokens: (n, D) nonzero rows; scaled to unit length here.
        weights: (n,) positive weights of the sentences, equal if None. Only ratios matter.

    Raises:
        ValueError: no sentence, a zero row, a value that is not finite, or mismatched shapes.
    """
    weigh = np.ones(len(features)) if weights is None else np.asarray(weights, np.float64)
    _check(features, tokens, weigh)
    unit, targets = _unit(features), _unit(tokens)
    weigh = weigh / weigh.mean()
    ridge = _Ridge(unit, weigh)
    same_length = unit.shape[1] == targets.shape[1]
    # The first of equal errors is chosen.
    shifts = (unit, None) if same_length else (None,)
    choices = [ridge.best(targets, shift) for shift in shifts]
    error, penalty, left_out, residual = min(choices, key=lambda choice: choice[0])
    shift = unit if residual else np.zeros_like(targets)
    weight, bias = ridge.solve(targets - shift, penalty)
    if residual:
        weight = weight + np.eye(len(weight))
    adapter = Adapter(weight.astype(np.float32), bias.astype(np.float32))
    cosines = (_unit(left_out) * targets).sum(1)
    mean = float(np.average(cosines, weights=weigh)) if np.isfinite(error) else float("nan")
    return Fit(adapter, penalty, residual, left_out, mean)


_Choice = tuple[float, float, _Doubles, bool]


class _Ridge:
    """Weighted ridge regression on fixed features, with an unpenalised bias.

    ``features`` are (n, E); ``weights`` (n,) have mean 1.
    """

    def __init__(self, features: _Doubles, weights: _Doubles) -> None:
        self._weights, self._roots = weights, np.sqrt(weights)[:, None]
        self._mean = weights @ features / weights.sum()
        centred = (features - self._mean) * self._roots
        self._left, self._singular, self._right = np.linalg.svd(centred, full_matrices=False)

    def solve(self, targets: _Doubles, penalty: float) -> tuple[_Doubles, _Doubles]:
        """Return weight (E, D) and bias (D,) for ``targets`` (n, D)."""
        mean = self._weights @ targets / self._weights.sum()
        gains = self._singular / (self._singular**2 + penalty)
        projected = self._left.T @ ((targets - mean) * self._roots)
        weight = self._right.T @ (gains[:, None] * projected)
        return weight, mean - self._mean @ weight

    def best(self, targets: _Doubles, shift: _Doubles | None) -> _Choice:
        """Choose the penalty: returns (error, penalty, left-out predictions, shifted)."""
        shifted = targets if shift is None else targets - shift
        fits = (
            (*self._left_out(shifted, float(penalty)), float(penalty))
            for penalty in PENALTIES[::-1]
        )
        # The first of equal errors, that is the largest penalty, is chosen.
        error, residuals, penalty = min(fits, key=lambda row: row[0])
        return error, penalty, targets - residuals, shift is not None

    def _left_out(self, targets: _Doubles, penalty: float) -> tuple[float, _Doubles]:
        """Return the mean squared error and residuals (n, D) of leave-one-out predictions.

        The left-out residual of row i is r_i / (1 - h_i), where h is the hat matrix's diagonal.
        """
        mean = self._weights @ targets / self._weights.sum()
        shrink = self._singular**2 / (self._singular**2 + penalty)
        roots = self._roots
        rows = (targets - mean) * roots
        fitted = self._left @ (shrink[:, None] * (self._left.T @ rows))
        leverage = self._weights / self._weights.sum() + (self._left**2) @ shrink
        if len(targets) == 1:  # No other row predicts it.
            return np.inf, targets
        residuals = (rows - fitted) / roots / (1 - leverage)[:, None]
        return float(self._weights @ (residuals**2).sum(1) / len(targets)), residuals


def _unit(rows: NDArray[np.floating]) -> _Doubles:
    """Scale rows to unit length, float64; zero rows stay 0."""
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(norms > 0, norms, 1))


def _check(features: NDArray[np.floating], tokens: NDArray[np.floating], weights: _Doubles) -> None:
    shapes = f"features {features.shape}, tokens {tokens.shape}, weights {weights.shape}"
    if features.ndim != 2 or tokens.ndim != 2 or not len(features) == len(tokens) > 0:
        raise ValueError(f"expected (n, E), (n, D) and (n,) of n > 0 sentences, got {shapes}")
    if weights.shape != (len(features),) or not (weights > 0).all():
        raise ValueError(f"weights must be (n,) and above 0, got {shapes}")
    for name, rows in (("features", features), ("tokens", tokens), ("weights", weights)):
        if not np.isfinite(rows).all():
            raise ValueError(f"{name}: a value is not finite")
    for name, rows in (("features", features), ("tokens", tokens)):
        if not rows.any(1).all():
            raise ValueError(f"{name}: a row of zeros has no direction")
