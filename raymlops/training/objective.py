"""From raw model outputs to a loss to minimise, and to scores that metrics understand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from raymlops.errors import ConfigError
from raymlops.training.metrics import compute_metric, greater_is_better

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MetricFunction = Callable[[np.ndarray, np.ndarray], float]

REGRESSION_LOSSES: dict[str, LossFunction] = {"mae": F.l1_loss, "mse": F.mse_loss, "huber": F.huber_loss}


def loss_function(name: str, task: str, custom: LossFunction | None = None) -> LossFunction:
    """The loss called with (outputs, targets): standardised values for regression, logits and class indices else."""
    if custom is not None:
        return custom
    if task == "regression":
        return REGRESSION_LOSSES["mae" if name == "auto" else name]
    if task == "binary":
        return lambda logits, targets: F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
    return F.cross_entropy


def scores(outputs: np.ndarray, task: str, mean: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Raw outputs as float64 in the form that metrics take: target units, P(positive), or class probabilities."""
    raw = outputs.astype(np.float64)
    if task == "regression":
        return raw * scale + mean
    if task == "binary":
        # The two-sided form cannot overflow: exp only ever sees a non-positive number.
        small = np.exp(-np.abs(raw))
        return np.where(raw >= 0, 1.0 / (1.0 + small), small / (1.0 + small))
    shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class ValidationMetric:
    """The number that picks checkpoints and trials."""

    name: str
    task: str
    custom: MetricFunction | None = None

    @classmethod
    def resolve(cls, name: str, task: str, custom: MetricFunction | None = None) -> ValidationMetric:
        """`name` as in `train.metric`. Raises ConfigError when a custom metric does not say which way is better."""
        if custom is not None:
            if not isinstance(getattr(custom, "greater_is_better", None), bool):
                raise ConfigError(
                    f"train.metric: {name} needs an attribute greater_is_better = True or False, found none"
                )
            return cls(name.rpartition(":")[2], task, custom)
        if name == "auto":
            return cls("mae" if task == "regression" else "log_loss", task)
        return cls(name, task)

    @property
    def mode(self) -> str:
        if self.custom is not None:
            return "max" if self.custom.greater_is_better else "min"  # type: ignore[attr-defined]
        return "max" if greater_is_better(self.name) else "min"

    def __call__(self, targets: np.ndarray, predicted: np.ndarray) -> float:
        if self.custom is not None:
            return float(self.custom(predicted, targets))
        return compute_metric(self.name, self.task, targets, predicted)

    def better(self, new: float, old: float | None, min_delta: float = 0.0) -> bool:
        """Whether `new` improves on `old` by more than `min_delta`; NaN never does."""
        if np.isnan(new):
            return False
        if old is None or np.isnan(old):
            return True
        return new > old + min_delta if self.mode == "max" else new < old - min_delta
