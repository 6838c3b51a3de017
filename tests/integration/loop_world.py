"""A loop over a real store, registry and job, whose monitors say what the test wants; and the program that kills it.

python loop_world.py BASE POINT...      one loop process per POINT, one after the other, each killed there
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conftest import configured
from killing import die, import_all, kill_at

from raymlops.chain import Chain, Entry
from raymlops.config.tree import Config
from raymlops.monitoring.signals import Observation, Signal
from raymlops.registry.backend import tracking
from raymlops.registry.versions import champion
from raymlops.retraining.effects import Production
from raymlops.retraining.loop import Loop
from raymlops.store import Store

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


def rules(base: Path, **changes: Any) -> Config:
    plain = {"data": "source", "cooldown": 0, "max_per_week": 99, "window": {"mode": "expanding"}}
    retraining = {**plain, **changes.pop("retraining", {})}
    return configured({"storage": str(base / "storage"), "retraining": retraining, **changes})


class Monitored(Production):
    """Production, but the alarm is the test's: version 1 went bad, or none."""

    def __init__(self, config: Config, base: Path, alarm: bool) -> None:
        super().__init__(config, base, Store(config.storage))
        self.alarm = alarm

    def look(self, now: datetime) -> Observation:
        found = champion(tracking(None, self.store), self.config.name)
        assert found is not None
        bad = Signal.raised("degradation", "1", "2026-03-01", "2026-02-20", "the error doubled", {})
        fine = Signal("degradation", False, "2026-03-01", None, "as at registration")
        signal = bad if self.alarm and found.version == "1" else fine
        return Observation(self.config.name, found.version, now.timestamp(), [signal], 1, 1, "2026-03-02")


def loop(base: Path, alarm: bool = False, **changes: Any) -> Loop:
    config = rules(base, **changes)
    return Loop(config, base, Store(config.storage), effects=Monitored(config, base, alarm))


def set_trap(point: str) -> None:
    """Dies there: `before KIND` and `after KIND` of a ledger entry, `registering`, `registered`, or `never`."""
    import mlflow

    word, _, kind = point.partition(" ")
    appended: Callable[[Chain, Entry], None] = Chain.append

    def append(self: Chain, entry: Entry) -> None:
        if (word, entry.kind) == ("before", kind):
            die()
        appended(self, entry)
        if (word, entry.kind) == ("after", kind):
            die()

    Chain.append = append  # type: ignore[method-assign]
    if word == "registering":
        Loop._fence = die  # type: ignore[method-assign]
    if word == "registered":  # the version exists, its alias does not
        mlflow.MlflowClient.set_registered_model_alias = die


def main() -> None:
    base, *points = sys.argv[1:]

    def live(point: str) -> None:
        set_trap(point)
        loop(Path(base), alarm=True).round(NOW)

    import_all()
    kill_at(live, points)


if __name__ == "__main__":
    main()
