"""How far a share may lie from the reference's before it counts as moved.

Three things are tolerated: what nobody would act upon (materiality), that the reference is a sample, and that rows of
one day resemble each other.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array: TypeAlias = NDArray[np.float64]
Z95 = 1.6448536269514722
TINY = 1e-12


def materiality(share: ArrayLike, epsilon: float, floor: float) -> Array:
    """max(floor, 2ε√(p(1-p))): ε at the median and less towards the ends, where the same shift of a distribution moves
    fewer rows. An absolute ε would let a category of 1 % triple, and a normal's 5 % quantile move by 0.16 σ while its
    median may move by 0.05 σ. `floor` is for values that the reference has not got at all."""
    p = np.asarray(share, dtype=np.float64)
    return np.asarray(np.maximum(floor, 2.0 * epsilon * np.sqrt(p * (1.0 - p))))


def chernoff(share: ArrayLike, rows: ArrayLike, log_risk: float, upper: bool) -> Array:
    """The largest (smallest) m with n·KL(p̂‖m) <= `log_risk`: the true share lies beyond with probability at most
    exp(-log_risk) (Chernoff), for counts at fixed cells and for the order statistics that the edges are. Never wider
    than Hoeffding's √(log_risk/2n), and four times as tight at p̂ = 0.01. By bisection; broadcasts."""
    p, n = np.broadcast_arrays(np.asarray(share, np.float64), np.asarray(rows, np.float64))
    near, far = p.copy(), np.full_like(p, 1.0 if upper else 0.0)
    limit = log_risk / np.maximum(n, TINY)
    for _ in range(50):
        middle = 0.5 * (near + far)
        inside = divergence(p, middle) <= limit
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    return np.asarray(far)


def divergence(p: ArrayLike, q: ArrayLike) -> Array:
    """KL(p‖q) of two coins, infinite where q excludes what p allows."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        yes = np.where(p > 0.0, p * np.log(p / q), 0.0)
        no = np.where(p < 1.0, (1.0 - p) * np.log((1.0 - p) / (1.0 - q)), 0.0)
    return np.asarray(yes + no)


def effective(rows: ArrayLike, block: ArrayLike, icc: ArrayLike) -> Array:
    """n/(1 + (b-1)·ICC), Kish's effective size of n rows in blocks of b, whose answers have correlation ICC."""
    return np.asarray(rows / (1.0 + np.maximum(np.asarray(block) - 1.0, 0.0) * np.asarray(icc)))


def intraclass(sums: Array, rows: Array, expected: Array, spread: Array) -> Array:
    """Upper 95 % bound of the intraclass correlation of each quantity, (k,), at least 0, and 0 for what never varies.

    `sums` of the quantity over the `rows` of each day and what was `expected` of them have shape (days, k); `spread`
    is the variance of a single row, (k,). One-way random effects: with n₀ rows a day, X = Σ_d (sum - expected)²/(rows ·
    spread) is (1 + (n₀-1)·ICC)·χ² with days-1 degrees of freedom, n₀ the ANOVA mean of unequal sizes; the bound takes
    χ²'s 5 % quantile (Searle, Casella & McCulloch, "Variance Components", 1992, §3.6, with many rows a day).
    """
    days = np.maximum((rows > 0).sum(axis=0), 2)
    total = np.maximum(rows.sum(axis=0), 1.0)
    ratio = ((sums - expected) ** 2 / np.maximum(rows, 1.0)).sum(axis=0) / np.maximum(spread, TINY)
    size = (total - (rows**2).sum(axis=0) / total) / (days - 1.0)
    bound = (ratio / chi_square_quantile(-Z95, days - 1.0) - 1.0) / np.maximum(size - 1.0, TINY)
    return np.asarray(np.where((spread > TINY) & (size > 1.0), np.clip(bound, 0.0, 1.0), 0.0))


def chi_square_quantile(z: float, degrees: Any) -> Any:
    """Wilson & Hilferty's (1931) approximation of the quantile at Φ(z); within 1 % from 6 degrees at 5 %."""
    part = 2.0 / (9.0 * degrees)
    return degrees * (1.0 - part + z * np.sqrt(part)) ** 3
