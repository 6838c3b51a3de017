"""A look at a model in production: what was predicted since the last one, what became of it, and whether that is as it
was at registration.

    observation = observe(config, base, Store.at(config.storage), now=datetime.now(UTC))

Whole days only, each judged once: inputs when the day has ended, losses when its labels are due. What was seen is
written when the look is over, so one that was killed is repeated and finds the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from raymlops.config.monitoring import BY_PREDICTION
from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.monitoring.day_rows import (
    OPEN_DAYS,
    PartsSeen,
    Read,
    days_between,
    days_of_column,
    days_of_predictions,
    labelled_rows,
    later,
    logged_rows,
    of_version,
)
from raymlops.monitoring.label_state import joined_until
from raymlops.monitoring.labelled import labelled_path
from raymlops.monitoring.references import references_of, settings_digest
from raymlops.monitoring.signals import KINDS, Observation
from raymlops.monitoring.verdicts import Judge
from raymlops.monitoring.watch_state import WatchState
from raymlops.serving.prediction_reader import predictions_path
from raymlops.serving.prediction_table import HEAD
from raymlops.store import Store

CLOSED_AFTER = timedelta(minutes=5)
"""After the end of a day, for what replicas have yet to write."""


def observe(config: Config, base: Path, store: Store, *, now: datetime) -> Observation:
    """What is new about the champion of `config.name`, until `now`, an aware time. Labels are those joined so far.

    Raises RaymlopsError when there is no champion, StoreError and IntegrityError.
    """
    from raymlops.data.contract_file import current_contract
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import champion

    found = champion(tracking(config.tracking.uri, store), config.name)
    if found is None:
        raise RaymlopsError(f"{config.name}: no version is the champion, so there is nothing to watch")
    name, version = config.name, found.version
    references = references_of(config, store, found)
    state = WatchState.read(store, name, version, settings_digest(config))
    judge = Judge(config, store, references, current_contract(config, base, store), state)
    look = Look(config, store, version, now)
    rows = look.inputs(state, judge)
    labelled = look.losses(state, judge)
    judge.done()
    state.newest = max([state.newest, *look.stored(predictions_path(name))])
    state.write(store, name, version)
    watched = [kind for kind in KINDS if judge.watches(kind)]
    signals = [state.signal(kind, version) for kind in watched]
    return Observation(name, version, now.timestamp(), signals, rows, labelled, state.newest or None)


class Look:
    """Finds the days that are new and gives them to the judge."""

    def __init__(self, config: Config, store: Store, version: str, now: datetime) -> None:
        self._config, self._store, self._version, self._now = config, store, version, now

    def inputs(self, state: WatchState, judge: Judge) -> int:
        """Judges the days that have ended; the number of the version's rows."""
        until, last, rows = _day_of(self._now - CLOSED_AFTER), "", 0
        expected, silence = state.inputs_until, judge.quality.judges_silence
        root = predictions_path(self._config.name)
        for day, table in self._days(logged_rows, root, expected, until, state.input_parts, until):
            mine, last = of_version(table, self._version), day
            if not expected and not mine.num_rows:
                continue
            if silence:
                self._silent(judge, expected or day, day)
            judge.inputs(day, mine, table)
            rows, expected = rows + mine.num_rows, later(day, 1)
        if silence and (expected or last):
            # The endpoint has answered before, by this version or by another one.
            expected = expected or later(last, 1)
            self._silent(judge, expected, until)
            expected = max(expected, until)
        state.inputs_until = expected
        if not expected:
            state.input_parts = PartsSeen()
        return rows

    def losses(self, state: WatchState, judge: Judge) -> int:
        """Judges the days whose labels are due; the number of the version's labelled rows."""
        joined, labelled = joined_until(self._store, self._config.name), 0
        if joined is None:
            return 0
        until = _day_of(min(joined, self._now) - self._config.monitoring.label_delay)
        complete = _day_of(min(joined, self._now) - self._config.labels.max_delay)
        root = labelled_path(self._config.name)
        days = self._days(self._labelled, root, state.labels_until, until, state.label_parts, complete)
        for day, table in days:
            judge.losses(day, table)
            labelled, state.labels_until = labelled + table.num_rows, later(day, 1)
        judge.labels(until)
        if not state.labels_until:
            state.label_parts = PartsSeen()
        return labelled

    def _labelled(self, store: Store, config: Config, since: datetime, until: datetime) -> pa.Table:
        return of_version(labelled_rows(store, config, since, until), self._version)

    def stored(self, root: str) -> list[str]:
        """Days (UTC) of predictions, below a folder of `date=…`."""
        names = self._store.list(root)
        return sorted(name.removeprefix("date=") for name in names if name.startswith("date="))

    def _days(
        self, read: Read, root: str, since: str, until: str, seen: PartsSeen, closed: str
    ) -> Iterator[tuple[str, pa.Table]]:
        stored = self.stored(root)
        if self._config.monitoring.time == BY_PREDICTION:
            return days_of_predictions(self._store, self._config, read, stored, since, until)
        return days_of_column(self._store, self._config, read, stored, since, until, seen, closed)

    def _silent(self, judge: Judge, first: str, until: str) -> None:
        """Days without an answer; of a long gap only the first, for clocks that jump."""
        for day in days_between(first, until)[:OPEN_DAYS]:
            judge.silence(day, HEAD.empty_table())


def _day_of(moment: datetime) -> str:
    """The first day that has not ended at a moment: days before it are closed."""
    today: date = moment.astimezone(UTC).date()
    return today.isoformat()
