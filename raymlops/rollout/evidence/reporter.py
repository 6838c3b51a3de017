"""The replica's side: turns what happens to requests into reports, so that a replica cannot get the rules wrong.

    request = reporter.routed(assignment.route(key), now)      # where traffic is routed
    reporter.happened(request, "errors")                       # whoever answered in the end
    controller.apply(reporter.report(now))                     # every 100 ms or so

Plain Python for one event loop or one lock; nothing here waits or looks at a clock.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from dataclasses import dataclass, field

from raymlops.rollout.evidence.assignment import Epoch, Stamp
from raymlops.rollout.evidence.buckets import KeyBuckets
from raymlops.rollout.evidence.errors import EvidenceError
from raymlops.rollout.evidence.metrics import EvidenceConfig
from raymlops.rollout.evidence.reports import Event, FirstRequest, Report, Traffic

_MOST_KEYS = 100_000
"""Keys that a replica counts requests of if m > 1; the first request of later ones is not reported."""


@dataclass(slots=True)
class Routed:
    """A request from its routing until it is reported."""

    stamp: Stamp
    routed_at: float
    events: tuple[str, ...] = ()
    first: bool = False
    """Whether it is reported as one of its key's first requests."""


@dataclass(slots=True)
class _Totals:
    requests: int = 0
    events: dict[str, int] = field(default_factory=dict)


class Reporter:
    """Collects the facts of one replica. `follow` takes up each epoch that the controller publishes."""

    def __init__(self, replica: str, config: EvidenceConfig) -> None:
        self.replica, self.config = replica, config
        self._names = config.event_names
        self._epochs: dict[int, Epoch] = {}
        self._block = -1
        self._sequence = 0
        self._forget_keys()
        self._pending: deque[Routed] = deque()
        """First requests of keys, until they are reported."""
        self._alone: defaultdict[tuple[int, int], deque[float]] = defaultdict(deque)
        """When requests without a key were routed, by epoch and arm: there may be a million that wait to be reported,
        and unlike objects a number costs the garbage collection nothing."""
        self._marked: defaultdict[tuple[int, int, float], list[Routed]] = defaultdict(list)
        """Those of them to which something happened, by epoch, arm and time."""
        self._reported_until = -math.inf
        self._events: list[Event] = []
        self._traffic: dict[tuple[int, int], _Totals] = {}

    def follow(self, epoch: Epoch) -> None:
        """Knows the epoch from now on. A new block's keys are all new."""
        if epoch.block > self._block:
            self._block = epoch.block
            self._forget_keys()
        self._epochs[epoch.number] = epoch

    def routed(self, stamp: Stamp, now: float) -> Routed:
        """Notes a request at its routing. Raises EvidenceError for an epoch that was not followed."""
        epoch = self._epochs.get(stamp.epoch)
        if epoch is None:
            raise EvidenceError(f"epoch: expected one of {sorted(self._epochs)} (see follow), found {stamp.epoch}")
        request = Routed(stamp, now)
        if epoch.counted and epoch.block == self._block and self._is_first(stamp):
            request.first = True
            if stamp.keyed:
                self._pending.append(request)
            else:
                self._alone[stamp.epoch, stamp.arm].append(now)
        self._totals(stamp).requests += 1
        return request

    def happened(self, request: Routed, metric: str) -> None:
        """Notes an event of the request, once per metric; it belongs to the assigned arm and epoch."""
        if metric not in self._names:
            raise EvidenceError(f"metric: expected one of {sorted(self._names)}, found {metric!r}")
        if metric in request.events:
            return
        stamp = request.stamp
        if request.first and not stamp.keyed and not request.events and request.routed_at > self._reported_until:
            self._marked[stamp.epoch, stamp.arm, request.routed_at].append(request)
        request.events += (metric,)
        self._events.append(Event(stamp.epoch, stamp.arm, stamp.key, metric, request.routed_at))
        events = self._totals(stamp).events
        events[metric] = events.get(metric, 0) + 1

    def report(self, now: float) -> Report:
        """What is new, to be delivered in this order. Events leave at once; first requests when `request_timeout` has
        passed, in every arm alike."""
        firsts: list[FirstRequest] = []
        until = now - self.config.request_timeout
        while self._pending and self._pending[0].routed_at <= until:
            request = self._pending.popleft()
            stamp, events = request.stamp, tuple(sorted(request.events))
            firsts.append(FirstRequest(stamp.epoch, stamp.arm, stamp.key, request.routed_at, events))
        alike: dict[tuple[int, int, tuple[str, ...]], list[float]] = {}
        for (number, arm), times in self._alone.items():
            while times and times[0] <= until:
                at = times.popleft()
                happened = self._marked.get((number, arm, at))
                events = tuple(sorted(happened.pop().events)) if happened else ()
                if happened == []:
                    del self._marked[number, arm, at]
                alike.setdefault((number, arm, events), []).append(at)
        self._reported_until = max(self._reported_until, until)
        firsts += [FirstRequest(e, arm, None, at[0], events, len(at)) for (e, arm, events), at in alike.items()]
        traffic = tuple(Traffic(*at, total.requests, total.events) for at, total in self._traffic.items())
        self._sequence += 1
        report = Report(self.replica, self._sequence, tuple(firsts), tuple(self._events), traffic=traffic)
        self._events, self._traffic = [], {}
        return report

    def _is_first(self, stamp: Stamp) -> bool:
        if not stamp.keyed:
            return True
        if self.config.first_requests == 1:
            return self._buckets.take(stamp.unit)
        n = self._requests.get(stamp.unit, 0)
        if n >= self.config.first_requests or (n == 0 and len(self._requests) >= _MOST_KEYS):
            return False
        self._requests[stamp.unit] = n + 1
        return True

    def _totals(self, stamp: Stamp) -> _Totals:
        at = stamp.epoch, stamp.arm
        found = self._traffic.get(at)
        if found is None:
            found = self._traffic[at] = _Totals()
        return found

    def _forget_keys(self) -> None:
        self._buckets = KeyBuckets(self.config.buckets)
        self._requests: dict[int, int] = {}
