"""Metrics of the three tasks, over all rows or with a weight per row (which is what a bootstrap resample is).

Scores come in one form per task: regression (n,) in the label's units; binary (n,) probability of the positive class
against labels 0 and 1; multiclass (n, classes) probabilities against class indices. A metric that is undefined on the
given rows (no rows, a score that is not finite, AUC with a single class) is NaN, never an error.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from raymlops.config.tree import METRICS

WeightedMetric = Callable[[np.ndarray], float]
"""The metric when row i counts `weights[i]` times."""

CALIBRATION_BINS = 15
_TINY = float(np.finfo(np.float64).eps)


def greater_is_better(name: str) -> bool:
    return name in ("auc", "accuracy")


def all_metrics(task: str, y: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Every metric of the task by name."""
    return {name: compute_metric(name, task, y, scores) for name in METRICS[task]}


def compute_metric(name: str, task: str, y: np.ndarray, scores: np.ndarray) -> float:
    """One metric over all rows; NaN where it is undefined. Raises ValueError for shapes that do not fit.

    `mae`, `rmse`: in the label's units. `log_loss`: mean −ln of the probability given to the true class. `accuracy`:
    share of rows whose most probable class is the true one. `brier`: mean squared distance between probabilities and
    truth (binary: (p − y)², 0 to 1; multiclass: summed over classes, 0 to 2; Brier, Monthly Weather Review 1950).
    `auc`: probability that a positive row scores above a negative one, ties counted half (Mann–Whitney); multiclass:
    one class against the rest, averaged over the classes present. `calibration_error`: expected calibration error over
    15 bins of equal mass (Naeini et al., AAAI 2015; Nixon et al. 2019) of P(positive), or of the top class's
    probability.
    """
    return weighted_metric(name, task, y, scores)(np.ones(len(y)))


def weighted_metric(name: str, task: str, y: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    """The metric as a function of non-negative row weights; sorting and per-row losses are done once, here."""
    if name not in METRICS[task]:
        raise ValueError(f"metric {name!r} does not belong to task {task}; it has {', '.join(METRICS[task])}")
    y, scores = np.asarray(y), np.asarray(scores, dtype=np.float64)
    if len(y) != len(scores) or scores.ndim != (2 if task == "multiclass" else 1):
        raise ValueError(f"task {task}: scores of shape {scores.shape} do not fit labels of shape {y.shape}")
    if not len(y) or not np.isfinite(scores).all():
        return lambda weights: float("nan")
    if name == "auc":
        return _auc(y, scores)
    if name == "calibration_error":
        return _calibration_error(y, scores)
    losses = row_losses(name, task, y, scores)

    def mean(weights: np.ndarray) -> float:
        total = weights.sum()
        if not total:
            return float("nan")
        value = float((losses * weights).sum() / total)
        return value**0.5 if name == "rmse" else value

    return mean


def row_losses(name: str, task: str, y: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """float64 (n,): what each row contributes to a metric that is a mean (`rmse`: the root of that mean)."""
    if task == "regression":
        error = scores - y
        return np.asarray(np.abs(error) if name == "mae" else error * error)
    if name == "accuracy":
        chosen = scores > 0.5 if task == "binary" else scores.argmax(axis=1)
        return np.asarray(chosen == y, dtype=np.float64)
    if name == "brier":
        if task == "binary":
            return np.asarray(np.square(scores - y))
        return np.asarray(np.square(scores - np.eye(scores.shape[1])[y]).sum(axis=1))
    given = np.where(y == 1, scores, 1.0 - scores) if task == "binary" else scores[np.arange(len(y)), y]
    return np.asarray(-np.log(np.clip(given, _TINY, 1.0)))


class _Ties:
    """Rows in ascending order of a value, rows of equal value in one group, so that no result depends on row order."""

    def __init__(self, values: np.ndarray) -> None:
        self.order = np.argsort(values, kind="stable")
        ordered = values[self.order]
        self.starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Total weight of each group, in ascending order of the value."""
        return np.asarray(np.add.reduceat(weights[self.order], self.starts))


def _auc(y: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    columns = [scores] if scores.ndim == 1 else list(scores.T)
    labels = [y == 1] if scores.ndim == 1 else [y == k for k in range(scores.shape[1])]
    ties = [_Ties(column) for column in columns]

    def one(group: _Ties, positive: np.ndarray, weights: np.ndarray) -> float:
        ups, downs = group.sums(weights * positive), group.sums(weights * ~positive)
        below = np.cumsum(downs) - downs
        pairs = ups.sum() * downs.sum()
        return float((ups * (below + downs / 2)).sum() / pairs) if pairs else float("nan")

    def auc(weights: np.ndarray) -> float:
        values = [one(group, positive, weights) for group, positive in zip(ties, labels, strict=True)]
        defined = [value for value in values if value == value]
        return sum(defined) / len(defined) if defined else float("nan")

    return auc


def _calibration_error(y: np.ndarray, scores: np.ndarray) -> WeightedMetric:
    confidence = scores if scores.ndim == 1 else scores.max(axis=1)
    gap = confidence - (y == 1 if scores.ndim == 1 else scores.argmax(axis=1) == y)
    ties = _Ties(confidence)

    def error(weights: np.ndarray) -> float:
        masses = ties.sums(weights)
        total = masses.sum()
        if not total:
            return float("nan")
        middle = np.cumsum(masses) - masses / 2
        bins = np.minimum((middle / total * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
        gaps = np.bincount(bins, weights=ties.sums(weights * gap), minlength=CALIBRATION_BINS)
        return float(np.abs(gaps).sum() / total)

    return error
