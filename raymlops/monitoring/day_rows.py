"""Days of the prediction log and of labelled rows, in order: what a look gives to the judges, a day at a time.

Rows of both have the columns of the log: ours under their own names, the model's inputs as `input.NAME`. So an input
may be called like one of ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raymlops.config.monitoring import BY_PREDICTION
from raymlops.config.tree import Config
from raymlops.features.rows import Rows
from raymlops.monitoring.label_shape import INPUT, OUTPUT
from raymlops.monitoring.label_units import answered
from raymlops.monitoring.labelled import HEAD, read_labelled
from raymlops.serving.prediction_reader import read_predictions
from raymlops.serving.prediction_table import unify
from raymlops.store import Store

OPEN_DAYS = 60
"""Days after its own on which a day of the log is looked at again for rows whose day is yet to be judged."""
Read = Callable[[Store, Config, datetime, datetime], pa.Table]


def logged_rows(store: Store, config: Config, since: datetime, until: datetime) -> pa.Table:
    """Answered rows of the log, of predictions made in [since, until)."""
    return answered(read_predictions(store, config.name, since, until))


def labelled_rows(store: Store, config: Config, since: datetime, until: datetime) -> pa.Table:
    """Labelled rows, the label under the name in `data.target`."""
    table = read_labelled(store, config.name, since, until)
    ours = {*HEAD.names, config.data.target}
    names = table.column_names
    return table.rename_columns([n if n in ours or n.startswith(OUTPUT) else INPUT + n for n in names])


def inputs_of(table: pa.Table) -> pa.Table:
    """The model's inputs under their own names."""
    names = [name for name in table.column_names if name.startswith(INPUT)]
    return table.select(names).rename_columns([name.removeprefix(INPUT) for name in names])


def of_version(table: pa.Table, version: str) -> pa.Table:
    import pyarrow.compute as pc

    return table.filter(pc.equal(table.column("version"), version)) if table.num_rows else table


def clock(config: Config, table: pa.Table) -> NDArray[np.datetime64]:
    """The times (n,) whose days are the monitor's windows."""
    by = config.monitoring.time
    return Rows.of(table).times("time" if by == BY_PREDICTION else INPUT + by)


@dataclass
class PartsSeen:
    """Where days are those of a column: which days of the log have been looked at, and how many of their rows have had
    their say. A day of the log whose rows all have is not read again."""

    until: str = ""
    """First day of the log that was never read."""
    open: dict[str, int] = field(default_factory=dict)
    """Earlier days of the log that are read again → rows that were judged or counted as late."""
    late: int = 0
    """Rows of all days of the log that came when their day had been judged, and rows without a time."""


def days_of_predictions(
    store: Store, config: Config, read: Read, stored: Sequence[str], since: str, until: str
) -> Iterator[tuple[str, pa.Table]]:
    """Days in [since, until) that have rows; one is in memory at a time."""
    for day in stored:
        if since <= day < until:
            start = start_of(day)
            table = read(store, config, start, start + timedelta(days=1))
            if table.num_rows:
                yield day, table


def days_of_column(
    store: Store,
    config: Config,
    read: Read,
    stored: Sequence[str],
    since: str,
    until: str,
    seen: PartsSeen,
    closed: str,
) -> Iterator[tuple[str, pa.Table]]:
    """Days in [since, until) of the column that `monitoring.time` names; rows of all of them are in memory.

    `stored` are the days of the log so far; nothing is added to those before `closed`. `seen` is brought up to date.
    """
    pieces: dict[str, list[pa.Table]] = defaultdict(list)
    for part in stored:
        if part < seen.until and part not in seen.open:
            continue
        table = read(store, config, start_of(part), start_of(part) + timedelta(days=1))
        names = day_names(clock(config, table)) if table.num_rows else np.zeros(0, "U10")
        late = (names == "") | (names < since)
        due = ~late & (names < until)
        seen.late += int(late.sum()) - seen.open.pop(part, 0)
        for day in np.unique(names[due]).tolist():
            pieces[day].append(table.filter(pa.array(names == day)))
        settled = int(late.sum() + due.sum())
        if part >= closed or (settled < len(names) and later(part, OPEN_DAYS) >= closed):
            seen.open[part] = settled
        seen.until = max(seen.until, later(part, 1))
    for day in sorted(pieces):
        yield day, unify(pieces[day])


def day_names(times: NDArray[np.datetime64]) -> NDArray[np.str_]:
    """ISO dates, (n,); empty where there is no time, or none that has one."""
    odd = np.isnat(times) | (times < np.datetime64("0001-01-01")) | (times >= np.datetime64("9999-12-31"))
    names = np.datetime_as_string(np.where(odd, np.datetime64("2000-01-01"), times), unit="D")
    return np.asarray(np.where(odd, "", names), "U10")


def start_of(day: str) -> datetime:
    return datetime.fromisoformat(day).replace(tzinfo=UTC)


def later(day: str, days: int) -> str:
    return (date.fromisoformat(day) + timedelta(days=days)).isoformat()


def days_between(first: str, until: str) -> list[str]:
    """ISO dates of [first, until)."""
    return [later(first, n) for n in range(max(0, (date.fromisoformat(until) - date.fromisoformat(first)).days))]
