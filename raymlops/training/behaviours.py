"""Behavioural tests: what a user says a sensible model must do, tried on holdout rows.

Invariance and direction tests score changed copies of the rows (Ribeiro et al., "Beyond Accuracy: Behavioral Testing of
NLP Models with CheckList", ACL 2020); minimum tests look at a metric on the rows that a user named.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raymlops.config.gate import Behaviour, Direction, Invariance, MinimumPerformance, Threshold
from raymlops.errors import DataError, RaymlopsError
from raymlops.features.rows import Rows
from raymlops.features.values import text
from raymlops.training.metrics import compute_metric

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

Score = Callable[["pd.DataFrame"], np.ndarray]
"""Raw rows to scores in the form that metrics take."""

MAX_ROWS = 20_000
"""Rows that invariance and direction tests change and score (a seeded sample of a larger holdout): enough to see a
violation rate of 0.1 % within ± 0.05 %, at a cost that does not grow with the holdout."""
EXAMPLES = 5


@dataclass(frozen=True)
class BehaviourResult:
    """What one behavioural test found."""

    name: str
    kind: str
    passed: bool
    detail: str
    """A sentence with numbers."""
    rows: int = 0
    """Rows tested."""
    violations: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)
    """A few violating rows, the worst first: their raw values, `prediction`, and `changed` after the change."""


def run_behaviours(
    behaviours: Sequence[Behaviour],
    task: str,
    frame: pd.DataFrame,
    y: np.ndarray,
    scores: np.ndarray,
    score: Score,
    seed: int,
) -> list[BehaviourResult]:
    """Every test in order. A test that cannot be carried out has failed, and says why."""
    rows = np.arange(len(frame))
    if len(rows) > MAX_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(len(frame), MAX_ROWS, replace=False))
    sampled = f" (sampled from {len(frame):,})" if len(rows) < len(frame) else ""
    results = []
    for behaviour in behaviours:
        name = _name(behaviour)
        try:
            if isinstance(behaviour, MinimumPerformance):
                results.append(_minimum(name, behaviour, task, frame, y, scores))
                continue
            part, before = frame.iloc[rows].reset_index(drop=True), scores[rows]
            if isinstance(behaviour, Invariance):
                results.append(_invariance(name, behaviour, part, before, score, sampled))
            else:
                results.append(_direction(name, behaviour, part, before, score, sampled))
        except Exception as error:  # a model may raise anything on rows that it has never seen the like of
            why = str(error) if isinstance(error, RaymlopsError) else f"{type(error).__name__}: {error}"
            log.warning("%s could not be tested", name, exc_info=error)
            results.append(BehaviourResult(name, behaviour.kind, False, f"{name} could not be tested: {why}"))
    return results


def _name(behaviour: Behaviour) -> str:
    if isinstance(behaviour, MinimumPerformance):
        return f"minimum {behaviour.name}"
    if isinstance(behaviour, Direction):
        return f"direction {behaviour.column} {behaviour.by:+g}"
    return f"invariance {behaviour.column}"


def _invariance(
    name: str, rule: Invariance, frame: pd.DataFrame, before: np.ndarray, score: Score, sampled: str
) -> BehaviourResult:
    _require(frame, rule.column)
    moved, changed = np.zeros(len(frame)), before.copy()
    for value in rule.values:
        after = score(frame.assign(**{rule.column: [value] * len(frame)}))
        distance = np.abs(after - before)
        distance = distance.max(axis=1) if distance.ndim == 2 else distance
        distance[np.isnan(distance)] = np.inf
        further = distance > moved
        moved[further], changed[further] = distance[further], after[further]
    broken = moved > rule.tolerance
    shown = ", ".join(str(value) for value in rule.values)
    found = (
        f"setting {rule.column} to {shown} moves {broken.sum():,} of {len(frame):,} predictions{sampled} by more than "
        f"{rule.tolerance:g} (largest move {moved.max():.4g})"
    )
    return _counted(name, rule, found, broken, moved, frame, before, changed)


def _direction(
    name: str, rule: Direction, frame: pd.DataFrame, before: np.ndarray, score: Score, sampled: str
) -> BehaviourResult:
    _require(frame, rule.column)
    if before.ndim == 2:
        raise DataError("a direction needs one number per prediction, task multiclass has one per class")
    values = Rows.of(frame[[rule.column]]).numbers(rule.column)
    present = ~np.isnan(values)  # nothing to raise where the value is missing
    if not present.any():
        raise DataError(f"column {rule.column!r} is missing from all {len(frame):,} rows")
    frame, before = frame[present].reset_index(drop=True), before[present]
    after = score(frame.assign(**{rule.column: values[present] + rule.by}))
    move = after - before if rule.expect == "increase" else before - after
    broken = ~(move > 0)
    found = (
        f"raising {rule.column} by {rule.by:g} fails to {rule.expect} {broken.sum():,} of {len(frame):,} "
        f"predictions{sampled}"
    )
    return _counted(name, rule, found, broken, np.nan_to_num(-move, nan=np.inf), frame, before, after)


def _counted(
    name: str,
    rule: Invariance | Direction,
    found: str,
    broken: np.ndarray,
    severity: np.ndarray,
    frame: pd.DataFrame,
    before: np.ndarray,
    after: np.ndarray,
) -> BehaviourResult:
    share = float(broken.mean())
    detail = f"{found}; {share:.2%} of rows against at most {rule.max_violations:.2%}"
    worst = np.argsort(-severity, kind="stable")[: min(EXAMPLES, int(broken.sum()))]
    examples = [
        {**_plain(frame.iloc[int(i)].to_dict()), "prediction": before[i].tolist(), "changed": after[i].tolist()}
        for i in worst
    ]
    passed = share <= rule.max_violations
    return BehaviourResult(name, rule.kind, passed, detail, len(frame), int(broken.sum()), examples)


def _minimum(
    name: str, rule: MinimumPerformance, task: str, frame: pd.DataFrame, y: np.ndarray, scores: np.ndarray
) -> BehaviourResult:
    named = np.ones(len(frame), dtype=bool)
    for column, wanted in rule.where.items():
        _require(frame, column)
        allowed = {text(value) for value in (wanted if isinstance(wanted, list) else [wanted])}
        named &= Rows.of(frame[[column]]).codes(column, lambda value, allowed=allowed: int(value in allowed)) == 1  # type: ignore[misc]
    count = int(named.sum())
    shown = " and ".join(
        f"{column} in {', '.join(map(str, wanted))}" if isinstance(wanted, list) else f"{column} = {wanted}"
        for column, wanted in rule.where.items()
    )
    if count < rule.min_rows:
        detail = f"{name}: {count:,} holdout rows have {shown}, at least {rule.min_rows:,} are needed to test it"
        return BehaviourResult(name, rule.kind, False, detail, count)
    value = compute_metric(rule.metric, task, y[named], scores[named])
    passed, comparison = within(value, rule.bound)
    detail = f"{name}: {rule.metric} {comparison} on {count:,} rows with {shown}"
    return BehaviourResult(name, rule.kind, passed, detail, count, 0 if passed else count)


def within(value: float | None, bound: Threshold) -> tuple[bool, str]:
    """Whether the value meets the bound, and the comparison in words."""
    if value is None or not math.isfinite(value):
        return False, "is undefined"
    if bound.max is not None and value > bound.max:
        return False, f"{value:.4g} is above the maximum {bound.max:g}"
    if bound.min is not None and value < bound.min:
        return False, f"{value:.4g} is below the minimum {bound.min:g}"
    limits = [f"at most {bound.max:g}"] if bound.max is not None else []
    limits += [f"at least {bound.min:g}"] if bound.min is not None else []
    return True, f"{value:.4g} is {' and '.join(limits)}"


def _require(frame: pd.DataFrame, column: str) -> None:
    if column not in frame.columns:
        raise DataError(f"column {column!r}: missing; the rows have {', '.join(map(str, frame.columns))}")


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Values as JSON takes them; long arrays are left out."""
    out: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, float) and not math.isfinite(value):
            value = None
        if value is None or isinstance(value, bool | int | float | str):
            out[str(name)] = value
        elif not isinstance(value, np.ndarray | list | tuple | dict):
            out[str(name)] = text(value)
    return out
