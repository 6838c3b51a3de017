"""Plain counts per epoch and arm: for people, minimum requests and the absolute service level. No evidence reads them.

Replicas report cumulative numbers per incarnation, so a report that is lost or comes twice changes nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

BOUNDS = tuple(round(1e-4 * 1.25**k, 9) for k in range(52))
"""Upper bounds of the latency buckets in seconds, 0.1 ms to 8.8 s; one more bucket has what is above."""
COUNTS = ("requests", "errors", "timeouts", "fallbacks", "compared", "disagreed", "difference")
_MAX_REPLICAS = 256


def bucket(seconds: float) -> int:
    """The bucket of a latency."""
    return bisect_left(BOUNDS, seconds)


def quantile(buckets: Sequence[int], q: float) -> float | None:
    """Upper bound in seconds of the bucket that holds the q-quantile; None without requests."""
    left = q * sum(buckets)
    if left <= 0:
        return None
    for bound, n in zip((*BOUNDS, BOUNDS[-1]), buckets, strict=True):
        left -= n
        if left <= 0:
            return bound
    return BOUNDS[-1]


class Counts:
    """Sums of one epoch and arm. `fallbacks` counts every bad request once, whatever was wrong with it."""

    def __init__(self) -> None:
        self.values = dict.fromkeys(COUNTS, 0.0)
        self.latency = [0] * (len(BOUNDS) + 1)

    def add(self, row: Mapping[str, Any], sign: int = 1) -> None:
        for name in COUNTS:
            self.values[name] += sign * row.get(name, 0)
        for at, n in enumerate(row.get("latency", ())[: len(self.latency)]):
            self.latency[at] += sign * n

    def to_dict(self) -> dict[str, Any]:
        return {**self.values, "latency": self.latency}


class Totals:
    """Sums over replicas, from what each counted so far."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, int], Counts] = {}
        self._last: dict[str, list[Mapping[str, Any]]] = {}

    def take(self, replica: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replaces what the replica said before. It may leave out epochs that do not change any more, and start again
        at zero."""
        before = {(row["epoch"], row["arm"]): row for row in self._last.pop(replica, [])}
        for row in rows:
            at = (int(row["epoch"]), int(row["arm"]))
            sums = self._sums.setdefault(at, Counts())
            if at in before and row["requests"] >= before[at]["requests"]:
                sums.add(before[at], -1)
            sums.add(row)
            before[at] = row
        self._last[replica] = list(before.values())
        if len(self._last) > _MAX_REPLICAS:  # those that reported longest ago are over; their sums stay
            del self._last[next(iter(self._last))]

    def of_arm(self, arm: int) -> Counts:
        """Sums over all epochs."""
        found = Counts()
        for (_, number), counts in self._sums.items():
            if number == arm:
                found.add(counts.to_dict())
        return found

    @property
    def pooled(self) -> tuple[int, int]:
        """Requests and bad requests of all arms together."""
        rows = [counts.values for counts in self._sums.values()]
        return int(sum(row["requests"] for row in rows)), int(sum(row["fallbacks"] for row in rows))

    def to_dict(self) -> dict[str, Any]:
        return {"sums": [[*at, counts.to_dict()] for at, counts in self._sums.items()], "last": self._last}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Totals:
        made = cls()
        for epoch, arm, row in data["sums"]:
            made._sums[epoch, arm] = Counts()
            made._sums[epoch, arm].add(row)
        made._last = {replica: list(rows) for replica, rows in data["last"].items()}
        return made
