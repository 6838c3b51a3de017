"""What replicas report. Facts about single units, stamped at routing: no sums of evidence, no rates, no averages.

A replica cannot know whether a key had its first event elsewhere, so it never deduplicates events: it names the key
and the controller decides, in the order of the ledger, what was first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raymlops.rollout.evidence.errors import EvidenceError


@dataclass(frozen=True, slots=True)
class FirstRequest:
    """One of a key's first m requests at this replica in the counted epochs of a block (m is `first_requests` of the
    configuration, 1 by default), or `count` alike requests without a key.

    It is reported once, `request_timeout` after it was routed, when it is certain in every arm what became of it.
    A replica starts anew when warm-up ends and when a block opens. `Reporter` does all that.
    """

    epoch: int
    arm: int
    key: int | None
    routed_at: float
    """Seconds on the clock of the ledger."""
    events: tuple[str, ...] = ()
    """The event metrics that happened to it."""
    count: int = 1

    def __post_init__(self) -> None:
        if self.count < 1 or (self.key is not None and self.count != 1):
            raise EvidenceError(f"first request: expected count 1, or more without a key, found {self.count}")


@dataclass(frozen=True, slots=True)
class Event:
    """Something bad happened to a request: an error, a timeout, a fallback, a latency above its frozen threshold.

    Reported at once, for every request and not only for first ones. The arm is the one that was *assigned*, also if
    the champion answered in its place.
    """

    epoch: int
    arm: int
    key: int | None
    metric: str
    routed_at: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The label of a key's first counted prediction, or that there is none.

    `label_at` is when the label arrived. Whether it counts is not the reporter's choice: it does if it arrived within
    the metric's horizon of `routed_at`, and the whole outcome only enters the evidence once that horizon has passed.
    """

    epoch: int
    arm: int
    key: int | None
    metric: str
    routed_at: float
    label_at: float | None
    value: float | None

    def __post_init__(self) -> None:
        if (self.value is None) != (self.label_at is None):
            raise EvidenceError(
                "value, label_at: expected both, or None for both if there is no label, "
                f"found {self.value!r} and {self.label_at!r}"
            )
        if self.value is not None and not 0.0 <= self.value <= 1.0:
            raise EvidenceError(f"value: expected an outcome of {self.metric!r} in [0, 1], found {self.value!r}")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Plain totals of one epoch and arm since the last report, repeats included: for display, minimum requests and the
    absolute service level. Evidence never reads them."""

    epoch: int
    arm: int
    requests: int
    events: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """One message of one replica. `sequence` counts its messages from 1, so that a repeated delivery is counted once:
    messages of a replica are delivered in order, and a replica that starts again takes a new name."""

    replica: str
    sequence: int
    first_requests: tuple[FirstRequest, ...] = ()
    events: tuple[Event, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    traffic: tuple[Traffic, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        data["traffic"] = [{**row, "events": dict(row["events"])} for row in data["traffic"]]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        return cls(
            data["replica"],
            data["sequence"],
            tuple(FirstRequest(**{**row, "events": tuple(row["events"])}) for row in data["first_requests"]),
            tuple(Event(**row) for row in data["events"]),
            tuple(Outcome(**row) for row in data["outcomes"]),
            tuple(Traffic(**row) for row in data["traffic"]),
        )
