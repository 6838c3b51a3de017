"""What happened to requests, by the arm that they were assigned to, whoever answered in the end.

Everything here runs on the request path: a few dictionary look-ups, nothing that waits.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from raymlops.rollout.evidence import CONTROL, Epoch, Reporter, Stamp
from raymlops.rollout.evidence.reporter import Routed
from raymlops.rollout.settings import reporter_config
from raymlops.rollout.totals import BOUNDS, bucket
from raymlops.serving.document import RoutingDocument

NO_ROLLOUT = -1
"""Epoch of requests outside of a rollout."""
_SAMPLED_LATENCIES = 256
_LABELS_HELD = 10_000


@dataclass(slots=True)
class ArmTotals:
    """Cumulative counts of one epoch and arm."""

    epoch: int
    arm: int
    requests: int = 0
    errors: int = 0
    timeouts: int = 0
    fallbacks: int = 0
    """Errors and timeouts: every bad request once."""
    compared: int = 0
    disagreed: int = 0
    difference: float = 0.0
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))


class Accounts:
    """Facts of one replica, collected until `take` hands them to the controller."""

    def __init__(self, replica: str, budget_s: float, request_timeout_s: float) -> None:
        self._replica, self._budget_s, self._timeout_s = replica, budget_s, request_timeout_s
        self._document: RoutingDocument | None = None
        self._rollout: str | None = None
        self._evidence: Reporter | None = None
        self._salts: list[str] = []
        self._totals: dict[tuple[int, int], ArmTotals] = {}
        self._clear()

    def follow(self, document: RoutingDocument, now: float) -> dict[str, Any] | None:
        """Counts under this document from now on. Returns what was collected under another rollout before."""
        last = None
        if self._document is not None and document.rollout != self._rollout:
            last = self.take(now)
        if self._document is None or document.rollout != self._rollout:
            self._rollout, self._totals, self._salts, self._evidence = document.rollout, {}, [], None
        self._document = document
        if document.rollout is None or not (document.rates or document.latency or document.quality):
            return last
        if self._evidence is None:
            self._evidence = Reporter(self._replica, reporter_config(document, self._timeout_s))
        if document.salt not in self._salts:
            self._salts.append(document.salt)
        block = self._salts.index(document.salt)
        self._evidence.follow(Epoch(document.epoch, block, document.salt, document.floats, document.counted))
        return last

    def routed(self, document: RoutingDocument, stamp: Stamp, now: float) -> Routed | None:
        """Notes a request at its routing; None when it is evidence of nothing."""
        if not document.counted or self._evidence is None or document.rollout != self._rollout:
            return None
        return self._evidence.routed(stamp, now)

    def finished(
        self, document: RoutingDocument, arm: int, routed: Routed | None, event: str | None, seconds: float
    ) -> None:
        """Notes how it ended: `event` is None, `errors` or `timeouts`; `seconds` what the arm's model took."""
        if document.rollout != self._rollout:  # the rollout that it belonged to is over
            return
        if event is not None:
            seconds = max(seconds, self._budget_s)
        totals = self._of(document, arm)
        self._count(totals, event, seconds)
        self._sample(arm, seconds)
        if routed is None or self._evidence is None:
            return
        if event is not None:
            for metric, counted in document.rates.items():
                if counted in (event, "fallbacks"):
                    self._evidence.happened(routed, metric)
        for rule in document.latency:
            if seconds > rule.limit(arm != CONTROL):
                self._evidence.happened(routed, rule.metric)

    def predicted(self, document: RoutingDocument, routed: Routed | None, prediction_id: str, value: Any) -> None:
        """Notes the answer that labels will be compared with."""
        if routed is not None and routed.first and document.quality and document.rollout == self._rollout:
            stamp = routed.stamp
            self._predictions.append([prediction_id, stamp.epoch, stamp.arm, stamp.key, routed.routed_at, value])

    def labelled(self, prediction_id: str | None, label: float | str, at: float, key_hash: int | None) -> None:
        document = self._document
        if document is not None and document.quality and len(self._labels) < _LABELS_HELD:
            self._labels.append([prediction_id, label, at, key_hash])

    def shadowed(
        self,
        document: RoutingDocument,
        arm: int,
        event: str | None,
        seconds: float,
        compared: tuple[int, int, float] = (0, 0, 0.0),
    ) -> None:
        """Notes a mirrored request, and rows compared with the champion's answer: how many, how many differ, by how
        much."""
        if document.rollout != self._rollout:
            return
        totals = self._of(document, arm)
        self._count(totals, event, max(seconds, self._budget_s) if event else seconds)
        totals.compared += compared[0]
        totals.disagreed += compared[1]
        totals.difference += compared[2]

    @property
    def urgent(self) -> bool:
        """Whether there is anything that a decision could wait for."""
        return self._rollout is not None and self._changed

    def take(self, now: float) -> dict[str, Any] | None:
        """One message for the controller, None when nothing is new."""
        report = self._evidence.report(now) if self._evidence is not None else None
        facts = report is not None and bool(report.first_requests or report.events)
        if not (facts or self._changed or self._predictions or self._labels):
            return None
        message = {
            "rollout": self._rollout,
            "report": None
            if report is None
            else {"first_requests": report.first_requests, "events": report.events, "outcomes": (), "traffic": ()},
            "latencies": self._latencies,
            "predictions": self._predictions,
            "labels": self._labels,
            "totals": list(self._totals.values()),
        }
        self._clear()
        return message

    def _clear(self) -> None:
        self._latencies: list[list[Any]] = []
        self._seen = 0
        self._predictions: list[list[Any]] = []
        self._labels: list[list[Any]] = []
        self._changed = False

    def _of(self, document: RoutingDocument, arm: int) -> ArmTotals:
        at = (document.epoch if document.rollout is not None else NO_ROLLOUT, arm)
        totals = self._totals.get(at)
        if totals is None:
            totals = self._totals[at] = ArmTotals(*at)
        return totals

    def _count(self, totals: ArmTotals, event: str | None, seconds: float) -> None:
        self._changed = True
        totals.requests += 1
        totals.latency[bucket(seconds)] += 1
        if event is not None:
            setattr(totals, event, getattr(totals, event) + 1)
            totals.fallbacks += 1

    def _sample(self, arm: int, seconds: float) -> None:
        """A uniform sample of the latencies since the last message (Vitter's algorithm R)."""
        self._seen += 1
        if len(self._latencies) < _SAMPLED_LATENCIES:
            self._latencies.append([arm, seconds])
            return
        at = int(random.random() * self._seen)
        if at < _SAMPLED_LATENCIES:
            self._latencies[at] = [arm, seconds]
