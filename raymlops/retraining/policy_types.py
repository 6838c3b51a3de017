"""What a decision about a retraining is made of, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Literal

Cause = Literal["order", "degradation", "drift", "follow_up", "schedule", "data"]


class Action(StrEnum):
    RETRAIN = "retrain"
    WAIT = "wait"
    """There is a case, and something that holds it back."""
    NOTHING = "nothing"


@dataclass(frozen=True)
class Order:
    """Somebody, or another system, wants a retraining."""

    id: str
    at: float
    by: str
    reason: str
    force: bool = False
    """Whether it is held back by nothing but a retraining that is under way, and too little to train on."""


@dataclass(frozen=True)
class Facts:
    """What matters besides the observation."""

    busy: str | None = None
    """The retraining that is under way, in words."""
    orders: tuple[Order, ...] = ()
    """Oldest first."""
    new_rows: int | None = None
    """Rows to train on that came since the last retraining; None when nobody counts."""
    new_partitions: int | None = None
    short: str | None = None
    """Why there is too little to train on yet."""


@dataclass(frozen=True)
class FollowUp:
    """The second retraining of an incident, planned with the first one, which saw little of the change."""

    of: str
    """The incident."""
    cause: Literal["degradation", "drift"]
    since: str
    """ISO date on which the change began, as estimated."""

    @property
    def incident(self) -> str:
        return f"{self.of}-follow-up"


@dataclass(frozen=True)
class Past:
    """What the ledger says. Times are seconds since 1970."""

    opened: float
    """When somebody began to watch."""
    began: tuple[float, ...] = ()
    """Every retraining, oldest first."""
    ended: float | None = None
    """The last one that ended."""
    handled: frozenset[str] = frozenset()
    """Incidents that had their retraining, follow-ups that took place."""
    follow_up: FollowUp | None = None
    """The last one that was planned."""
    seen: Mapping[str, float] = field(default_factory=dict)
    """Open incident → since when every look has seen it."""


@dataclass(frozen=True)
class Case:
    """A reason to retrain."""

    cause: Cause
    incident: str
    reason: str
    numbers: dict[str, Any]
    since: str | None = None
    """ISO date on which the change began, as estimated."""
    days: int | None = None
    """Days since then whose labels have come."""
    force: bool = False


@dataclass(frozen=True)
class Decision:
    action: Action
    code: str
    """Why, in one word: `due` to retrain; `busy`, `debounce`, `quiet_hours`, `cooldown`, `budget` or `too_little` to
    wait; `handled` or `no_cause` for nothing."""
    reason: str
    """A sentence."""
    cause: Cause | None = None
    incident: str | None = None
    since: str | None = None
    numbers: dict[str, Any] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    """Incidents of every case and alarm of this look, sorted; the ones that do not trigger among them."""
    covers: tuple[str, ...] = ()
    """Incidents that the retraining answers."""
    follow_up: FollowUp | None = None
    """What is planned besides."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "action": str(self.action), "open": list(self.open), "covers": list(self.covers)}

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for decisions that say the same again."""
        return str(self.action), self.code, self.incident, self.open
