"""Predictions and the labels that came for them since the last time become labelled rows.

    report = join_labels(config, Store.at(config.storage), now=datetime.now(UTC))

Each prediction gets one label, the one received first; each label is joined once. Run twice it changes nothing, killed
it loses nothing: see `label_state.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raymlops.config.tree import Config
from raymlops.errors import StoreError
from raymlops.features.rows import Rows
from raymlops.lock import Claim, hold
from raymlops.monitoring.label_match import FOUND, KNOWN, Settled, distinct, latest, micros, settle
from raymlops.monitoring.label_sources import Sources
from raymlops.monitoring.label_state import JoinState, joined_until
from raymlops.monitoring.label_units import entity_names, feedback_labels
from raymlops.monitoring.label_work import GONE, Search, Spread, Write, here, on_ray
from raymlops.monitoring.labelled import labelled_files, labelled_path
from raymlops.serving.label_reader import read_label_rows
from raymlops.serving.prediction_reader import prediction_parts, read_part
from raymlops.store import Store

__all__ = ["JoinReport", "join_labels", "joined_until"]

OVERLAP = timedelta(minutes=10)
"""A join looks so far back behind the last one, for feedback that was received before it and stored after it."""
SETTLE = timedelta(minutes=1)
"""A label for the latest prediction before a time waits so long after it, for predictions that are yet to be logged."""
MOST_PARTS_HERE = 64
PARTS_PER_TASK = 16
ROWS_PER_FILE = 500_000
_DAY = 86_400_000_000
_MICROSECOND = timedelta(microseconds=1)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
_TRIES = 20


@dataclass(frozen=True)
class JoinReport:
    """What one join did. Of the labels that it saw for the first time, each is in one of the counts."""

    endpoint: str
    until: datetime
    """Labels received before were taken."""
    labels: int
    """New ones, and those that waited."""
    joined: int
    """Labelled rows written."""
    duplicates: int
    """Say what the prediction's label says."""
    conflicts: int
    """Say something else than the prediction's label, which stays."""
    late: int
    """Came later than `labels.max_delay` after their prediction."""
    orphans: int
    """Belong to no prediction in the log, and have waited for `labels.wait`."""
    waiting: int
    """Are taken up again by the next join."""
    unreadable: int
    """Do not fit the task, or lack their time."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "until": self.until.isoformat()}


def join_labels(config: Config, store: Store, *, now: datetime, base: Path = Path()) -> JoinReport:
    """Joins what was received before `now`, an aware time. `base` is the directory of the configuration file.

    The log is searched in this process while it is small, else by a Ray Data job; sources under `labels:` are read with
    Ray Data. Raises DataError for sources that cannot be read, Held while another join is at work, StoreError when the
    store fails; then the next join does what this one did not. A label that says it was received after `now` waits.
    """
    if now.tzinfo is None:
        raise ValueError("now: expected a time with a time zone")
    endpoint = config.name
    with hold(store, lock_root(endpoint), f"labels of {endpoint}") as claim, ExitStack() as stack:
        state = JoinState.read(store, endpoint)
        sources = Sources(config, base, now, state.sources)
        waiting = state.waiting(store, endpoint)
        fresh_from = state.until or _BEGINNING
        since = max(_BEGINNING, fresh_from - min(OVERLAP, config.labels.wait)) if state.until else _BEGINNING
        feedback = read_label_rows(store, endpoint, since, max(now, since))
        fed, unreadable = feedback_labels(feedback, fresh_from, config.task)
        tables, refused = sources.read(stack)
        labels = distinct(pa.concat_tables([waiting, fed, *tables]))
        settled, matched = _join(labels, config, store, base, state.run + 1, now, claim, stack)
        received = micros(labels.column("received"))
        young = received > _micros(now) - config.labels.wait // _MICROSECOND
        # A label as of a time far ahead would wait for ever.
        unsettled = _unsettled(labels, now) & (received > _micros(now - SETTLE))
        kept = ~matched & (young | unsettled)
        fresh = labels.column("fresh").to_numpy()
        report = JoinReport(
            endpoint,
            now,
            labels=int(fresh.sum()) + unreadable + refused,
            joined=settled.joined.num_rows,
            duplicates=settled.duplicates,
            conflicts=settled.conflicts,
            late=settled.late,
            orphans=int((~matched & ~kept & fresh).sum()),
            waiting=int(kept.sum()),
            unreadable=unreadable + refused,
        )
        counted = ("joined", "duplicates", "conflicts", "late", "orphans", "unreadable")
        totals = {name: state.totals.get(name, 0) + getattr(report, name) for name in counted}
        until = max(now, fresh_from)
        claim.check()
        JoinState(state.run + 1, until, sources.read_now, totals).write(store, endpoint, labels.filter(pa.array(kept)))
    return report


def lock_root(endpoint: str) -> str:
    """Where the claims of joins lie; the underscore hides them from whoever reads the directory as a table."""
    return f"{labelled_path(endpoint)}/_join"


def _join(
    labels: pa.Table,
    config: Config,
    store: Store,
    base: Path,
    run: int,
    now: datetime,
    claim: Claim,
    stack: ExitStack,
) -> tuple[Settled, np.ndarray]:
    """Finds, decides and writes; and which labels found a prediction."""
    matched = np.zeros(labels.num_rows, np.bool_)
    ahead = micros(labels.column("received")) > _micros(now)
    number = np.flatnonzero(~_unsettled(labels, now) & ~ahead)
    ripe = labels.take(pa.array(number))
    found = _search(ripe, config, store, now, stack) if ripe.num_rows else FOUND.empty_table()
    matched[number[found.column("number").to_numpy()]] = True
    settled = settle(ripe, found, _known(store, config, found), config.labels.max_delay)
    joined = settled.joined
    if joined.num_rows:
        own = ripe.take(joined.column("number"))
        joined = joined.append_column("label", own.column("label")).append_column("labelled_at", own.column("at"))
        joined = joined.append_column("received", own.column("received"))
        joined = joined.sort_by([("time", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")])
        spread = _spread(joined.num_rows > ROWS_PER_FILE, config, store, stack)
        claim.check()
        spread(Write(store, config, _kinds(config, base, store), run), _files(micros(joined.column("time"))), joined)
    return settled, matched


def _search(labels: pa.Table, config: Config, store: Store, now: datetime, stack: ExitStack) -> pa.Table:
    moments = micros(labels.column("at"))
    # Twice the delay: so that a label which comes too late is told from one that belongs to nothing.
    since = _moment(int(moments.min()) - 2 * (config.labels.max_delay // _MICROSECOND))
    until = _moment(max(_micros(now), int(moments.max())) + 1_000_000)
    entities = tuple(dict.fromkeys(entity_names(source) for source in config.labels.sources if source.entity))
    for _ in range(_TRIES):
        parts = prediction_parts(store, config.name, since, until)
        spread = _spread(len(parts) > MOST_PARTS_HERE, config, store, stack)
        groups = [parts[start : start + PARTS_PER_TASK] for start in range(0, len(parts), PARTS_PER_TASK)]
        found = spread(Search(store, entities, tuple(config.features.dates)), groups, labels)
        if not any(table.num_rows and pc.min(table.column("number")).as_py() == GONE for table in found):
            return latest(found)
    raise StoreError(f"the log of {config.name!r} changes faster than it can be read")


def _known(store: Store, config: Config, found: pa.Table) -> pa.Table:
    """The labels that the predictions in `found` have already."""
    target, tables = config.data.target, []
    if not found.num_rows:
        return KNOWN.empty_table()
    ids = found.column("prediction_id").combine_chunks().unique()
    days = sorted({moment.date() for moment in found.column("time").to_pylist()})
    for day in days:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        for path in labelled_files(store, config.name, start, start + timedelta(days=1)):
            table = read_part(store, path, ["prediction_id", "row", target, "received"])
            table = table.filter(pc.is_in(table.column("prediction_id"), value_set=ids))
            texts = Rows({target: table.column(target)}, table.num_rows).texts(target)
            columns = [table.column("prediction_id"), table.column("row"), pa.array(texts, pa.string())]
            tables.append(pa.table([*columns, table.column("received")], schema=KNOWN))
    return pa.concat_tables(tables) if tables else KNOWN.empty_table()


def _unsettled(labels: pa.Table, now: datetime) -> np.ndarray:
    moments = micros(labels.column("at"))
    return np.asarray(labels.column("as_of").to_numpy() & (moments > _micros(now - SETTLE)))


def _files(moments: np.ndarray) -> list[tuple[int, int]]:
    """Start and length of every file's rows, given the sorted times of all: a day each, or less."""
    spans = []
    _, first = np.unique(moments // _DAY, return_index=True)
    for start, end in zip(first, [*first[1:], len(moments)], strict=True):
        spans += [(int(at), int(min(ROWS_PER_FILE, end - at))) for at in range(start, end, ROWS_PER_FILE)]
    return spans


def _kinds(config: Config, base: Path, store: Store) -> Mapping[str, str]:
    from raymlops.data.contract_file import current_contract

    contract = current_contract(config, base, store)
    return {} if contract is None else {name: rule.kind for name, rule in contract.columns.items()}


def _spread(large: bool, config: Config, store: Store, stack: ExitStack) -> Spread:
    if not large:
        return here
    from raymlops.cluster import check_shared_storage, connected

    cluster = stack.enter_context(connected(config.ray))
    check_shared_storage(config, store, cluster.nodes)
    return on_ray


def _micros(moment: datetime) -> int:
    return (moment - _BEGINNING) // _MICROSECOND


def _moment(micros: int) -> datetime:
    """What a label says may lie before 1970 or after the last year that Python knows."""
    return _BEGINNING + min(max(micros, 0), _micros(_END)) * _MICROSECOND
