"""Confidence sequences, for display: intervals that hold at all times at once, so that people may look whenever they
like.

No decision reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from raymlops.rollout.evidence.numerics import Array, log_mixture, tilted_share, uniform_log_prior

_RATIO_GRID: Array = np.geomspace(1.0 / 100.0, 100.0, 2401)


def ratio_interval(counts: Mapping[float, tuple[int, int]], alpha: float = 0.05) -> tuple[float, float]:
    """Confidence sequence for the ratio of the candidate's event rate to control's.

    `counts` maps a share to (control, candidate) first events, each key once. All ratios whose likelihood is more than
    α times that of the mixture over ratios from 1/100 to 100 (uniform in the logarithm): the method of mixtures
    (Robbins 1970; Lindon & Malek, arXiv:2011.03567). (0, inf) bounds mean that an end lies outside the grid.
    """
    log_likelihood = np.zeros_like(_RATIO_GRID)
    for share in sorted(counts):
        control, candidate = counts[share]
        q = tilted_share(_RATIO_GRID, share)
        log_likelihood = log_likelihood + candidate * np.log(q) + control * np.log1p(-q)
    mixture = log_mixture(log_likelihood, uniform_log_prior(len(_RATIO_GRID)))
    inside = np.flatnonzero(mixture - log_likelihood < np.log(1.0 / alpha))
    low, high = int(inside[0]), int(inside[-1])
    return (
        0.0 if low == 0 else float(_RATIO_GRID[low - 1]),
        float("inf") if high == len(_RATIO_GRID) - 1 else float(_RATIO_GRID[high + 1]),
    )


class MeanInterval:
    """Predictable plug-in empirical-Bernstein confidence sequence for the mean of values in [0, 1].

    Theorem 2 of Waudby-Smith & Ramdas (2024, arXiv:2010.09686), with their λ_t = min(√(2 log(2/α)/(σ̂²_{t-1} t
    log(1+t))), c) and c = 1/2. Constant state. It covers a constant mean; under drift, the λ-weighted average of the
    means so far.
    """

    def __init__(self, alpha: float = 0.05, truncation: float = 0.5) -> None:
        self.alpha, self.truncation = alpha, truncation
        self.n, self._sum, self._squares = 0, 0.0, 0.0
        self._lambda_sum = self._weighted = self._penalty = 0.0
        self._variance = 0.25
        self._low, self._high = 0.0, 1.0

    def add(self, values: Iterable[float]) -> None:
        for value in values:
            previous_mean = (0.5 + self._sum) / (self.n + 1.0)
            t = self.n + 1
            rate = math.sqrt(2.0 * math.log(2.0 / self.alpha) / (self._variance * t * math.log1p(t)))
            lam = min(rate, self.truncation)
            self._lambda_sum += lam
            self._weighted += lam * value
            self._penalty += (value - previous_mean) ** 2 * (-math.log1p(-lam) - lam)
            self.n, self._sum = t, self._sum + value
            mean = (0.5 + self._sum) / (t + 1.0)
            self._squares += (value - mean) ** 2
            self._variance = (0.25 + self._squares) / (t + 1.0)
            centre = self._weighted / self._lambda_sum
            width = (math.log(2.0 / self.alpha) + self._penalty) / self._lambda_sum
            self._low = max(self._low, centre - width)
            self._high = min(self._high, centre + width)

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high): the intersection of the intervals so far, itself valid at all times."""
        return self._low, self._high

    def to_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _STATE}

    def load(self, data: Mapping[str, float]) -> None:
        for name in _STATE:
            setattr(self, name, data[name])


_STATE = ("n", "_sum", "_squares", "_lambda_sum", "_weighted", "_penalty", "_variance", "_low", "_high")
