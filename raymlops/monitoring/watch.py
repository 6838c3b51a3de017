"""A look at a model in production: what was predicted since the last one, what became of it, and whether that is as it
was at registration.

    observation = observe(config, base, Store.at(config.storage), now=datetime.now(UTC))

Whole days only, each judged once: inputs when the day has ended, losses when its labels are due. What was seen is
written when the look is over, so one that was killed is repeated and finds the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.config.tree import Config
from raymlops.errors import RaymlopsError
from raymlops.features.rows import Rows
from raymlops.monitoring.label_shape import INPUT
from raymlops.monitoring.label_state import joined_until
from raymlops.monitoring.label_units import answered
from raymlops.monitoring.labelled import labelled_path, read_labelled
from raymlops.monitoring.references import references_of, settings_digest
from raymlops.monitoring.signals import KINDS, Observation
from raymlops.monitoring.verdicts import Judge
from raymlops.monitoring.watch_state import WatchState
from raymlops.serving.prediction_reader import predictions_path, read_predictions
from raymlops.store import Store

CLOSED_AFTER = timedelta(minutes=5)
"""After the end of a day, for what replicas have yet to write."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Read = Callable[[Store, str, datetime, datetime], pa.Table]


def observe(config: Config, base: Path, store: Store, *, now: datetime) -> Observation:
    """What is new about the champion of `config.name`, until `now`, an aware time. Labels are those joined so far.

    Raises RaymlopsError when there is no champion, StoreError and IntegrityError.
    """
    from raymlops.data.build import current_contract
    from raymlops.registry.backend import tracking
    from raymlops.registry.versions import champion

    found = champion(tracking(config.tracking.uri, store), config.name)
    if found is None:
        raise RaymlopsError(f"{config.name}: no version is the champion, so there is nothing to watch")
    name, version = config.name, found.version
    references = references_of(config, store, found)
    state = WatchState.read(store, name, version, settings_digest(config))
    judge = Judge(config, store, references, current_contract(config, base, store), state, now)
    rows = labelled = 0
    until = _day_before(now - CLOSED_AFTER)
    for day, table in _days(config, store, version, predictions_path(name), read_logged, state.inputs_until, until):
        judge.inputs(day, table)
        rows, state.inputs_until = rows + table.num_rows, _next(day)
    joined = joined_until(store, name)
    if joined is not None:
        until = _day_before(min(joined, now) - config.monitoring.label_delay)
        for day, table in _days(config, store, version, labelled_path(name), read_labelled, state.labels_until, until):
            judge.losses(day, table)
            labelled, state.labels_until = labelled + table.num_rows, _next(day)
    judge.done()
    state.newest = max([state.newest, *_stored_days(store, predictions_path(name))])
    state.write(store, name, version)
    watched = [kind for kind in KINDS if judge.watches(kind)]
    signals = [state.signal(kind, version) for kind in watched]
    return Observation(name, version, now.timestamp(), signals, rows, labelled, state.newest or None)


def read_logged(store: Store, endpoint: str, since: datetime, until: datetime) -> pa.Table:
    """Answered rows of the log, inputs under their own names."""
    table = answered(read_predictions(store, endpoint, since, until))
    return table.rename_columns([name.removeprefix(INPUT) for name in table.column_names])


def _days(
    config: Config, store: Store, version: str, root: str, read: Read, since: str, until: str
) -> Iterator[tuple[str, pa.Table]]:
    """Days in [since, until) that have rows of the version, in order; one day is in memory at a time."""
    if config.monitoring.time == "prediction":
        for day in _stored_days(store, root):
            if since <= day < until:
                start = datetime.fromisoformat(day).replace(tzinfo=UTC)
                table = _of_version(read(store, config.name, start, start + timedelta(days=1)), version)
                if table.num_rows:
                    yield day, table
        return
    # Days of a column: a row of any of them may have been logged at any time, so all that was logged is looked at.
    table = _of_version(read(store, config.name, _EPOCH, datetime.now(UTC) + timedelta(days=1)), version)
    if not table.num_rows:
        return
    times = Rows.of(table).times(config.monitoring.time)
    names = np.where(np.isnat(times), "", np.datetime_as_string(times, unit="D"))
    for day in sorted({str(name) for name in names.tolist()} - {""}):
        if since <= day < until:
            yield day, table.filter(pa.array(names == day))


def _stored_days(store: Store, root: str) -> list[str]:
    """Days (UTC) of predictions, below a folder of `date=…`."""
    return sorted(name.removeprefix("date=") for name in store.list(root) if name.startswith("date="))


def _of_version(table: pa.Table, version: str) -> pa.Table:
    return table.filter(pc.equal(table.column("version"), version)) if table.num_rows else table


def _next(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()


def _day_before(moment: datetime) -> str:
    """The first day that has not ended at a moment: days before it are closed."""
    today: date = moment.astimezone(UTC).date()
    return today.isoformat()
