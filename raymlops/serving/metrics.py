"""Prometheus metrics of an endpoint, by variant and version.

Requests touch plain integers (`Counts`); once a second `MetricsExporter` hands what was added since to Ray, whose agent
on each node answers the scrape. Ray puts `ray_` before each name, and `_total` after a counter's.

Latency is a histogram made of counters, `latency_seconds_bucket` with the label `le`: handing over a second costs the
same however many requests it had, which Ray's own histogram (one call per observation) does not. PromQL's
`histogram_quantile` takes it like any other.
"""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper edges of the buckets of latency, in seconds, inclusive."""
_EDGES = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")

_ARM = ("endpoint", "variant", "version")
_HERE = ("endpoint",)
_EVIDENCE = ("endpoint", "variant", "version", "metric", "side")


@dataclass(frozen=True)
class Spec:
    kind: str
    tags: tuple[str, ...]
    text: str


SPECS: dict[str, Spec] = {
    "requests": Spec("counter", _ARM, "Requests by the variant that was assigned"),
    "errors": Spec("counter", _ARM, "Requests whose variant raised, answered garbage, was gone or had no room"),
    "timeouts": Spec("counter", _ARM, "Requests whose variant took longer than its budget"),
    "fallbacks": Spec("counter", _ARM, "Requests that the champion answered in the variant's place"),
    "latency_seconds_bucket": Spec("counter", (*_ARM, "le"), "Requests that took at most `le` seconds"),
    "latency_seconds_sum": Spec("counter", _ARM, "Seconds that all requests took together"),
    "latency_seconds_count": Spec("counter", _ARM, "Requests in the buckets"),
    "weight": Spec("gauge", _ARM, "Share of traffic that is assigned to the variant"),
    "batches": Spec("counter", _HERE, "Batches that were scored"),
    "batch_rows": Spec("counter", _HERE, "Rows in them"),
    "log_rows_written": Spec("counter", _HERE, "Rows in the prediction log"),
    "log_rows_dropped": Spec("counter", _HERE, "Rows that the prediction log lost: too many waited, or it closed"),
    "log_rows_waiting": Spec("gauge", _HERE, "Rows that wait to be written"),
    "log_failed_writes": Spec("counter", _HERE, "Writes of the prediction log that failed; they are tried again"),
    "labels_accepted": Spec("counter", _HERE, "Labels that were stored"),
    "labels_refused": Spec("counter", _HERE, "Labels that were not: too many waited"),
    "labels_conflicts": Spec("counter", _HERE, "Labels that differ from an earlier one of the same prediction"),
    "evidence_log_e": Spec("gauge", _EVIDENCE, "Natural logarithm of the evidence, by metric and side"),
    "evidence_threshold": Spec("gauge", ("endpoint", "side"), "What the logarithm must reach to decide"),
    "rollout_phase": Spec("gauge", ("endpoint", "phase"), "1 for the phase in which the rollout is, else 0"),
    "rollouts_ended": Spec("gauge", ("endpoint", "verdict"), "Rollouts that ended since the ledger began"),
}
"""Without the prefix `raymlops_`. `side` is `rollback` or `promotion`. `rollouts_ended` is a gauge: it begins at 0,
which a counter of Ray's cannot say, and goes on where it was when the controller restarts."""
OF_ROLLOUTS = ("evidence_log_e", "evidence_threshold", "rollout_phase", "rollouts_ended")
"""Those of the controller; all others are a replica's."""


def scraped(name: str) -> str:
    """A metric's name as Prometheus sees it."""
    return f"ray_raymlops_{name}" + ("_total" if SPECS[name].kind == "counter" else "")


class ArmCounts:
    """What happened to one version in one variant since the process started. Belongs to one thread."""

    __slots__ = ("buckets", "errors", "fallbacks", "seconds", "timeouts")

    def __init__(self) -> None:
        self.errors = self.timeouts = self.fallbacks = 0
        self.seconds = 0.0
        self.buckets = [0] * len(_EDGES)

    def observe(self, latency: float) -> None:
        """One finished request, by its latency in seconds."""
        self.buckets[bisect_left(BOUNDS, latency)] += 1
        self.seconds += latency

    @property
    def requests(self) -> int:
        return sum(self.buckets)


class Counts:
    """All that one replica counts."""

    def __init__(self) -> None:
        self.arms: dict[tuple[str, str], ArmCounts] = {}
        self.version: dict[str, str] = {}
        """Of each variant, the one that was asked for last."""
        self.batches = self.batch_rows = 0

    def arm(self, variant: str, version: str) -> ArmCounts:
        """To be kept as long as the routing document says the same; the same object for the same names."""
        self.version[variant] = version
        return self.arms.setdefault((variant, version), ArmCounts())

    def batch(self, rows: int) -> None:
        self.batches += 1
        self.batch_rows += rows


class Instruments:
    """Ray's metrics, which must be made in a process that is connected to Ray. Counters get differences."""

    def __init__(self, endpoint: str, names: Sequence[str], backend: Any = None) -> None:
        module = importlib.import_module("ray.util.metrics") if backend is None else backend
        makers = {"counter": module.Counter, "gauge": module.Gauge}
        self._endpoint = endpoint
        self._made = {n: makers[SPECS[n].kind](f"raymlops_{n}", SPECS[n].text, SPECS[n].tags) for n in names}
        self._seen: dict[tuple[str, ...], float] = {}

    def total(self, name: str, value: float, **tags: str) -> None:
        """A counter stands at `value` now."""
        at = (name, *tags.values())
        added = value - self._seen.get(at, 0.0)
        if added > 0:  # Ray refuses 0, and a counter never falls
            self._made[name].inc(added, {"endpoint": self._endpoint, **tags})
            self._seen[at] = value

    def level(self, name: str, value: float, **tags: str) -> None:
        self._made[name].set(float(value), {"endpoint": self._endpoint, **tags})


class MetricsExporter:
    """For one replica; `flush` once a second, on the thread that counts."""

    def __init__(self, counts: Counts, endpoint: str, backend: Any = None) -> None:
        names = [name for name in SPECS if name not in OF_ROLLOUTS]
        self._counts, self._to = counts, Instruments(endpoint, names, backend)
        self._weighted: set[tuple[str, str]] = set()

    def flush(
        self,
        weights: Mapping[str, float] | None = None,
        log: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> None:
        """`weights` by variant (0 … 1); `log` and `labels` as their `statistics()` give them. Takes well below 1 ms."""
        to = self._to
        for (variant, version), arm in self._counts.arms.items():
            self._flush_arm(arm, {"variant": variant, "version": version})
        to.total("batches", self._counts.batches)
        to.total("batch_rows", self._counts.batch_rows)
        if weights is not None:
            self._flush_weights(weights)
        if log is not None:
            to.total("log_rows_written", log["written_rows"])
            to.total("log_rows_dropped", log["dropped_rows"])
            to.total("log_failed_writes", log["failed_writes"])
            to.level("log_rows_waiting", log["waiting_rows"])
        if labels is not None:
            to.total("labels_accepted", labels["accepted"])
            to.total("labels_refused", labels["refused"])
            to.total("labels_conflicts", labels["conflicts"])

    def _flush_arm(self, arm: ArmCounts, tags: dict[str, str]) -> None:
        to, requests = self._to, 0
        for edge, count in zip(_EDGES, arm.buckets, strict=True):
            requests += count
            to.total("latency_seconds_bucket", requests, **tags, le=edge)
        to.total("requests", requests, **tags)
        to.total("latency_seconds_count", requests, **tags)
        to.total("latency_seconds_sum", arm.seconds, **tags)
        for name in ("errors", "timeouts", "fallbacks"):
            to.total(name, getattr(arm, name), **tags)

    def _flush_weights(self, weights: Mapping[str, float]) -> None:
        shown = {(variant, self._counts.version.get(variant, "")): weight for variant, weight in weights.items()}
        for gone in self._weighted - shown.keys():
            self._to.level("weight", 0.0, variant=gone[0], version=gone[1])
        for (variant, version), weight in shown.items():
            self._to.level("weight", weight, variant=variant, version=version)
        self._weighted = set(shown)
