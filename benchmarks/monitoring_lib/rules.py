"""The rules of public tools on a window of rows against a reference. Each looks at a window by itself.

Read for this (2026-11):
- Evidently, docs.evidentlyai.com, "Data drift" preset and "default algorithm": with more than 1,000 reference rows
  numerical columns drift when the Wasserstein distance in standard deviations of the reference is >= 0.1
  (src/evidently/calculations/stattests/wasserstein_distance_norm.py); the data set drifts when at least half of the
  columns do. Both levels are shown, since tests and alerts can be attached to single columns.
- NannyML, nannyml/drift/univariate: by default continuous columns are compared by the Jensen–Shannon distance (base 2)
  over numpy's "doane" bins of the reference, and alert above 0.1.
- Population stability index: ten cells of equal mass, 0.1 "moderate" and 0.2 (often 0.25) "large" change, the usual
  table (Siddiqi, "Credit Risk Scorecards", 2006).
- Two-sample Kolmogorov–Smirnov test at p < 0.05, per column, and divided by the number of columns (Bonferroni).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial.distance import jensenshannon
from scipy.special import kolmogorov

from raymlops.monitoring.display import population_stability

BINS = 10
NAMES = (
    "Evidently, data set (≥ half of the columns)",
    "Evidently, any column",
    "NannyML, any column",
    "PSI > 0.1, any column",
    "PSI > 0.2, any column",
    "KS p < 0.05, any column",
    "KS p < 0.05, Bonferroni",
)


class Peers:
    """A reference, prepared; rows have shape (n, columns)."""

    def __init__(self, rows: np.ndarray) -> None:
        self.sorted = np.sort(rows, axis=0)
        self.deviation = rows.std(axis=0)
        self.edges = np.quantile(rows, np.linspace(0, 1, BINS + 1)[1:-1], axis=0)
        self.bins = [np.histogram_bin_edges(column, bins="doane") for column in rows.T]
        self.shares = [np.histogram(c, bins=b)[0] / len(c) for c, b in zip(rows.T, self.bins, strict=True)]

    def alarms(self, rows: np.ndarray) -> Mapping[str, bool]:
        """Which of `NAMES` raise an alarm on a window."""
        window = np.sort(rows, axis=0)
        columns = range(rows.shape[1])
        psi = np.array([self._psi(c, window[:, c]) for c in columns])
        ks = np.array([self._ks(c, window[:, c]) for c in columns])
        distance = np.array([self._wasserstein(c, window[:, c]) for c in columns]) / self.deviation
        js = np.array([self._jensen_shannon(c, window[:, c]) for c in columns])
        found = (
            (distance >= 0.1).mean() >= 0.5,
            (distance >= 0.1).any(),
            (js > 0.1).any(),
            (psi > 0.1).any(),
            (psi > 0.2).any(),
            (ks < 0.05).any(),
            (ks < 0.05 / rows.shape[1]).any(),
        )
        return dict(zip(NAMES, map(bool, found), strict=True))

    def _psi(self, column: int, values: np.ndarray) -> float:
        inner = np.searchsorted(values, self.edges[:, column])
        return population_stability(np.full(BINS, 1.0), np.diff(inner, prepend=0, append=len(values)))

    def _ks(self, column: int, values: np.ndarray) -> float:
        """Asymptotic p-value."""
        known, n, m = self.sorted[:, column], len(self.sorted), len(values)
        above = np.searchsorted(known, values, side="right") / n
        steps = np.arange(m + 1) / m
        statistic = max(np.abs(above - steps[1:]).max(), np.abs(above - steps[:-1]).max())
        return float(kolmogorov(statistic * np.sqrt(n * m / (n + m))))

    def _wasserstein(self, column: int, values: np.ndarray) -> float:
        at = (np.arange(len(values)) + 0.5) / len(values) * len(self.sorted)
        return float(np.abs(values - self.sorted[at.astype(int), column]).mean())

    def _jensen_shannon(self, column: int, values: np.ndarray) -> float:
        found = np.histogram(values, bins=self.bins[column])[0] / len(values)
        rest = 1.0 - found.sum()
        return float(jensenshannon(np.append(self.shares[column], 0.0), np.append(found, max(rest, 0.0)), base=2))
