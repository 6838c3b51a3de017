"""One comparison while it runs: evidence, policy state, latency thresholds, label join and counts. No I/O, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raymlops.rollout.evidence import (
    EvidenceConfig,
    EvidenceError,
    Finding,
    LatencyMetric,
    LatencyThresholds,
    RateMetric,
    Report,
    RolloutEvidence,
    Verdict,
)
from raymlops.rollout.joining import LabelJoin
from raymlops.rollout.policy import Decision, Health, RolloutPolicy, RolloutState, decide, start
from raymlops.rollout.totals import Totals
from raymlops.serving.document import LatencyRule

HEALTH_SECONDS = 60.0
"""Window of the absolute service level."""
REFREEZE_SECONDS = 60.0
"""How often latency thresholds move with the traffic, besides at every step."""
NEVER = 1e9
"""Seconds that no request takes."""
MIN_LATENCIES = 100
"""Champion latencies without which no threshold is frozen, and warm-up goes on."""


@dataclass
class Course:
    """Counts what replicas report from `open` on."""

    evidence: RolloutEvidence
    state: RolloutState
    thresholds: dict[str, LatencyThresholds]
    join: LabelJoin
    totals: Totals = field(default_factory=Totals)
    uncounted: set[int] = field(default_factory=set)
    """Epochs of pauses, whose reports are left out: by the clock, and so in all arms alike."""
    frozen: dict[str, tuple[float, float]] = field(default_factory=dict)
    frozen_at: float = 0.0
    refused: int = 0
    """Reports that contradict the assignment."""
    health: deque[tuple[float, int, int]] = field(default_factory=deque)
    joined: int = 0
    latencies: int = 0
    """Latencies that the thresholds know of."""
    finding: Finding | None = None

    @classmethod
    def begin(
        cls, config: EvidenceConfig, now: float, join: LabelJoin, seed: Mapping[str, LatencyThresholds] | list[float]
    ) -> Course:
        """`seed`: champion latencies in seconds from before, or the thresholds of the comparison before."""
        thresholds = {
            m.name: seed[m.name] if isinstance(seed, Mapping) else LatencyThresholds(m, seed=seed)
            for m in config.metrics
            if isinstance(m, LatencyMetric)
        }
        known = MIN_LATENCIES if isinstance(seed, Mapping) else len(seed)
        return cls(RolloutEvidence(config), start(now), thresholds, join, latencies=known)

    # -- where traffic goes --------------------------------------------------------------------------------------

    @property
    def counted(self) -> bool:
        epoch = self.evidence.assignment.current
        return epoch.counted and epoch.number not in self.uncounted

    @property
    def shares(self) -> tuple[float, ...]:
        return self.evidence.assignment.current.shares

    def open_block(self, shares: tuple[float, ...], salt: str, now: float, *, counted: bool) -> None:
        self.evidence.open_block(shares, salt=salt, counted=counted)
        self.freeze(now)

    def open_epoch(self, shares: tuple[float, ...], now: float, *, counted: bool = True) -> None:
        """Within the salt. Uncounted ones are for pauses: the same keys stay where they are."""
        epoch = self.evidence.open_epoch(shares)
        if not counted:
            self.uncounted.add(epoch.number)
        self.freeze(now)

    # -- latency thresholds --------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether latencies can be judged."""
        return not self.thresholds or self.latencies >= MIN_LATENCIES

    def freeze(self, now: float) -> None:
        """New thresholds for the requests that are routed under the next document."""
        if self.ready:
            self.frozen = {name: t.freeze() for name, t in self.thresholds.items()}
        self.frozen_at = now

    def refreeze_due(self, now: float) -> bool:
        return bool(self.thresholds) and self.ready and now >= self.frozen_at + REFREEZE_SECONDS

    @property
    def latency_rules(self) -> tuple[LatencyRule, ...]:
        """Always both of every latency metric; without a threshold, in the warm-up, none is ever exceeded."""
        found = []
        for metric in self.evidence.config.metrics:
            if isinstance(metric, LatencyMetric):
                rollback, promotion = self.frozen.get(metric.name, (NEVER, NEVER))
                found.append(LatencyRule(metric.name, rollback, metric.tolerance, metric.slack))
                found.append(LatencyRule(metric.margin_name, promotion, metric.margin, metric.slack))
        return tuple(found)

    # -- reports and judgement -----------------------------------------------------------------------------------

    def take(self, replica: str, payload: Mapping[str, Any]) -> None:
        """Counts one report. What contradicts the assignment is counted as refused and changes nothing."""
        if payload.get("report") is not None:
            try:
                self.evidence.apply(self._without_pauses(Report.from_dict(payload["report"])))
            except (EvidenceError, KeyError, TypeError, ValueError):
                self.refused += 1
        for arm, seconds in payload.get("latencies", ()):
            if arm == 0 or self.counted:  # a candidate that warms up is no measure
                self.latencies += 1
                for thresholds in self.thresholds.values():
                    thresholds.observe(max(0.0, seconds), candidate=arm != 0)
        self.totals.take(replica, payload.get("totals", ()))
        for row in payload.get("predictions", ()):
            if row[1] not in self.uncounted:
                self.join.predicted(row)
        for row in payload.get("labels", ()):
            self.join.labelled(row)

    def _without_pauses(self, report: Report) -> Report:
        if not self.uncounted:
            return report
        firsts = tuple(fact for fact in report.first_requests if fact.epoch not in self.uncounted)
        events = tuple(fact for fact in report.events if fact.epoch not in self.uncounted)
        return replace(report, first_requests=firsts, events=events)

    def judge(self, policy: RolloutPolicy, now: float) -> tuple[RolloutState, Decision]:
        """What the evidence and the policy say now. The state is the next one, if the decision is carried out."""
        if outcomes := self.join.due(now):
            self.joined += 1
            self.evidence.apply(Report("label-join", self.joined, outcomes=outcomes))
        finding = self.evidence.tick(max(now, self.evidence.now))
        self.finding = replace(finding, requests=self.totals.pooled[0])
        state = self.state
        if state.step < 0 and not self.ready:
            state = state.pause()  # nothing to judge latencies by yet: the warm-up goes on
        after, decision = decide(state, policy, self.finding, now=now, health=self._health(now))
        return replace(after, paused=self.state.paused), decision

    def blame(self, candidate: int) -> list[str]:
        """The metrics in which a candidate was found worse, the culprit first.

        An error or a timeout is slow as well, because the champion had to answer after it. So where both show, at
        half of the evidence that is needed, the rate is to blame and slowness its symptom.
        """
        assert self.finding is not None
        evidence, config = self.finding.candidates[candidate - 1], self.evidence.config
        found = {m.metric: m.log_e_rollback for m in evidence.metrics if not m.void}
        kinds = {metric.name: type(metric) for metric in config.metrics}
        worst = evidence.blame or max(found, key=lambda name: found[name])
        likely = [n for n, log_e in found.items() if n == worst or log_e >= 0.5 * config.rollback_log_threshold]
        symptom = kinds[worst] is LatencyMetric
        return sorted(likely, key=lambda n: (symptom and kinds[n] is not RateMetric, n != worst, -found[n]))

    def watch(self, policy: RolloutPolicy, candidate: int, now: float) -> tuple[str, str] | None:
        """Cause and reason to take a candidate back that is being promoted; steps and deadline are over for it."""
        before, self.state = self.state, replace(self.state, paused=True, started_at=now)
        try:
            _, decision = self.judge(policy, now)
        finally:
            self.state = before
        assert self.finding is not None
        if self.finding.candidates[candidate - 1].verdict is Verdict.ROLLBACK:
            return "evidence", f"worse in {', '.join(self.blame(candidate))}"
        return ("health", decision.reason) if decision.verdict is Verdict.ROLLBACK else None

    def _health(self, now: float) -> Health:
        requests, bad = self.totals.pooled
        if not self.health or now >= self.health[-1][0] + 1.0:
            self.health.append((now, requests, bad))
        while len(self.health) > 1 and self.health[1][0] <= now - HEALTH_SECONDS:
            self.health.popleft()
        _, requests_before, bad_before = self.health[0]
        return Health(requests - requests_before, bad - bad_before)

    # -- stored --------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return {
            "evidence": self.evidence.to_json(),
            "state": self.state.to_dict(),
            "thresholds": {name: t.to_dict() for name, t in self.thresholds.items()},
            "join": self.join.to_dict(),
            "totals": self.totals.to_dict(),
            "uncounted": sorted(self.uncounted),
            "frozen": self.frozen,
            "frozen_at": self.frozen_at,
            "refused": self.refused,
            "health": list(self.health),
            "joined": self.joined,
            "latencies": self.latencies,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Course:
        return cls(
            evidence=RolloutEvidence.from_json(data["evidence"]),
            state=RolloutState.from_dict(data["state"]),
            thresholds={name: LatencyThresholds.from_dict(row) for name, row in data["thresholds"].items()},
            join=LabelJoin.from_dict(data["join"]),
            totals=Totals.from_dict(data["totals"]),
            uncounted=set(data["uncounted"]),
            frozen={name: (pair[0], pair[1]) for name, pair in data["frozen"].items()},
            frozen_at=data["frozen_at"],
            refused=data["refused"],
            health=deque((at, requests, bad) for at, requests, bad in data["health"]),
            joined=data["joined"],
            latencies=data["latencies"],
        )
