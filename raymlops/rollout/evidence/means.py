"""Evidence from bounded values with a label horizon: quality scores, business metrics in [0, 1].

Z = (Y - m̂)(A/w - (1-A)/(1-w)) has mean (candidate's mean - control's mean) given the past, whatever both drift to,
because the arm A is drawn with the known share w and m̂ uses only the past (subtracting it lowers the variance).
Betting on its sign, K = Π(1 + λ(-Z - δ)) is a non-negative supermartingale if the drop is at most δ, and Π(1 + λ(Z +
δ)) if it is at least δ (Waudby-Smith & Ramdas 2024, arXiv:2010.09686). λ = c/B for a grid of c < 1 and B ≥ |Z| + δ,
known beforehand; the mixture over the grid replaces a guess of the variance. Every factor is at least 1 - c > 0.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raymlops.rollout.evidence.numerics import Array, log_mixture, uniform_log_prior

BET_FRACTIONS: Array = np.geomspace(0.03, 0.9, 10)
_LOG_PRIOR = uniform_log_prior(len(BET_FRACTIONS))
_FRACTIONS: list[float] = BET_FRACTIONS.tolist()


class MeanEvidence:
    """E-process for one metric and one candidate. `direction` -1: evidence of a drop above `delta` (rollback);
    +1: evidence of a drop below `delta` (promotion). Values must be added in the order of the predictions."""

    def __init__(self, delta: float, direction: int) -> None:
        self.delta, self.direction = delta, direction
        self._log_wealth = [0.0] * len(_FRACTIONS)
        self._n, self._sum = 0, 0.0

    def add(self, share: float, candidate: bool, value: float) -> None:
        guess = (self._sum + 0.5) / (self._n + 1.0)
        z = (value - guess) * (1.0 / share if candidate else -1.0 / (1.0 - share))
        bound = max(guess, 1.0 - guess) * max(1.0 / share, 1.0 / (1.0 - share)) + self.delta
        gain = self.direction * (z + self.delta) / bound
        self._log_wealth = [w + math.log1p(c * gain) for w, c in zip(self._log_wealth, _FRACTIONS, strict=True)]
        self._n += 1
        self._sum += value

    def log_e(self) -> float:
        return float(log_mixture(np.array(self._log_wealth), _LOG_PRIOR))

    def to_dict(self) -> dict[str, Any]:
        return {"n": self._n, "sum": self._sum, "log_wealth": self._log_wealth}

    def load(self, data: dict[str, Any]) -> None:
        self._n, self._sum, self._log_wealth = data["n"], data["sum"], data["log_wealth"]


def mean_log_e_paths(values: Array, candidate: Array, shares: Array, delta: float, direction: int) -> Array:
    """The same e-process along many label streams: `values` and `candidate` (0 or 1) of shape (N, T), `shares` of
    shape (T,). A NaN value (no label) leaves the evidence unchanged. Returns log E after each label, shape (N, T)."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    before = np.cumsum(filled, axis=1) - filled
    guess = (before + 0.5) / (np.cumsum(known, axis=1) - known + 1.0)
    z = (filled - guess) * np.where(candidate > 0, 1.0 / shares, -1.0 / (1.0 - shares))
    bound = np.maximum(guess, 1.0 - guess) * np.maximum(1.0 / shares, 1.0 / (1.0 - shares)) + delta
    gain = np.where(known, direction * (z + delta), 0.0) / bound
    wealth = [np.cumsum(np.log1p(fraction * gain), axis=1) for fraction in BET_FRACTIONS]
    return np.asarray(log_mixture(np.stack(wealth, axis=-1), _LOG_PRIOR))
