"""What a classifier's loss is likely to be before labels arrive: confidence-based performance estimation (CBPE).

A calibrated score says how often the label will be positive, so a window's loss can be expected from its scores alone
(NannyML's CBPE; Garg et al., "Leveraging unlabeled data to predict out-of-distribution performance", arXiv:2201.04234,
for what it can and cannot see). Blind to concept drift: when inputs keep their look and labels change their meaning,
the estimate stays where it is. An estimate is shown beside measured losses and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from raymlops.errors import DataError, IntegrityError
from raymlops.monitoring.margins import Array

KNOTS = 50
TINY = 1e-15
SUMS = ("rows", "log_loss", "brier", "true_positive", "false_positive", "false_negative", "true_negative")


@dataclass(frozen=True)
class Calibration:
    """A rising, piecewise linear map from score to the share of positive labels."""

    scores: tuple[float, ...]
    shares: tuple[float, ...]

    @classmethod
    def fit(cls, scores: ArrayLike, outcomes: ArrayLike) -> Calibration:
        """Isotonic regression of labels, 0 or 1, on scores in [0, 1], both (n,), over `KNOTS` groups of equal mass.

        For several classes: the score of the predicted class, and whether it was right. Raises DataError for scores
        and labels that are not, and when there are none.
        """
        p, y = _scores(scores), np.asarray(outcomes, np.float64)
        if p.shape != y.shape or not p.size or not np.isin(y, (0.0, 1.0)).all():
            raise DataError(f"calibration: expected a label 0 or 1 for each of {p.size} scores, at least one")
        order = np.argsort(p, kind="stable")
        groups = [part for part in np.array_split(order, KNOTS) if len(part)]
        blocks: list[tuple[float, float, float]] = []
        for part in groups:  # pool adjacent violators: (rows, sum of scores, sum of labels)
            blocks.append((float(len(part)), float(p[part].sum()), float(y[part].sum())))
            while len(blocks) > 1 and blocks[-2][2] * blocks[-1][0] >= blocks[-1][2] * blocks[-2][0]:
                last, before = blocks.pop(), blocks.pop()
                blocks.append((before[0] + last[0], before[1] + last[1], before[2] + last[2]))
        rounded = [(float(f"{s / n:.6g}"), float(f"{k / n:.6g}")) for n, s, k in blocks]
        return cls(tuple(s for s, _ in rounded), tuple(k for _, k in rounded))

    def share(self, scores: ArrayLike) -> Array:
        """Expected share of positive labels at each score."""
        return np.interp(_scores(scores), self.scores, self.shares)

    def sums(self, scores: ArrayLike, decisions: NDArray[np.bool_] | None = None) -> Array:
        """Expected sums over rows, (len(SUMS),), to be added up over replicas and windows. `decisions` (n,) say which
        rows were called positive; left out, all were (several classes: scores are of the predicted class)."""
        p, c = _scores(scores), self.share(scores)
        called = np.ones(len(p), bool) if decisions is None else np.asarray(decisions, bool)
        inside = np.clip(p, TINY, 1.0 - TINY)
        log_loss = -(c * np.log(inside) + (1.0 - c) * np.log1p(-inside))
        brier = c * (1.0 - p) ** 2 + (1.0 - c) * p**2
        table = (log_loss, brier, c * called, (1.0 - c) * called, c * ~called, (1.0 - c) * ~called)
        return np.array([float(len(p)), *(float(column.sum()) for column in table)])

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises IntegrityError when the data are no calibration."""
        try:
            made = cls(tuple(map(float, data["scores"])), tuple(map(float, data["shares"])))
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(f"calibration: cannot be read ({type(error).__name__}: {error})") from error
        if not made.scores or len(made.scores) != len(made.shares):
            raise IntegrityError(f"calibration: found {len(made.scores)} scores and {len(made.shares)} shares")
        return made


def expected_metrics(sums: Array) -> dict[str, float]:
    """Metrics of a window from its `sums`; those without a denominator are left out."""
    rows, log_loss, brier, true_positive, false_positive, false_negative, true_negative = map(float, sums)
    if not rows:
        return {}
    found = {
        "error": (false_positive + false_negative) / rows,
        "accuracy": (true_positive + true_negative) / rows,
        "log_loss": log_loss / rows,
        "brier": brier / rows,
    }
    if called := true_positive + false_positive:
        found["precision"] = true_positive / called
    if positive := true_positive + false_negative:
        found["recall"] = true_positive / positive
    if called + positive:
        found["f1"] = 2.0 * true_positive / (called + positive)
    return found


def _scores(scores: ArrayLike) -> Array:
    values = np.asarray(scores, np.float64)
    if values.ndim != 1 or not ((values >= 0.0) & (values <= 1.0)).all():
        raise DataError(
            f"scores: expected one probability for each row, found an array of shape {values.shape} or gaps"
        )
    return values
