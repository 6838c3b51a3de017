"""What is compared, and at which error: the configuration of a rollout's evidence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeAlias

from raymlops.errors import ConfigError
from raymlops.rollout.evidence.keys import MAX_METRICS

MARGIN_SUFFIX = "@margin"
"""A replica reports exceedances of margin × threshold, the promotion side of a latency metric, under this metric
name."""


@dataclass(frozen=True)
class RateMetric:
    """A bad event that a request has or has not: error, timeout, fallback.

    Rollback: the candidate's rate is above `tolerance` times control's. Promotion: it is below `margin` times, or,
    with `excess`, its rate exceeds control's by less than that in each of `strata` equal parts of the day (for rates
    near zero).
    """

    name: str
    tolerance: float = 1.0
    margin: float = 2.0
    excess: float | None = None
    strata: int = 4


@dataclass(frozen=True)
class LatencyMetric:
    """Slowness. Rollback events: latency above `tolerance` × threshold + `slack` seconds for the candidate and above
    threshold for control. Promotion events, under `margin_name`: the same with `margin`. See `LatencyThresholds`."""

    name: str
    tolerance: float = 1.0
    margin: float = 1.25
    quantile: float = 0.95
    slack: float = 0.0

    @property
    def margin_name(self) -> str:
        return self.name + MARGIN_SUFFIX


@dataclass(frozen=True)
class MeanMetric:
    """A labelled score in [0, 1], higher is better. Rollback: the candidate's mean is lower by more than `tolerance`.
    Promotion: by less than `margin`. Labels count if they arrive within `horizon` seconds of the prediction."""

    name: str
    horizon: float
    tolerance: float = 0.0
    margin: float = 0.02


Metric: TypeAlias = RateMetric | LatencyMetric | MeanMetric
_KINDS: dict[str, type[Metric]] = {"rate": RateMetric, "latency": LatencyMetric, "mean": MeanMetric}


@dataclass(frozen=True)
class EvidenceConfig:
    """Metrics and error budget of one rollout. Raises ConfigError naming every field that is wrong."""

    metrics: tuple[Metric, ...]
    candidates: int = 1
    alpha: float = 0.01
    """Chance of a false rollback, and of a false promotion, over the whole life of an artifact's tries."""
    attempt: int = 1
    """Which try of this artifact (by digest) this is: tries share `alpha`."""
    split_alpha: float = 0.001
    missing_alpha: float = 0.001
    request_timeout: float = 60.0
    """Seconds after which the outcome of every request is known, in every arm. Promotion waits that long with each
    request, so that an arm that fails slowly does not look better meanwhile."""
    restarts: bool = True
    """Look out for regressions that begin late as well; costs about 2 % more requests for early ones."""
    first_requests: int = 1
    """m: promotion looks at the first m requests of each key. More than 1 is for few keys that come often."""
    window_seconds: float = 600.0
    """With m > 1: how long a key's m requests are waited for, from its first."""
    max_keys: int = 1_000_000
    """Most keys with an event or a label that are remembered in a block; see `SeenKeys`."""
    max_pending: int = 20_000
    """Most labelled outcomes held back because their horizon has not passed; see `OutcomeQueue`."""
    max_windows: int = 500
    """With m > 1: most keys whose window is open at a time; keys that come then are left out in all arms."""

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(problems)

    @property
    def buckets(self) -> int:
        """Buckets for first requests (see `KeyBuckets`); fewer with m > 1, which is for few keys and keeps windows."""
        return 400_000 if self.first_requests == 1 else 100_000

    @cached_property
    def event_names(self) -> frozenset[str]:
        """The metric names that events may carry."""
        names = {m.name for m in self.metrics if not isinstance(m, MeanMetric)}
        return frozenset(names | {m.margin_name for m in self.metrics if isinstance(m, LatencyMetric)})

    @property
    def spent_alpha(self) -> float:
        """α_j = 6α/(π²j²) at the j-th try of the same artifact: the sum over all tries is α."""
        return 6.0 * self.alpha / (math.pi * self.attempt) ** 2

    @property
    def rollback_log_threshold(self) -> float:
        """log(K·V/α): K metrics and V candidates share the error."""
        return math.log(len(self.metrics) * self.candidates / self.spent_alpha)

    @property
    def promotion_log_threshold(self) -> float:
        """log(V/α): every metric has to pass, so the metrics need no correction."""
        return math.log(self.candidates / self.spent_alpha)

    def to_dict(self) -> dict[str, Any]:
        kinds = {cls: kind for kind, cls in _KINDS.items()}
        return {**asdict(self), "metrics": [{"kind": kinds[type(m)], **asdict(m)} for m in self.metrics]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EvidenceConfig:
        rows = [dict(row) for row in data["metrics"]]
        return cls(**{**data, "metrics": tuple(_KINDS[row.pop("kind")](**row) for row in rows)})


def _problems(config: EvidenceConfig) -> list[str]:
    found: list[str] = []

    def check(ok: bool, field: str, value: object, expected: str) -> None:
        if not ok:
            found.append(f"{field}: expected {expected}, found {value!r}")

    names = [m.name for m in config.metrics]
    check(1 <= len(names) <= MAX_METRICS, "metrics", names, f"1 to {MAX_METRICS} metrics")
    check(len(set(names)) == len(names), "metrics", names, "different names")
    check(config.candidates >= 1, "candidates", config.candidates, "at least 1")
    check(config.attempt >= 1, "attempt", config.attempt, "at least 1")
    for field in ("alpha", "split_alpha", "missing_alpha"):
        check(0.0 < getattr(config, field) <= 0.5, field, getattr(config, field), "a probability in (0, 0.5]")
    check(config.request_timeout >= 0, "request_timeout", config.request_timeout, "seconds, at least 0")
    check(config.window_seconds > 0, "window_seconds", config.window_seconds, "seconds above 0")
    check(1 <= config.first_requests <= 100, "first_requests", config.first_requests, "1 to 100")
    for field in ("max_keys", "max_pending", "max_windows"):
        check(getattr(config, field) >= 1, field, getattr(config, field), "at least 1")
    for m in config.metrics:
        at = f"metrics.{m.name}"
        check(MARGIN_SUFFIX not in m.name, at, m.name, f"a name without {MARGIN_SUFFIX!r}")
        if isinstance(m, MeanMetric):
            check(0.0 <= m.tolerance < 1.0, f"{at}.tolerance", m.tolerance, "a drop in [0, 1)")
            check(m.tolerance < m.margin < 1.0, f"{at}.margin", m.margin, "a drop above the tolerance and below 1")
            check(m.horizon > 0.0, f"{at}.horizon", m.horizon, "seconds above 0")
            continue
        check(m.tolerance >= 1.0, f"{at}.tolerance", m.tolerance, "a ratio of at least 1")
        check(m.margin > m.tolerance, f"{at}.margin", m.margin, "a ratio above the tolerance")
        if isinstance(m, LatencyMetric):
            check(0.0 < m.quantile < 1.0, f"{at}.quantile", m.quantile, "a number between 0 and 1")
            check(0.0 <= m.slack < math.inf, f"{at}.slack", m.slack, "seconds, at least 0")
        elif m.excess is not None:
            check(0.0 < m.excess < 1.0, f"{at}.excess", m.excess, "a rate between 0 and 1")
            check(1 <= m.strata <= 24, f"{at}.strata", m.strata, "1 to 24")
    return found
