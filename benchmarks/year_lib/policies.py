"""When to retrain: never, by the calendar, or when the error has risen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any


@dataclass(frozen=True)
class Policy:
    name: str
    shown: str
    retraining: Mapping[str, Any] = field(default_factory=dict)
    """What `retraining:` says beside what all have in common."""
    schedule: str | None = None
    """Days of the month, or of the week, on which a cron job looks; None looks every day."""
    watches: bool = False
    """Whether predictions are logged, labelled and monitored."""

    def due(self, today: date) -> bool:
        """Whether a round of the loop is worth having: a calendar has nothing to say on other days."""
        if self.schedule is None:
            return self.watches
        return today.day == 1 if self.schedule == MONTHLY else today.isoweekday() == 5


MONTHLY, WEEKLY = "0 0 1 * *", "0 0 * * 5"
RAYMLOPS = "raymlops"


def _calendar(schedule: str) -> dict[str, Any]:
    triggers = {"degradation": False, "schedule": schedule}
    return {"data": "source", "triggers": triggers, "window": {"mode": "sliding"}}


POLICIES = (
    Policy("never", "never"),
    Policy("monthly", "monthly, on the last 28 days", _calendar(MONTHLY), MONTHLY),
    Policy("weekly", "weekly, on the last 28 days", _calendar(WEEKLY), WEEKLY),
    Policy(RAYMLOPS, "raymlops: when the error has risen", watches=True),
)
