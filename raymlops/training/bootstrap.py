"""Paired bootstrap: how sure is the difference between two models that were scored on the same rows?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raymlops.training.metrics import WeightedMetric, weighted_metric

MetricFunction = Callable[[np.ndarray, np.ndarray], float]
"""A user's metric: (predictions, targets) -> float."""

MAX_ROWS = 1_000_000
"""Rows resampled at most (a seeded sample of a larger holdout): the interval of a million rows is narrow enough for any
decision, and 1000 resamples of them take seconds."""
MAX_ROWS_REPEATED = 100_000
"""The same for metrics that are not means of per-row losses and cost much more per resample."""


@dataclass(frozen=True)
class Interval:
    """Percentile interval of candidate − champion; NaN when the metric was undefined on every resample."""

    low: float
    high: float
    rows: int
    """Rows resampled."""


def paired_interval(
    metric: str | MetricFunction,
    task: str,
    y: np.ndarray,
    candidate: np.ndarray,
    champion: np.ndarray,
    *,
    confidence: float,
    resamples: int,
    seed: int,
) -> Interval:
    """Percentile interval of metric(candidate) − metric(champion) under resampling of rows with replacement.

    Both models are evaluated on the same resampled rows, so that what is hard for both cancels (Efron & Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). A pure function of its arguments. Resamples on which the metric is
    undefined (AUC with one class) are left out.
    """
    rng = np.random.default_rng(seed)
    is_mean = isinstance(metric, str) and metric not in ("auc", "calibration_error")
    limit = MAX_ROWS if is_mean else MAX_ROWS_REPEATED
    if len(y) > limit:
        kept = np.sort(rng.choice(len(y), limit, replace=False))
        y, candidate, champion = y[kept], candidate[kept], champion[kept]
    rows = len(y)
    ours, theirs = _statistic(metric, task, y, candidate), _statistic(metric, task, y, champion)
    differences = np.empty(resamples)
    for i in range(resamples):  # one at a time: counts of one resample are the only memory that grows with the rows
        counts = np.bincount(rng.integers(0, rows, rows), minlength=rows).astype(np.float64)
        differences[i] = ours(counts) - theirs(counts)
    known = differences[~np.isnan(differences)]
    if not known.size:
        return Interval(float("nan"), float("nan"), rows)
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), rows)


def _statistic(metric: str | MetricFunction, task: str, y: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    if isinstance(metric, str):
        return weighted_metric(metric, task, y, scores)

    def repeated(counts: np.ndarray) -> float:
        rows = np.repeat(np.arange(len(y)), counts.astype(np.int64))
        try:
            return float(metric(scores[rows], y[rows]))
        except Exception:  # a resample can lack what the metric needs, such as one of the classes
            return float("nan")

    return repeated
