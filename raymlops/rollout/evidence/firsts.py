"""The first requests of keys: what promotion and the check of the split are counted on.

With m = 1 a key's first request in a block is its unit. With m > 1 (for few keys that come often) it is the window of
its first m requests: those within `window_seconds` of the first, cut where the shares change, because the arm may
change there. Y = events in the window / m. A window counts when its time is over and not when its m-th request came:
users who meet an error and try again fill a window sooner, and counting full windows first would count bad ones first.

Which of several replicas saw a key first is decided here and only here, by the order of the ledger.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raymlops.rollout.evidence.buckets import KeyBuckets
from raymlops.rollout.evidence.metrics import EvidenceConfig
from raymlops.rollout.evidence.reports import FirstRequest

DELIVERY_SECONDS = 5.0
"""Time a report may take to arrive before a window closes without it."""


class Closed(NamedTuple):
    """Units that count alike. `events` names each event of the window; `of` is the m that they are divided by."""

    epoch: int
    arm: int
    at: int
    """Minute in which the unit began, in seconds; 0 if no metric looks at the time of day."""
    events: tuple[str, ...]
    of: int

    def part(self, metric: str) -> float:
        """Y: the events of one metric as a part of the window, in [0, 1]."""
        return self.events.count(metric) / self.of


class FirstRequests:
    """Deduplicates first requests of one block and hands out the units that are complete."""

    def __init__(self, config: EvidenceConfig, *, by_time: bool) -> None:
        self._m, self._by_time = config.first_requests, by_time
        self._window, self._most_open = config.window_seconds, config.max_windows
        self._close_after = config.window_seconds + config.request_timeout + DELIVERY_SECONDS
        self.buckets = KeyBuckets(config.buckets)
        self._open: dict[int, list[Any]] = {}
        self._closed: dict[Closed, int] = {}

    def add(self, request: FirstRequest) -> bool:
        """Counts a first request; True if it begins a unit (or `request.count` units without a key)."""
        key, events = request.key, tuple(sorted(set(request.events)))
        if key is None:
            self._close(request.epoch, request.arm, request.routed_at, events, 1, request.count)
            return True
        if self._m > 1 and (row := self._open.get(key)) is not None:
            epoch, _, start, n, found = row
            if epoch == request.epoch and n < self._m and request.routed_at <= start + self._window:
                row[3], row[4] = n + 1, tuple(sorted(found + events))
            return False
        if not self.buckets.take(key):
            return False
        if self._m == 1:
            self._close(request.epoch, request.arm, request.routed_at, events, 1, 1)
            return True
        if len(self._open) >= self._most_open:
            return False
        self._open[key] = [request.epoch, request.arm, request.routed_at, 1, events]
        return True

    def take_closed(self, now: float) -> list[tuple[Closed, int]]:
        """Units that are complete at `now` and how many are alike; each is handed out once."""
        for key in [key for key, row in self._open.items() if row[2] + self._close_after <= now]:
            epoch, arm, start, _, events = self._open.pop(key)
            self._close(epoch, arm, start, events, self._m, 1)
        closed, self._closed = sorted(self._closed.items()), {}
        return closed

    def _close(self, epoch: int, arm: int, at: float, events: tuple[str, ...], of: int, n: int) -> None:
        unit = Closed(epoch, arm, int(at // 60.0) * 60 if self._by_time else 0, events, of)
        self._closed[unit] = self._closed.get(unit, 0) + n

    def to_dict(self) -> dict[str, Any]:
        closed = [[*unit, n] for unit, n in sorted(self._closed.items())]
        return {
            "buckets": self.buckets.to_dict(),
            "open": [[k, *row] for k, row in self._open.items()],
            "closed": closed,
        }

    def load(self, data: dict[str, Any]) -> None:
        self.buckets = KeyBuckets.from_dict(data["buckets"])
        self._open = {key: [epoch, arm, at, n, tuple(events)] for key, epoch, arm, at, n, events in data["open"]}
        rows = data["closed"]
        self._closed = {Closed(epoch, arm, at, tuple(events), of): n for epoch, arm, at, events, of, n in rows}
