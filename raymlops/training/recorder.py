"""Keeps the records of a search as Tune's events come in, on the driver, and writes those of trials that ended."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune

from raymlops.errors import StoreError
from raymlops.training.checkpoint import FACTS
from raymlops.training.ddp import release_workers
from raymlops.training.records import TrialRecord, finished_record, read_record, same_values, write_record
from raymlops.training.space import decode
from raymlops.training.state import remove_states
from raymlops.training.trial import FAILURE, TrialContext

Watcher = Callable[[Sequence[TrialRecord], TrialRecord], None]
KEPT = ("epoch", "train_loss", "learning_rate", "seconds", "metric")


class Recorder(tune.Callback):  # type: ignore[misc]
    """`elapsed` is what earlier processes of the same search took, in seconds."""

    def __init__(self, context: TrialContext, on_update: Watcher, elapsed: float) -> None:
        self.context, self.on_update = context, on_update
        self.records: dict[str, TrialRecord] = {}
        self.began = time.monotonic() - elapsed
        self.started: dict[str, float] = {}
        """When each trial would have started, had it run without interruption."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune stores its callbacks for a restore that is never done; ours holds what cannot be stored

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        return self  # Tune copies its run configuration; the events must reach the original

    def name(self, trial: Any) -> str:
        return self._record(trial).name

    def _record(self, trial: Any) -> TrialRecord:
        if trial.trial_id not in self.records:
            number = len(self.records) + 1
            values = decode(self.context.config.search.space, trial.config)
            record = TrialRecord(number, values, f"{self.context.path}/trial-{number:03d}")
            ended = finished_record(self.context.store, record.path, values)
            if ended is not None:
                ended.replayed = True
                record = ended
            else:
                before = read_record(self.context.store, record.path)
                if before is not None and same_values(before.record.values, values):
                    record.seconds = before.record.seconds
                self._write(record)
            self.records[trial.trial_id] = record
        return self.records[trial.trial_id]

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        if not record.replayed:
            record.status = "running"
            self.started.setdefault(trial.trial_id, time.monotonic() - record.seconds)
        self._tell(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        if record.replayed:
            return
        if FAILURE in result:
            record.status, record.reason = "failed", result[FAILURE]
        if result.get("epoch") is None or result["epoch"] <= len(record.curves):
            return  # Tune repeats the last result when the function returns; a trial that goes on, those it had
        record.curves.append({key: result[key] for key in KEPT})
        record.best_metric, record.best_epoch = result["best_metric"], result["best_epoch"]
        record.seconds = time.monotonic() - self.started[trial.trial_id]
        record.status = "completed" if result["last"] else "running"
        self._tell(record)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died and is started again; what its workers held must not keep the new ones waiting."""
        self._release(self._record(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        if record.status == "running":
            record.status = "pruned"
        self._ended(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        if not record.replayed:
            record.status, record.reason, record.died = "failed", _cause_of_death(trial), True
        self._ended(record)

    def close(self) -> list[TrialRecord]:
        """Records in order; trials that never finished were stopped by the time budget."""
        for record in self.records.values():
            if not record.finished:
                record.status = "stopped"
                record.reason = "time budget" if record.curves else "the time budget ended before the first epoch did"
                self._ended(record)
            if record.final:  # again: the last state of a pruned trial may have been under way when it was removed
                remove_states(self.context.store, record.path)
        return sorted(self.records.values(), key=lambda r: r.number)

    def _ended(self, record: TrialRecord) -> None:
        if not record.replayed:
            self._release(record)
            self._settle(record)
            self._write(record)
            if record.final:
                remove_states(self.context.store, record.path)
        self._tell(record)

    def _settle(self, record: TrialRecord) -> None:
        """What is stored counts: workers that were stopped late may have got an epoch further than they reported."""
        if not record.curves:
            return
        try:
            facts = json.loads(self.context.store.read(f"{record.path}/{FACTS}"))
        except StoreError:
            return
        record.weights_sha256 = facts["weights_sha256"]
        record.best_epoch, record.best_metric = facts["epoch"], facts["metric"]

    def _release(self, record: TrialRecord) -> None:
        if self.context.config.train.most_workers > 1:
            release_workers(self.context.store, record.path)

    def _write(self, record: TrialRecord) -> None:
        write_record(self.context.store, record, time.monotonic() - self.began)

    def _tell(self, record: TrialRecord) -> None:
        self.on_update(list(self.records.values()), record)


def _cause_of_death(trial: Any) -> str:
    """Of a trial whose process ended before it could say why; Ray knows at least how."""
    text = str(trial.get_error() or "")
    if "OutOfMemory" in text or "out of memory" in text.lower():
        return "killed: the node ran out of memory"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"the worker process died: {lines[-1] if lines else 'no message'}"[:500]
