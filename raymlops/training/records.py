"""What is known of one trial, and its file: a search that is started again takes finished trials from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from raymlops.errors import StoreError
from raymlops.store import Store
from raymlops.training.space import as_text

RECORD = "record.json"


@dataclass
class TrialRecord:
    """What is known of one trial. `status`: pending, running, completed, pruned, stopped (time budget) or failed."""

    number: int
    values: dict[str, Any]
    path: str
    """Where its best checkpoint is, below the store."""
    status: str = "pending"
    reason: str | None = None
    curves: list[dict[str, float]] = field(default_factory=list)
    """One entry per epoch: epoch, train_loss, learning_rate, seconds, metric."""
    best_metric: float | None = None
    best_epoch: int = 0
    seconds: float = 0.0
    weights_sha256: str | None = None
    """Of its best checkpoint, once it has ended."""
    died: bool = False
    """It failed because its process did, more often than allowed: no answer yet, a later search tries again."""
    replayed: bool = False
    """It ended in an earlier process of this search, which told its watcher so then."""

    @property
    def name(self) -> str:
        return f"trial-{self.number:03d}"

    @property
    def finished(self) -> bool:
        return self.status not in ("pending", "running")

    @property
    def final(self) -> bool:
        """Whether nothing is left to find out: it need not be trained again."""
        return self.finished and not self.died


@dataclass(frozen=True)
class Stored:
    """A trial's file."""

    record: TrialRecord
    elapsed: float
    """Seconds that the search had run, over all its processes, when it was written."""


def write_record(store: Store, record: TrialRecord, elapsed: float) -> None:
    facts = {"record": asdict(record) | {"replayed": False}, "elapsed": elapsed}
    store.write(f"{record.path}/{RECORD}", json.dumps(facts, default=str).encode(), sync=False)


def read_record(store: Store, path: str) -> Stored | None:
    """None when there is none that can be read; the trial is then trained."""
    try:
        facts = json.loads(store.read(f"{path}/{RECORD}"))
        return Stored(TrialRecord(**facts["record"]), float(facts["elapsed"]))
    except (StoreError, ValueError, KeyError, TypeError):
        return None


def finished_record(store: Store, path: str, values: Mapping[str, Any]) -> TrialRecord | None:
    """The record of a trial that ended with these values; None when it has to be trained."""
    stored = read_record(store, path)
    if stored is None or not stored.record.final or not same_values(stored.record.values, values):
        return None
    return stored.record


def same_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two trials try the same, one of them perhaps read from its file."""
    return as_text(one) == as_text(other)


def stored_trials(store: Store, path: str) -> list[Stored]:
    """The trials of the search at `path` by number, up to the first that left no record."""
    found: list[Stored] = []
    while (stored := read_record(store, f"{path}/trial-{len(found) + 1:03d}")) is not None:
        found.append(stored)
    return found
