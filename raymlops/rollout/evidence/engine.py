"""The evidence of one rollout: reports go in, a finding comes out at every tick.

Nothing here looks at a wall clock or a random number. The same sequence of `open_block`, `open_epoch`, `apply` and
`tick` calls gives the same findings bit for bit, and so does going on from a state that was written to JSON in
between.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from raymlops.rollout.evidence.assignment import CONTROL, Assignment, Epoch
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.keys import SeenKeys
from raymlops.rollout.evidence.metrics import EvidenceConfig, LatencyMetric, MeanMetric
from raymlops.rollout.evidence.rates import RateEvidence, split_ratios
from raymlops.rollout.evidence.reports import Event, FirstRequest, Outcome, Report
from raymlops.rollout.evidence.streams import EventStream, OutcomeStream
from raymlops.rollout.evidence.verdict import Finding, MetricEvidence, Verdict, judge

_MAX_REPLICAS = 255


class RolloutEvidence:
    """Counts reports and judges. The order in which `apply` is called is the order that defines which event of a key
    was first.

    State is bounded: about 11 bytes for each key of the current block (up to `max_keys`, later keys are ignored in all
    arms), `max_pending` outcomes and one counter per second, arm and metric within the request timeout; the rest is
    constant.
    """

    def __init__(self, config: EvidenceConfig) -> None:
        self.config = config
        self.assignment = Assignment(config.candidates)
        self._events = {m.name: EventStream(m, config) for m in config.metrics if not isinstance(m, MeanMetric)}
        self._outcomes = {m.name: OutcomeStream(m, config) for m in config.metrics if isinstance(m, MeanMetric)}
        self._streams: dict[str, EventStream | OutcomeStream] = {**self._events, **self._outcomes}
        self._stream_of = {name: name for name in self._events}
        kinds = [("rollback", n) for n in self._events] + [("promotion", n) for n in self._events]
        self._bit = {kind: bit for bit, kind in enumerate(kinds + [("label", n) for n in self._outcomes])}
        self._event_bits = {n: (self._bit["rollback", n], self._bit["promotion", n]) for n in self._events}
        for name, stream in self._events.items():
            if isinstance(stream.metric, LatencyMetric):
                self._stream_of[stream.metric.margin_name] = name
                self._event_bits[name] = self._bit["rollback", name], -1
                self._event_bits[stream.metric.margin_name] = -1, self._bit["promotion", name]
        self._split = [RateEvidence(split_ratios()) for _ in range(config.candidates)]
        self._counted: set[int] = set()
        self._split_new: dict[tuple[int, int], int] = {}
        self._by_stratum = any(stream.by_stratum for stream in self._events.values())
        self._seen = SeenKeys(config.max_keys)
        self._slots: dict[str, list[int]] = {}
        self._maturing: dict[tuple[int, int, int, str], int] = {}
        self._waiting: list[Outcome] = []
        self._watermark: dict[str, float] = {}
        self._worse = [False] * config.candidates
        self._units = [0] * (config.candidates + 1)
        self._requests = self._skipped = self._dropped = 0
        self.now = -math.inf

    def open_block(self, shares: tuple[float, ...], *, salt: str | None = None, counted: bool = True) -> Epoch:
        """A fresh salt: keys count anew. Also the way to more evidence from few heavy keys, and to lower shares.

        Evidence multiplies over blocks. What is reported of an earlier block from now on, labels too, is skipped."""
        epoch = self.assignment.open_block(shares, salt=salt, counted=counted)
        refused = self._seen.refused
        self._seen = SeenKeys(self.config.max_keys)
        self._seen.refused = refused
        self._counted = {epoch.number} if counted else set()
        return epoch

    def open_epoch(self, shares: tuple[float, ...]) -> Epoch:
        epoch = self.assignment.open_epoch(shares)
        self._counted.add(epoch.number)
        return epoch

    def apply(self, report: Report) -> bool:
        """Counts a report; False if it was counted before. Raises EvidenceError, and counts nothing of the report, if
        it names an epoch or metric that does not exist or an arm that the epoch does not give to the key."""
        slot = self._slots.get(report.replica)
        if slot is not None and report.sequence <= slot[1]:
            return False
        if slot is None and len(self._slots) > _MAX_REPLICAS:
            raise EvidenceError(
                f"replica {report.replica!r}: more than {_MAX_REPLICAS + 1} replicas reported in one rollout"
            )
        self._check(report)
        slot = self._slots.setdefault(report.replica, [len(self._slots), 0])
        slot[1] = report.sequence
        for request in report.first_requests:
            self._first_request(request, slot[0])
        for event in report.events:
            self._event(event, slot[0])
        for outcome in report.outcomes:
            if len(self._waiting) >= self.config.max_pending:
                self._dropped += 1
            else:
                self._waiting.append(outcome)
        for row in report.traffic:
            self._requests += row.requests
        return True

    def tick(self, now: float) -> Finding:
        """Judges what is known at `now`, in seconds; time does not run backwards."""
        if not now >= self.now:
            raise EvidenceError(f"tick: the clock ran backwards from {self.now} to {now}")
        self.now = now
        self._mature()
        self._settle()
        rows = [(self._metrics(v), self._worse[v - 1]) for v in range(1, self.config.candidates + 1)]
        log_e_split = _log_mean([e.log_e() for e in self._split])
        broken = log_e_split >= math.log(1.0 / self.config.split_alpha)
        at = self.config.rollback_log_threshold, self.config.promotion_log_threshold
        verdict, reason, candidates, promoted = judge(rows, *at, broken)
        self._worse = [c.verdict is Verdict.ROLLBACK for c in candidates]
        skipped = self._skipped + self._dropped
        units, refused = tuple(self._units), self._seen.refused
        return Finding(
            now, verdict, reason, candidates, promoted, log_e_split, *at, self._requests, units, skipped, refused
        )

    def display(self, alpha: float = 0.05) -> dict[str, list[dict[str, Any]]]:
        """Counts and confidence sequences per metric and candidate, to look at; no decision reads them."""
        return {
            name: [stream.shown(v, alpha) for v in range(1, self.config.candidates + 1)]
            for name, stream in self._streams.items()
        }

    def _check(self, report: Report) -> None:
        facts: tuple[FirstRequest | Event | Outcome, ...] = report.first_requests + report.events + report.outcomes
        epochs, arm_of = len(self.assignment.epochs), self.assignment.arm_of
        for fact in facts:
            if not 0 <= fact.epoch < epochs:
                raise EvidenceError(f"report of {report.replica}: there is no epoch {fact.epoch}")
            if not CONTROL <= fact.arm <= self.config.candidates:
                raise EvidenceError(f"report of {report.replica}: there is no arm {fact.arm}")
            if fact.key is not None and fact.arm != (arm := arm_of(fact.key, fact.epoch)):
                raise EvidenceError(
                    f"report of {report.replica}: key {fact.key:016x} belongs to arm {arm} in epoch {fact.epoch}, "
                    f"found {fact.arm}; report the arm that was assigned, not the one that answered"
                )
        for event in report.events:
            if event.metric not in self._stream_of:
                only = sorted(self._stream_of)
                raise EvidenceError(f"report of {report.replica}: no event metric {event.metric!r}, only {only}")
        for outcome in report.outcomes:
            if outcome.metric not in self._outcomes:
                raise EvidenceError(
                    f"report of {report.replica}: no labelled metric {outcome.metric!r}, only {sorted(self._outcomes)}"
                )

    def _first_request(self, request: FirstRequest, slot: int) -> None:
        if request.epoch not in self._counted:
            self._skipped += 1
            return
        if request.key is not None and not self._seen.first_request(request.key, slot):
            return
        self._units[request.arm] += 1
        at = request.epoch, request.arm
        self._split_new[at] = self._split_new.get(at, 0) + 1
        if self._by_stratum:
            self._maturing_add(request, "")

    def _event(self, event: Event, slot: int) -> None:
        if event.epoch not in self._counted:
            self._skipped += 1
            return
        rollback, promotion = self._event_bits[event.metric]
        if event.key is None:
            first, first_of_request = rollback >= 0, promotion >= 0 and event.first
        else:
            first, first_of_request = self._seen.count_event(
                event.key, rollback, promotion, slot if event.first else -1
            )
        name = self._stream_of[event.metric]
        if first:
            self._events[name].first_event(self.assignment.epochs, event.epoch, event.arm)
        if first_of_request:
            self._maturing_add(event, name)

    def _maturing_add(self, fact: FirstRequest | Event, name: str) -> None:
        at = (math.floor(fact.routed_at), fact.epoch, fact.arm, name)
        self._maturing[at] = self._maturing.get(at, 0) + 1

    def _mature(self) -> None:
        """First requests count for promotion when every arm has had the same time to answer; labels at their
        horizon."""
        last_second = self.now - self.config.request_timeout - 1.0
        ripe = sorted(at for at in self._maturing if at[0] <= last_second)
        for at in ripe:
            second, number, arm, name = at
            epoch, n = self.assignment.epochs[number], self._maturing.pop(at)
            if name:
                self._events[name].first_request_events(epoch, arm, second, n)
            else:
                for stream in self._events.values():
                    stream.first_requests(epoch, arm, second, n)
        waiting, self._waiting = self._waiting, []
        for outcome in sorted(waiting, key=lambda o: o.routed_at):
            until = self.now - self._outcomes[outcome.metric].metric.horizon
            if outcome.routed_at > until:
                self._waiting.append(outcome)
            elif outcome.routed_at <= self._watermark.get(outcome.metric, -math.inf):
                self._skipped += 1
            else:
                self._outcome(outcome)
        for name, labelled in self._outcomes.items():
            self._watermark[name] = self.now - labelled.metric.horizon

    def _settle(self) -> None:
        for stream in self._events.values():
            stream.settle(self.assignment.epochs)
        for (number, arm), n in self._split_new.items():
            epoch = self.assignment.epochs[number]
            for candidate in epoch.compared(arm):
                self._split[candidate - 1].add(epoch.odds_share(candidate), arm == candidate, n)
        self._split_new = {}

    def _outcome(self, outcome: Outcome) -> None:
        if outcome.epoch not in self._counted:
            self._skipped += 1
        elif outcome.key is None or self._seen.count_once(outcome.key, self._bit["label", outcome.metric]):
            self._outcomes[outcome.metric].outcome(self.assignment.epochs[outcome.epoch], outcome)

    def _metrics(self, candidate: int) -> tuple[MetricEvidence, ...]:
        found = []
        for metric in self.config.metrics:
            stream = self._streams[metric.name]
            void = isinstance(stream, OutcomeStream) and stream.missing[candidate - 1].log_e() >= math.log(
                self.config.candidates / self.config.missing_alpha
            )
            rollback, promotion = stream.rollback[candidate - 1].log_e(), stream.promotion[candidate - 1].log_e()
            found.append(MetricEvidence(metric.name, rollback, promotion, void))
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
                "slots": self._slots,
                "maturing": [[*at, n] for at, n in sorted(self._maturing.items())],
                "waiting": [asdict(outcome) for outcome in self._waiting],
                "watermark": {name: value for name, value in self._watermark.items() if math.isfinite(value)},
                "worse": self._worse,
                "units": self._units,
                "counters": [self._requests, self._skipped, self._dropped],
                "now": self.now if math.isfinite(self.now) else None,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> RolloutEvidence:
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
        made._slots = data["slots"]
        made._maturing = {(second, epoch, arm, name): n for second, epoch, arm, name, n in data["maturing"]}
        made._waiting = [Outcome(**row) for row in data["waiting"]]
        made._watermark, made._worse, made._units = data["watermark"], data["worse"], data["units"]
        made._requests, made._skipped, made._dropped = data["counters"]
        made.now = -math.inf if data["now"] is None else data["now"]
        return made


def _log_mean(values: list[float]) -> float:
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values) / len(values))
