"""How good is a model on rows it has never seen: overall, per slice, against the champion, in the user's own tests."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raymlops.config.gate import GateConfig
from raymlops.config.tree import METRICS, Config
from raymlops.errors import ConfigError, DataError, RaymlopsError
from raymlops.features.rows import Rows
from raymlops.training.behaviours import BehaviourResult, Score, run_behaviours
from raymlops.training.bootstrap import MetricFunction, paired_interval
from raymlops.training.metrics import compute_metric, greater_is_better

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MISSING = "(missing)"
"""Name of the slice of rows whose value is missing."""


class SelectionMetric(Protocol):
    """The metric that trials were picked by; `training.objective.ValidationMetric` is one."""

    @property
    def name(self) -> str: ...
    @property
    def mode(self) -> str:
        """`min` or `max`: which is better."""

    @property
    def custom(self) -> MetricFunction | None:
        """A user's function (predictions, targets) -> float, None for built-in metrics."""


@dataclass(frozen=True)
class SliceRow:
    """Metrics of the holdout rows with one value in one column."""

    column: str
    value: str
    rows: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Comparison:
    """Candidate and champion on the same rows; when `error` is set there are no numbers."""

    metric: str
    greater_is_better: bool
    champion_version: str | None
    confidence: float
    resamples: int
    candidate: float | None = None
    champion: float | None = None
    difference: float | None = None
    """candidate − champion, in units of the metric."""
    relative: float | None = None
    """The difference as a share of the champion's metric; None when that is 0."""
    interval: tuple[float | None, float | None] = (None, None)
    """Two-sided percentile interval of the difference, by paired bootstrap."""
    bootstrap_rows: int = 0
    error: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What is known about a model before it is judged. A metric that is undefined on its rows is None."""

    task: str
    rows: int
    metric: str
    """The metric that decides comparisons."""
    greater_is_better: bool
    metrics: dict[str, float | None]
    baseline: dict[str, float | None]
    """The same metrics of a predictor that ignores the features: training median (rmse: mean) or class shares."""
    unusable: int
    """Rows whose score is NaN or infinite."""
    slices: list[SliceRow] = field(default_factory=list)
    comparison: Comparison | None = None
    """None when there is no champion."""
    behaviours: list[BehaviourResult] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """From what `to_dict` gave, also by way of JSON."""
        comparison = plain["comparison"]
        if comparison is not None:
            comparison = Comparison(**{**comparison, "interval": tuple(comparison["interval"])})
        rows = [SliceRow(**row) for row in plain["slices"]]
        behaviours = [BehaviourResult(**result) for result in plain["behaviours"]]
        return cls(**{**plain, "slices": rows, "comparison": comparison, "behaviours": behaviours})


def evaluate(
    config: Config,
    frame: pd.DataFrame,
    y: np.ndarray,
    score: Score,
    champion: Score | None,
    champion_version: str | None,
    metric: str | SelectionMetric,
    seed: int,
    train_target: np.ndarray,
) -> Evaluation:
    """Evaluate `score` on the holdout.

    `frame` holds the raw holdout rows, `y` (n,) their labels and `train_target` (m,) the training labels: in the
    label's units, or class indices. `champion` scores the same rows with the current champion and may raise: then the
    comparison carries the error. Raises DataError without holdout rows and for scores of a wrong shape, ConfigError
    when the user's metric raises on the whole holdout.
    """
    if not len(frame):
        raise DataError("holdout: there are no rows to evaluate on; check data.split")
    gate, judge = config.gate, _Judge.of(metric, config.task)
    scores = _checked(score(frame), len(frame), None)
    metrics = judge.all(y, scores, strict=True)
    trivial = _trivial(config.task, train_target, scores)
    comparison = None
    if champion is not None or champion_version is not None:
        comparison = _compare(gate, judge, frame, y, scores, champion, champion_version, seed)
    finite = np.isfinite(scores)
    return Evaluation(
        task=config.task,
        rows=len(frame),
        metric=judge.name,
        greater_is_better=judge.greater_is_better,
        metrics=metrics,
        baseline={name: judge.one(name, y, trivial("rmse" if name == "rmse" else "mae")) for name in metrics},
        unusable=int((~(finite if scores.ndim == 1 else finite.all(axis=1))).sum()),
        slices=[row for column in gate.slices for row in _slices(column, gate.max_slices, judge, frame, y, scores)],
        comparison=comparison,
        behaviours=run_behaviours(gate.behaviours, config.task, frame, y, scores, score, seed),
    )


@dataclass(frozen=True)
class _Judge:
    """Computes the task's metrics, and the user's where there is one."""

    name: str
    task: str
    greater_is_better: bool
    custom: MetricFunction | None

    @classmethod
    def of(cls, metric: str | SelectionMetric, task: str) -> _Judge:
        if isinstance(metric, str):
            name = metric if metric != "auto" else ("mae" if task == "regression" else "log_loss")
            return cls(name, task, greater_is_better(name), None)
        return cls(metric.name, task, metric.mode == "max", metric.custom)

    @property
    def bootstrapped(self) -> str | MetricFunction:
        return self.custom or self.name

    def all(self, y: np.ndarray, scores: np.ndarray, strict: bool = False) -> dict[str, float | None]:
        return {name: self.one(name, y, scores, strict) for name in dict.fromkeys([*METRICS[self.task], self.name])}

    def one(self, name: str, y: np.ndarray, scores: np.ndarray, strict: bool = False) -> float | None:
        """None where undefined; a user's metric that raises counts as undefined unless `strict`."""
        if self.custom is None or name != self.name:
            return _finite(compute_metric(name, self.task, y, scores))
        try:
            return _finite(float(self.custom(scores, y)))
        except Exception as error:  # user code; a small slice can lack what the metric needs
            if strict:
                raise ConfigError(f"train.metric: {name} raised {type(error).__name__}: {error}") from error
            return None


def _compare(
    gate: GateConfig,
    judge: _Judge,
    frame: pd.DataFrame,
    y: np.ndarray,
    scores: np.ndarray,
    champion: Score | None,
    version: str | None,
    seed: int,
) -> Comparison:
    rule = gate.champion
    facts = (judge.name, judge.greater_is_better, version, rule.confidence, rule.resamples)
    if champion is None:
        return Comparison(*facts, error="it could not be loaded")
    try:
        theirs = _checked(champion(frame), len(frame), scores.shape)
    except Exception as error:  # an old model may fail in any way on rows of today
        log.warning("the champion cannot score the holdout", exc_info=error)
        return Comparison(
            *facts, error=str(error) if isinstance(error, RaymlopsError) else f"{type(error).__name__}: {error}"
        )
    ours_value, their_value = judge.one(judge.name, y, scores), judge.one(judge.name, y, theirs)
    if ours_value is None or their_value is None:
        who = "this model" if ours_value is None else "the champion"
        return Comparison(*facts, ours_value, their_value, error=f"{judge.name} of {who} is undefined on these rows")
    interval = paired_interval(
        judge.bootstrapped,
        judge.task,
        y,
        scores,
        theirs,
        confidence=rule.confidence,
        resamples=rule.resamples,
        seed=seed,
    )
    difference = ours_value - their_value
    return Comparison(
        *facts,
        candidate=ours_value,
        champion=their_value,
        difference=difference,
        relative=difference / abs(their_value) if their_value else None,
        interval=(_finite(interval.low), _finite(interval.high)),
        bootstrap_rows=interval.rows,
    )


def _slices(
    column: str, limit: int, judge: _Judge, frame: pd.DataFrame, y: np.ndarray, scores: np.ndarray
) -> list[SliceRow]:
    if column not in frame.columns:
        raise DataError(
            f"gate.slices: column {column!r} is missing; the rows have {', '.join(map(str, frame.columns))}"
        )
    index: dict[str | None, int] = {}
    codes = Rows.of(frame[[column]]).codes(column, lambda value: index.setdefault(value, len(index)))
    counts = np.bincount(codes, minlength=len(index))
    shown = sorted(index, key=lambda value: (-counts[index[value]], MISSING if value is None else value))
    out = []
    for value in shown[:limit]:
        of_slice = codes == index[value]
        if of_slice.any():
            metrics = judge.all(y[of_slice], scores[of_slice])
            out.append(SliceRow(column, MISSING if value is None else value, int(of_slice.sum()), metrics))
    return out


def _trivial(task: str, train_target: np.ndarray, scores: np.ndarray) -> Callable[[str], np.ndarray]:
    """Scores of the best predictor that looks at no feature, for the loss at hand."""

    def predict(loss: str) -> np.ndarray:
        if task == "regression":
            constant = float(np.mean(train_target) if loss == "rmse" else np.median(train_target))
            return np.full(len(scores), constant)
        if task == "binary":
            return np.full(len(scores), float(np.mean(train_target)))
        shares = np.bincount(train_target, minlength=scores.shape[1]) / len(train_target)
        return np.tile(shares, (len(scores), 1))

    return predict


def _checked(scores: Any, rows: int, like: tuple[int, ...] | None) -> np.ndarray:
    out = np.asarray(scores, dtype=np.float64)
    if len(out) != rows or (like is not None and out.shape != like):
        raise DataError(f"scores of shape {out.shape} found, expected {like or (rows,)}: other classes, or other rows")
    return out


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
