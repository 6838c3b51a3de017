"""The evidence of one rollout: reports go in, a finding comes out at every tick.

Nothing here looks at a wall clock or a random number. The same sequence of `open_block`, `open_epoch`, `apply` and
`tick` calls gives the same findings bit for bit, and so does going on from a state that was written to JSON in
between.
"""

from __future__ import annotations

import json
import math
from typing import Any

from raymlops.rollout.evidence.assignment import Assignment, Epoch
from raymlops.rollout.evidence.checks import check_report
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.firsts import FirstRequests
from raymlops.rollout.evidence.keys import SeenKeys
from raymlops.rollout.evidence.metrics import EvidenceConfig, LatencyMetric, MeanMetric
from raymlops.rollout.evidence.pending import OutcomeQueue
from raymlops.rollout.evidence.rates import RateEvidence, split_ratios
from raymlops.rollout.evidence.reports import Event, FirstRequest, Outcome, Report
from raymlops.rollout.evidence.streams import EventStream, OutcomeStream
from raymlops.rollout.evidence.verdict import Finding, MetricEvidence, Verdict, judge

_MAX_REPLICAS = 256
"""Replicas whose last report number is remembered: those that reported last."""


class RolloutEvidence:
    """Counts reports and judges. The order in which `apply` is called is the order that defines which event of a key
    was first.

    State is bounded, as JSON: below 100 KB, and 13.4 bytes for each key of the current block that had an event or a
    label (at most `max_keys`), and labelled outcomes that wait for their horizon (at most `max_pending`).
    """

    def __init__(self, config: EvidenceConfig) -> None:
        self.config = config
        self.assignment = Assignment(config.candidates)
        self._events = {m.name: EventStream(m, config) for m in config.metrics if not isinstance(m, MeanMetric)}
        self._outcomes = {m.name: OutcomeStream(m, config) for m in config.metrics if isinstance(m, MeanMetric)}
        self._streams: dict[str, EventStream | OutcomeStream] = {**self._events, **self._outcomes}
        self._bit = {m.name: bit for bit, m in enumerate(config.metrics)}
        self._margins = {m.margin_name for m in config.metrics if isinstance(m, LatencyMetric)}
        self._split = [RateEvidence(split_ratios()) for _ in range(config.candidates)]
        self._split_new: dict[tuple[int, int], int] = {}
        self._counted: set[int] = set()
        self._seen = SeenKeys(config.max_keys)
        self._firsts = self._fresh_firsts()
        self._queue = OutcomeQueue({n: s.metric.horizon for n, s in self._outcomes.items()}, config.max_pending)
        self._last_report: dict[str, int] = {}
        self._blamed: list[str | None] = [None] * config.candidates
        self._void = [False] * (len(config.metrics) * config.candidates)
        self._broken = False
        self._units = [0] * (config.candidates + 1)
        self._requests = self._skipped = 0
        self.now = -math.inf

    def open_block(self, shares: tuple[float, ...], *, salt: str | None = None, counted: bool = True) -> Epoch:
        """A fresh salt: keys count anew. Also the way to more evidence from few heavy keys, and to lower shares.

        Evidence multiplies over blocks. What is reported of an earlier block from now on, labels too, is skipped."""
        epoch = self.assignment.open_block(shares, salt=salt, counted=counted)
        refused = self._seen.refused
        self._seen = SeenKeys(self.config.max_keys)
        self._seen.refused = refused
        self._count_firsts(math.inf)
        self._firsts = self._fresh_firsts()
        self._counted = {epoch.number} if counted else set()
        return epoch

    def open_epoch(self, shares: tuple[float, ...]) -> Epoch:
        """New shares inside the block, none of them lower; the end of warm-up."""
        epoch = self.assignment.open_epoch(shares)
        self._counted.add(epoch.number)
        return epoch

    def apply(self, report: Report) -> bool:
        """Counts a report; False if it was counted before. Raises EvidenceError, and counts nothing of the report, if
        it names an epoch or metric that does not exist or an arm that the epoch does not give to the key."""
        if report.sequence <= self._last_report.get(report.replica, 0):
            return False
        check_report(report, self.assignment, self.config)
        self._last_report.pop(report.replica, None)
        self._last_report[report.replica] = report.sequence
        if len(self._last_report) > _MAX_REPLICAS:
            del self._last_report[next(iter(self._last_report))]
        for request in report.first_requests:
            self._first_request(request)
        for event in report.events:
            self._event(event)
        for outcome in report.outcomes:
            self._queue.add(outcome)
        self._requests += sum(row.requests for row in report.traffic)
        return True

    def tick(self, now: float) -> Finding:
        """Judges what is known at `now`, in seconds; time does not run backwards."""
        if not now >= self.now:
            raise EvidenceError(f"now: expected at least {self.now} (the clock ran backwards), found {now}")
        self.now = now
        self._count_firsts(now)
        for outcome in self._queue.take_due(now):
            self._outcome(outcome)
        self._settle()
        log_e_split = _log_mean([e.log_e() for e in self._split])
        self._broken = self._broken or log_e_split >= math.log(1.0 / self.config.split_alpha)
        rows = [(self._metrics(v), self._blamed[v - 1]) for v in range(1, self.config.candidates + 1)]
        at = self.config.rollback_log_threshold, self.config.promotion_log_threshold
        verdict, reason, candidates, promoted = judge(rows, *at, self._broken)
        self._blamed = [c.blame if c.verdict is Verdict.ROLLBACK else None for c in candidates]
        skipped, units, refused = self._skipped + self._queue.skipped, tuple(self._units), self._seen.refused
        return Finding(
            now, verdict, reason, candidates, promoted, log_e_split, *at, self._requests, units, skipped, refused
        )

    def display(self, alpha: float = 0.05) -> dict[str, list[dict[str, Any]]]:
        """Counts and confidence sequences per metric and candidate, to look at; no decision reads them."""
        return {
            name: [stream.shown(v, alpha) for v in range(1, self.config.candidates + 1)]
            for name, stream in self._streams.items()
        }

    def _first_request(self, request: FirstRequest) -> None:
        if request.epoch not in self._counted:
            self._skipped += request.count
        elif self._firsts.add(request):
            self._units[request.arm] += request.count
            at = request.epoch, request.arm
            self._split_new[at] = self._split_new.get(at, 0) + request.count

    def _event(self, event: Event) -> None:
        if event.epoch not in self._counted:
            self._skipped += 1
        elif event.metric in self._margins:
            return  # counts by first requests only
        elif event.key is None or self._seen.count_once(event.key, self._bit[event.metric]):
            self._events[event.metric].first_event(self.assignment.epochs, event.epoch, event.arm)

    def _outcome(self, outcome: Outcome) -> None:
        if outcome.epoch not in self._counted:
            self._skipped += 1
        elif outcome.key is None or self._seen.count_once(outcome.key, self._bit[outcome.metric]):
            self._outcomes[outcome.metric].outcome(self.assignment.epochs[outcome.epoch], outcome)

    def _count_firsts(self, now: float) -> None:
        for unit, n in self._firsts.take_closed(now):
            for stream in self._events.values():
                stream.first_request(self.assignment.epochs[unit.epoch], unit, n)

    def _fresh_firsts(self) -> FirstRequests:
        return FirstRequests(self.config, by_time=any(stream.by_stratum for stream in self._events.values()))

    def _settle(self) -> None:
        for stream in self._events.values():
            stream.settle(self.assignment.epochs)
        for (number, arm), n in self._split_new.items():
            epoch = self.assignment.epochs[number]
            for candidate in epoch.compared(arm):
                self._split[candidate - 1].add(epoch.odds_share(candidate), arm == candidate, n)
        self._split_new = {}

    def _metrics(self, candidate: int) -> tuple[MetricEvidence, ...]:
        found = []
        for number, metric in enumerate(self.config.metrics):
            stream, at = self._streams[metric.name], number * self.config.candidates + candidate - 1
            if isinstance(stream, OutcomeStream) and not self._void[at]:
                limit = math.log(self.config.candidates / self.config.missing_alpha)
                self._void[at] = stream.missing[candidate - 1].log_e() >= limit
            rollback, promotion = stream.rollback[candidate - 1].log_e(), stream.promotion[candidate - 1].log_e()
            found.append(MetricEvidence(metric.name, rollback, promotion, self._void[at]))
        return tuple(found)

    def to_json(self) -> str:
        """The whole state; `from_json` goes on from it as if nothing had happened."""
        return json.dumps(
            {
                "config": self.config.to_dict(),
                "assignment": self.assignment.to_dict(),
                "streams": {name: stream.to_dict() for name, stream in self._streams.items()},
                "split": [e.to_dict() for e in self._split],
                "split_new": [[*at, n] for at, n in sorted(self._split_new.items())],
                "seen": self._seen.to_dict(),
                "firsts": self._firsts.to_dict(),
                "queue": self._queue.to_dict(),
                "last_report": self._last_report,
                "found": [self._blamed, self._void, self._broken],
                "counters": [self._units, self._requests, self._skipped],
                "now": self.now if math.isfinite(self.now) else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> RolloutEvidence:
        """Goes on from what `to_json` wrote."""
        data: dict[str, Any] = json.loads(text)
        made = cls(EvidenceConfig.from_dict(data["config"]))
        made.assignment = Assignment.from_dict(data["assignment"])
        block = made.assignment.epochs[-1].block if made.assignment.epochs else None
        made._counted = {e.number for e in made.assignment.epochs if e.block == block and e.counted}
        for name, stream in made._streams.items():
            stream.load(data["streams"][name])
        for evidence, row in zip(made._split, data["split"], strict=True):
            evidence.load(row)
        made._split_new = {(epoch, arm): n for epoch, arm, n in data["split_new"]}
        made._seen = SeenKeys.from_dict(data["seen"])
        made._firsts.load(data["firsts"])
        made._queue.load(data["queue"])
        made._last_report = data["last_report"]
        made._blamed, made._void, made._broken = data["found"]
        made._units, made._requests, made._skipped = data["counters"]
        made.now = -math.inf if data["now"] is None else data["now"]
        return made


def _log_mean(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values) / len(values))
