"""Distances that people ask for, from the counts of the monitor. They are shown and trigger nothing.

None of them knows how large it would be without drift: the population stability index grows with the number of cells
and falls with the number of rows, the Kolmogorov–Smirnov p-value rejects immaterial changes in large windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from raymlops.monitoring.cells import Cells, NumericCells
from raymlops.monitoring.margins import Array

HALF = 0.5
"""Added to the counts of a cell that one side has not got: the index is infinite otherwise."""


def population_stability(before: ArrayLike, after: ArrayLike) -> float:
    """Σ (q - p) ln(q/p) over the cells, from counts (cells,)."""
    counts = [np.asarray(side, np.float64) for side in (before, after)]
    empty = (counts[0] == 0.0) ^ (counts[1] == 0.0)
    used = (counts[0] > 0.0) | (counts[1] > 0.0)
    p, q = (_shares((side + HALF * empty)[used]) for side in counts)
    return float(((q - p) * np.log(q / p)).sum())


def kolmogorov_smirnov(before: ArrayLike, after: ArrayLike) -> float:
    """Largest difference of the distribution functions at the cells' edges: a lower bound of the statistic."""
    p, q = (np.cumsum(_shares(np.asarray(side, np.float64))) for side in (before, after))
    return float(np.abs(p - q).max())


def kolmogorov_p(statistic: float, before: int, after: int) -> float:
    """Asymptotic p-value of the two-sample test, 2 Σ (-1)^(k-1) exp(-2k²λ²), λ = D·√(nm/(n+m))."""
    scaled = statistic * np.sqrt(before * after / max(before + after, 1))
    if scaled < 0.2:
        return 1.0
    k = np.arange(1, 101)
    return float(np.clip(2.0 * np.sum((-1.0) ** (k - 1) * np.exp(-2.0 * (k * scaled) ** 2)), 0.0, 1.0))


def wasserstein(edges: Sequence[float], before: ArrayLike, after: ArrayLike) -> float:
    """∫|F - G| between the first and the last edge, both linear in between; in the feature's unit. Counts (cells,)
    without the missing ones, one more than edges."""
    p, q = (np.cumsum(_shares(np.asarray(side, np.float64)))[:-1] for side in (before, after))
    gap, width = p - q, np.diff(np.asarray(edges, np.float64))
    left, right = gap[:-1], gap[1:]
    crossing = left * right < 0.0
    total = np.abs(left) + np.abs(right)
    area = np.where(crossing, (left**2 + right**2) / np.maximum(total, 1e-300), total)
    return float((0.5 * width * area).sum())


def distances(cells: Cells, before: Array, after: Array) -> dict[str, float]:
    """All of them for one feature, from its counts (cells,), missing last."""
    found = {"psi": population_stability(before, after)}
    if isinstance(cells, NumericCells) and before[:-1].sum() and after[:-1].sum():
        found["ks"] = kolmogorov_smirnov(before[:-1], after[:-1])
        found["ks_p"] = kolmogorov_p(found["ks"], int(before[:-1].sum()), int(after[:-1].sum()))
        found["wasserstein"] = wasserstein(cells.edges, before[:-1], after[:-1])
    return found


def _shares(counts: Array) -> Array:
    return counts / max(float(counts.sum()), 1e-300)
