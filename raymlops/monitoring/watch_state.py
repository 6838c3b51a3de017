"""What is known of a version between two looks: detectors, open incidents, and a line for every day that was judged.

`monitoring/ENDPOINT/VERSION/state.json`, written as a whole when a look is over: a look that was killed is repeated.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from raymlops.errors import IntegrityError
from raymlops.monitoring.day_rows import PartsSeen
from raymlops.monitoring.signals import Kind, Signal
from raymlops.store import Store

FORMAT = 2
QUIET_DAYS: Mapping[str, int] = {"degradation": 56, "drift": 56, "quality": 7, "labels": 7}
"""Judged days after which an incident without another alarm is closed. What is wrong with single days is seen on single
days; what is wrong with a model is not."""
MOST_DAYS = 800


@dataclass
class Incident:
    """An alarm that was raised, until the champion changes or `QUIET_DAYS` judged days have raised no other."""

    since: str | None
    reason: str
    numbers: dict[str, Any]
    first_window: str
    last_window: str
    """Of the newest alarm."""
    alarms: int = 1
    quiet_days: int = 0

    def signal(self, kind: Kind, version: str, window: str) -> Signal:
        raised = Signal.raised(kind, version, self.first_window, self.since, self.reason, {})
        numbers = {**self.numbers, "alarms": self.alarms, "first_window": self.first_window}
        return Signal(kind, True, window, self.since, self.reason, numbers, raised.incident)


@dataclass
class WatchState:
    """Of one version under one set of settings."""

    settings: str
    inputs_until: str = ""
    """First day whose inputs were not judged; empty before the first look."""
    labels_until: str = ""
    """The same for losses."""
    coverage_until: str = ""
    """The same for coverage and delay of labels."""
    input_parts: PartsSeen = field(default_factory=PartsSeen)
    """Days of the log that were read, where days are those of a column."""
    label_parts: PartsSeen = field(default_factory=PartsSeen)
    answered_until: str = ""
    """Time of the last answer of the endpoint that was judged, ISO 8601; empty before the first."""
    newest: str = ""
    """Last day with predictions, closed or not."""
    drift: str | None = None
    """`DriftDetector.to_json`."""
    losses: str | None = None
    """`LossDetector.to_json`."""
    incidents: dict[Kind, Incident] = field(default_factory=dict)
    latest: dict[Kind, dict[str, Any]] = field(default_factory=dict)
    """Window, reason and numbers of each kind's newest verdict."""
    days: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Day → rows, labelled, loss, drift, quality: what reports draw, and nothing is judged by."""

    @classmethod
    def read(cls, store: Store, endpoint: str, version: str, settings: str) -> WatchState:
        """A fresh one when there is none, when settings have changed since, or when it is kept in another form: then
        all days are judged anew. Raises IntegrityError."""
        path = state_path(endpoint, version)
        if not store.exists(path):
            return cls(settings)
        try:
            data = json.loads(store.read(path))
            if data.pop("format") != FORMAT:
                return cls(settings)
            data["incidents"] = {kind: Incident(**row) for kind, row in data["incidents"].items()}
            for parts in ("input_parts", "label_parts"):
                data[parts] = PartsSeen(**data[parts])
            found = cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            where = store.location(path)
            raise IntegrityError(f"{where}: cannot be read ({type(error).__name__}: {error})") from error
        return found if found.settings == settings else cls(settings)

    def write(self, store: Store, endpoint: str, version: str) -> None:
        for day in sorted(self.days)[:-MOST_DAYS]:
            del self.days[day]
        content = {"format": FORMAT, **asdict(self)}
        store.write(state_path(endpoint, version), json.dumps(content, separators=(",", ":")).encode())

    def day(self, name: str) -> dict[str, Any]:
        """The line of a day, to be added to."""
        return self.days.setdefault(name, {})

    def answered(self, newest: datetime | None) -> None:
        """The time of the newest answer of a day that was judged."""
        if newest is not None:
            self.answered_until = max(self.answered_until, newest.astimezone(UTC).isoformat(timespec="microseconds"))

    def last_answer(self) -> datetime | None:
        return datetime.fromisoformat(self.answered_until) if self.answered_until else None

    def judged(self, kind: Kind, window: str, reason: str, numbers: dict[str, Any]) -> None:
        """A window without an alarm."""
        self.latest[kind] = {"window": window, "reason": reason, "numbers": numbers}
        incident = self.incidents.get(kind)
        if incident is not None:
            incident.quiet_days += 1
            if incident.quiet_days >= QUIET_DAYS[kind]:
                del self.incidents[kind]

    def alarmed(self, kind: Kind, window: str, since: str | None, reason: str, numbers: dict[str, Any]) -> None:
        """A window with one: opens an incident, or belongs to the one that is open."""
        self.latest[kind] = {"window": window, "reason": reason, "numbers": numbers}
        known = self.incidents.get(kind)
        if known is None:
            self.incidents[kind] = Incident(since, reason, numbers, window, window)
        else:
            known.alarms, known.quiet_days, known.last_window = known.alarms + 1, 0, window
            if kind in ("quality", "labels"):  # it may be something else today
                known.reason, known.numbers = reason, numbers

    def signal(self, kind: Kind, version: str) -> Signal:
        """The verdict so far; `window` moves on while an incident is open."""
        latest = self.latest.get(kind, {"window": "", "reason": "nothing judged yet", "numbers": {}})
        incident = self.incidents.get(kind)
        if incident is not None:
            return incident.signal(kind, version, latest["window"])
        return Signal(kind, False, latest["window"], None, latest["reason"], latest["numbers"])


def state_path(endpoint: str, version: str) -> str:
    return f"monitoring/{endpoint}/{version}/state.json"
