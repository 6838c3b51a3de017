"""The bets of the drift detectors: each split of the rows, on both sides of what is tolerated, at several sizes.

For n₁ of n rows that answer yes, null p <= m and alternative p₁ > m, E = (p₁/m)^n₁ ((1-p₁)/(1-m))^(n-n₁) has mean at
most 1 whatever p <= m is; the other side is its mirror image. m is the reference's share plus all that is tolerated
(`Reference.bounds`).

Rows of one day resemble each other. If a day's share is normal around p with variance ICC·p(1-p), the likelihood ratio
of the day's rows so far is that of n/(1 + (n-1)·ICC) independent ones, so the exponents are scaled by this. It is a
martingale in n: a day may be looked at while it goes on, but counts as one window whatever its traffic. This rests on
an estimated ICC and on normal day effects, so the mean time to a false alarm is then an approximation, checked by
simulation (benchmarks/monitoring.py); days that resemble their neighbours need a stratified reference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raymlops.monitoring.cells import Layout
from raymlops.monitoring.margins import Array, effective
from raymlops.monitoring.reference import Reference

STEPS: Array = np.array([0.1, 0.3, 1.0, 3.0])
"""Alternatives, in log-odds beyond the null. For a change between two of them growth is at least 3/4 of the best: who
bets on half or 3/2 of the true δ earns 2r - r² = 3/4 of it."""
CHOICES = 2 * len(STEPS)


@dataclass(frozen=True)
class SplitBets:
    """log-factors of a yes and of a no, each (strata, splits, 2, steps); 0 where the null allows everything."""

    layout: Layout
    yes: Array
    no: Array
    icc: Array

    @classmethod
    def of(cls, reference: Reference) -> SplitBets:
        low, high = reference.bounds
        # A share of at least `low` is a share of no's of at most 1 - low: the same bet with answers exchanged.
        yes, no = np.zeros((2, *low.shape, 2, len(STEPS)))
        yes[..., 0, :], no[..., 0, :] = _factors(high)
        no[..., 1, :], yes[..., 1, :] = _factors(1.0 - low)
        return cls(reference.layout, yes, no, reference.icc)

    @property
    def weights(self) -> Array:
        """(components,): the same for every feature, and within it for every bet that can be won in some stratum."""
        possible = (self.yes != 0.0).any(axis=0).reshape(-1).astype(np.float64)
        owner = np.repeat(self.layout.owner, CHOICES)
        share = np.bincount(owner, possible, minlength=len(self.layout.features))
        return np.asarray(possible / np.maximum(share, 1.0)[owner])

    def log_e(self, window: Mapping[int, NDArray[np.int64]]) -> tuple[Array, NDArray[np.bool_]]:
        """log E of a window's counts by stratum, and which components learnt something, each (components,)."""
        shape = self.yes.shape[1:]
        total, informed, rows = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape[0])
        for stratum, cells in window.items():
            answers, asked = self.layout.answers(cells)
            yes, no = self.yes[stratum], self.no[stratum]
            total += answers[:, None, None] * yes + (asked - answers)[:, None, None] * no
            informed |= (yes != 0.0) & (asked > 0)[:, None, None]
            rows += asked
        scale = effective(1.0, rows, self.icc)
        return (total * scale[:, None, None]).reshape(-1), informed.reshape(-1)


def _factors(null: Array) -> tuple[Array, Array]:
    """log(p₁/m) and log((1-p₁)/(1-m)) for p₁ the steps beyond m = `null`; 0 where m is 1."""
    m = null[..., None]
    inner = np.where(m < 1.0, m, 0.5)
    odds = inner / (1.0 - inner) * np.exp(STEPS)
    beyond = odds / (1.0 + odds)
    factors = np.log(beyond / inner), np.log((1.0 - beyond) / (1.0 - inner))
    return np.where(m < 1.0, factors[0], 0.0), np.where(m < 1.0, factors[1], 0.0)
