"""Latency as a rate: requests above a threshold that was frozen before they were routed.

Comparing quantiles becomes comparing the rates of Y = 1{X > c} (Howard & Ramdas 2022, arXiv:1906.09712; Lindon, Sanden
& Shirikian 2022, arXiv:2205.14762), and the event evidence applies unchanged. The threshold must not know the arm: it
is a quantile of *pooled* latencies, so that with equal arms it has no bearing on who exceeds it, also if keys come
back. (A quantile of control alone leaks the arm.) It starts from champion latencies of before the rollout; an unseeded
threshold needs six times longer to find a candidate that is twice as slow.

What a candidate may take more than control, `tolerance` × + `slack`, is taken off its latencies before they are pooled
and compared: the null is P(candidate > tolerance · c + slack) ≤ P(control > c), and at its edge both arms are alike.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import Any

import numpy as np

from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.metrics import LatencyMetric
from raymlops.rollout.evidence.numerics import Array


class PooledThreshold:
    """A p-quantile of the last `window` pooled latencies (seconds), refreshed only by `freeze`.

    `tolerance` m and `slack` s (seconds) ask whether the candidate is slower than m times control and s: of its latency
    x, (x - s) / m is pooled. For promotion m is the margin. `threshold` stays as it is between two calls of `freeze`,
    which the controller makes when it publishes the value to the replicas: requests are judged by the value they were
    routed under.
    """

    def __init__(
        self,
        quantile: float = 0.95,
        *,
        tolerance: float = 1.0,
        slack: float = 0.0,
        window: int = 4000,
        seed: Iterable[float] = (),
    ):
        if not 0.0 < quantile < 1.0:
            raise EvidenceError(f"quantile: expected a number between 0 and 1, found {quantile:g}")
        if tolerance <= 0.0:
            raise EvidenceError(f"tolerance: expected a positive factor, found {tolerance:g}")
        if not slack >= 0.0:
            raise EvidenceError(f"slack: expected seconds, at least 0, found {slack:g}")
        self.quantile, self.tolerance, self.slack = quantile, tolerance, slack
        self._pool: Array = np.full(window, np.nan)
        self._n = 0
        self.threshold: float | None = None
        for latency in seed:
            self.observe(latency, candidate=False)
        if self._n:
            self.freeze()

    def observe(self, latency: float, *, candidate: bool) -> None:
        """Adds a latency to the pool. A request without an answer is observed at its timeout, not left out."""
        if not latency >= 0.0:
            raise EvidenceError(f"latency: expected seconds, at least 0, found {latency!r}")
        # Not below 0, where no threshold is: what is within the slack exceeds none, and neither does 0.
        within = max(0.0, latency - self.slack) / self.tolerance
        self._pool[self._n % len(self._pool)] = within if candidate else latency
        self._n += 1

    def freeze(self) -> float:
        """Takes the current quantile as the threshold for requests routed from now on."""
        if self._n == 0:
            raise EvidenceError("no latencies to take a threshold from: seed it with latencies of the champion")
        self.threshold = float(np.quantile(self._pool[: self._n], self.quantile, method="higher"))
        return self.threshold

    def to_dict(self) -> dict[str, Any]:
        pool = base64.b64encode(self._pool.astype("<f8").tobytes()).decode("ascii")
        return {
            "quantile": self.quantile,
            "tolerance": self.tolerance,
            "slack": self.slack,
            "n": self._n,
            "threshold": self.threshold,
            "pool": pool,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PooledThreshold:
        # States from before there was a slack have none.
        made = cls(data["quantile"], tolerance=data["tolerance"], slack=data.get("slack", 0.0))
        made._pool = np.frombuffer(base64.b64decode(data["pool"]), "<f8").copy()
        made._n, made.threshold = data["n"], data["threshold"]
        return made


def exceeds(latency: float, threshold: float, *, candidate: bool, tolerance: float = 1.0, slack: float = 0.0) -> bool:
    """Whether a request is an event of the latency metric, by the threshold it was routed under."""
    return latency > (threshold * tolerance + slack if candidate else threshold)


class LatencyThresholds:
    """Both pooled thresholds of a latency metric, for the controller: one pooled for the tolerance, one for the
    margin. A replica needs only the two numbers of `freeze` and `slow_events`."""

    def __init__(self, metric: LatencyMetric, *, window: int = 4000, seed: Iterable[float] = ()):
        seed = list(seed)
        self.pools = tuple(
            PooledThreshold(metric.quantile, tolerance=factor, slack=metric.slack, window=window, seed=seed)
            for factor in (metric.tolerance, metric.margin)
        )

    def observe(self, latency: float, *, candidate: bool) -> None:
        """Adds a latency to both pools."""
        for pool in self.pools:
            pool.observe(latency, candidate=candidate)

    def freeze(self) -> tuple[float, float]:
        """The thresholds for requests routed from now on: for rollback and for promotion."""
        rollback, promotion = (pool.freeze() for pool in self.pools)
        return rollback, promotion

    def to_dict(self) -> dict[str, Any]:
        return {"pools": [pool.to_dict() for pool in self.pools]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LatencyThresholds:
        made = cls.__new__(cls)
        made.pools = tuple(PooledThreshold.from_dict(row) for row in data["pools"])
        return made


def slow_events(
    metric: LatencyMetric, latency: float, thresholds: tuple[float, float], *, candidate: bool
) -> tuple[str, ...]:
    """The events of a request that took so long, by the thresholds that it was routed under."""
    factors = ((metric.name, metric.tolerance), (metric.margin_name, metric.margin))
    return tuple(
        name
        for (name, factor), threshold in zip(factors, thresholds, strict=True)
        if exceeds(latency, threshold, candidate=candidate, tolerance=factor, slack=metric.slack)
    )
