"""`monitoring:` what is watched while a model serves, against what, and how often it may be wrong."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal

from pydantic import Field

from raymlops.config.base import Node

BY_PREDICTION = "prediction"
"""Days are those of the time of the prediction."""


class DriftMonitor(Node):
    """Whether inputs and predictions are still distributed as in training."""

    enabled: bool = True
    columns: list[str] | None = None
    """Raw input columns to watch, beside the prediction; all that the features read when absent."""
    mean_windows: float = Field(default=1000.0, gt=1)
    """Days between false alarms, on average, over all columns together."""
    epsilon: float = Field(default=0.02, ge=0, lt=0.5)
    """Change of a share that nobody would act upon, at the median; a shift of about 0.05 standard deviations."""
    strata: Literal["none", "hour", "weekday"] = "none"
    """Compare rows with the training rows of the same hour or weekday."""
    independent: bool = False
    """Say that rows of one day are no more alike than others. Quicker, and wrong where days differ."""


class PerformanceMonitor(Node):
    """Whether the loss of labelled predictions is still that of the holdout."""

    enabled: bool = True
    loss: Literal["error", "log_loss"] = "error"
    """Of a row: its absolute error, or whether its class is wrong. Classes: `log_loss` is minus the logarithm of the
    probability that the label had."""
    loss_scale: float | None = Field(default=None, gt=0)
    """Error of a row that counts as a loss of 1, as worse ones do. Regression: in units of the target, the 99 %
    quantile of the holdout's errors when absent. `log_loss`: 4.605, a probability of 1 %, when absent. Wrong classes:
    unused."""
    tolerance: float = Field(default=0.1, ge=0)
    """Share by which the mean loss may rise before it counts."""
    mean_windows: float = Field(default=1000.0, gt=1)
    """Days between false alarms, on average, over all slices together."""
    slices: list[str] | None = None
    """Columns whose frequent values are watched on their own; those of `gate.slices` when absent."""
    independent: bool = False
    """Say that losses of one day are no more alike than others."""


class QualityMonitor(Node):
    """Whether production rows keep the contract of the training data."""

    enabled: bool = True
    max_share: float = Field(default=0.001, ge=0, le=1)
    """Share of a day's rows that may break a rule about single rows, or hold a value that training had not."""
    min_rows: int | None = Field(default=None, ge=0)
    """Least predictions of a day, by all versions. A day without any is an alarm then."""
    max_rows: int | None = Field(default=None, ge=1)
    """Most predictions of a day, by all versions."""
    max_age: timedelta | None = None
    """Largest age of the newest prediction at the end of a day, also of one without any."""
    skew_rows: int = Field(default=100, ge=0)
    """Rows of a day that are computed again by batch scoring, which must give what the endpoint gave; 0 for none."""


class LabelMonitor(Node):
    """Whether labels come, and in time. Judged when the labels of a day are due; nothing is by default."""

    min_share: float | None = Field(default=None, gt=0, le=1)
    """Least share of a day's predictions that have a label by then, overall and in each slice."""
    max_delay: timedelta | None = Field(default=None, gt=timedelta(0))
    """Time within which nine in ten of a day's labels have to come."""


class MonitoringConfig(Node):
    time: str = BY_PREDICTION
    """What days are made of: the time of the prediction, or a logged input column that holds a time."""
    label_delay: timedelta = Field(default=timedelta(days=1), ge=timedelta(0))
    """Losses of a day are judged so long after it has ended; labels that come later are not."""
    drift: DriftMonitor = DriftMonitor()
    """Inputs and predictions."""
    performance: PerformanceMonitor = PerformanceMonitor()
    """Losses, when labels have come."""
    quality: QualityMonitor = QualityMonitor()
    """The contract, in production."""
    labels: LabelMonitor = LabelMonitor()
    """Coverage and delay of labels."""
