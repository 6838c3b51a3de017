"""Labelled outcomes that wait for their horizon."""

from __future__ import annotations

import hashlib
import heapq
import math
import struct
from collections.abc import Mapping
from dataclasses import fields
from operator import attrgetter
from typing import Any

from raymlops.rollout.evidence.reports import Outcome

_row = attrgetter(*(field.name for field in fields(Outcome)))


class OutcomeQueue:
    """Hands outcomes out in the order of their predictions, each at its own horizon.

    When more than `limit` wait, only those of every second key are kept from then on (then every fourth, …): which
    keys, a hash says. Keeping the first to arrive instead would keep outcomes that are known early, which is not fair
    if bad ones are known sooner than good ones.
    """

    def __init__(self, horizons: Mapping[str, float], limit: int) -> None:
        self._horizons, self._limit = horizons, limit
        self._waiting: list[tuple[float, int, Outcome]] = []
        """A heap by the end of the horizon and then the order of arrival."""
        self._arrivals = 0
        self._now = -math.inf
        self._kept = 1.0
        self.skipped = 0
        """Outcomes that were reported after their turn, or not kept."""

    def add(self, outcome: Outcome) -> None:
        """Holds an outcome back until its horizon has passed."""
        due = outcome.routed_at + self._horizons[outcome.metric]
        if due <= self._now or _position(outcome) >= self._kept:
            self.skipped += 1
            return
        heapq.heappush(self._waiting, (due, self._arrivals, outcome))
        self._arrivals += 1
        while len(self._waiting) > self._limit:
            self._kept /= 2.0
            kept = [row for row in self._waiting if _position(row[2]) < self._kept]
            self.skipped += len(self._waiting) - len(kept)
            heapq.heapify(kept)
            self._waiting = kept

    def take_due(self, now: float) -> list[Outcome]:
        """Outcomes whose horizon has passed, those of a metric in the order of their predictions."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        self._now = now
        return due

    def to_dict(self) -> dict[str, Any]:
        rows = [[due, arrival, *_row(outcome)] for due, arrival, outcome in sorted(self._waiting)]
        now = self._now if math.isfinite(self._now) else None
        return {"waiting": rows, "now": now, "arrivals": self._arrivals, "kept": self._kept, "skipped": self.skipped}

    def load(self, data: dict[str, Any]) -> None:
        self._waiting = [(due, arrival, Outcome(*row)) for due, arrival, *row in data["waiting"]]
        self._now = -math.inf if data["now"] is None else data["now"]
        self._arrivals, self._kept, self.skipped = data["arrivals"], data["kept"], data["skipped"]


def _position(outcome: Outcome) -> float:
    """A number in [0, 1) that depends on the key, or on the time of a request without one, and on nothing else."""
    if outcome.key is not None:
        return (outcome.key & 0xFFFFFFFF) / 2.0**32
    digest = hashlib.blake2b(struct.pack("<qd", outcome.epoch, outcome.routed_at), digest_size=4).digest()
    return int.from_bytes(digest, "big") / 2.0**32
