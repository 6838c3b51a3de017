"""Reading labels: one per prediction, whichever files they lie in and however often they were sent."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymlops.errors import IntegrityError
from raymlops.serving.label_files import SCHEMA, label_files, labels_path
from raymlops.serving.parts import days_between
from raymlops.store import Store, StoreError

_TRIES = 20


def read_labels(store: Store, endpoint: str, since: datetime, until: datetime, losers: bool = False) -> pa.Table:
    """Labels received in [since, until), two aware times, in the order received.

    One row per prediction id, or per key hash where no id was given: the label that was received first, with
    `conflicts`, the number of different labels that came later. With `losers` those too; `wins` tells them apart.
    `label` is JSON, `number` its value if it is no text, true as 1. For the labels of predictions made since a time,
    read from that time on: no label comes before its prediction. Raises StoreError and IntegrityError.
    """
    collapsed = collapse(read_label_rows(store, endpoint, since, until))
    return collapsed if losers else collapsed.filter(collapsed.column("wins")).drop_columns(["wins"])


def read_label_rows(store: Store, endpoint: str, since: datetime, until: datetime) -> pa.Table:
    """Everything that was received in [since, until), as it was stored: `label_files.SCHEMA`, in no order, with rows
    that stand in two files while these are merged. Raises as `read_labels`."""
    if since.tzinfo is None or until.tzinfo is None:
        raise ValueError("since and until: expected times with a time zone")
    root = labels_path(endpoint)
    for _ in range(_TRIES):
        days = days_between(store.list(root), since - timedelta(days=1), until)  # a file may reach past midnight
        paths = [f"{root}/{day}/{name}" for day in days for name in label_files(store.list(f"{root}/{day}"))]
        tables = [_read(store, path) for path in paths]
        found = [table for table in tables if table is not None]
        if len(found) == len(paths):
            break  # else merged between listing and reading: the next listing has its rows
    else:
        raise StoreError(f"the labels of {endpoint!r} change faster than they can be read")
    table = pa.concat_tables(found) if found else SCHEMA.empty_table()
    kind = SCHEMA.field("received").type
    received = table.column("received")
    within = pc.and_(pc.greater_equal(received, pa.scalar(since, kind)), pc.less(received, pa.scalar(until, kind)))
    return table.filter(within)


def collapse(table: pa.Table) -> pa.Table:
    """Equal labels of a unit become the earliest of them; adds `wins` and `conflicts`. The order of rows in `table`
    does not matter: ties go by the label's text, then by `at`."""
    unit = pc.if_else(
        pc.is_valid(table.column("prediction_id")),
        pc.binary_join_element_wise("id", table.column("prediction_id"), " "),
        pc.binary_join_element_wise("key", table.column("key_hash"), " "),
    )
    table = table.append_column("unit", unit)
    table = table.sort_by([(name, "ascending") for name in ("unit", "label", "received", "at")])
    table = table.filter(pa.array(_starts(table, ["unit", "label"])))
    table = table.sort_by([(name, "ascending") for name in ("unit", "received", "label")])
    wins = _starts(table, ["unit"])
    group = np.cumsum(wins) - 1
    later = np.bincount(group, minlength=int(wins.sum())) - 1 if len(group) else np.zeros(0, np.int64)
    table = table.append_column("wins", pa.array(wins, pa.bool_()))
    table = table.append_column("conflicts", pa.array(later[group], pa.int32()))
    return table.sort_by([(name, "ascending") for name in ("received", "unit", "label")]).drop_columns(["unit"])


def _starts(table: pa.Table, names: list[str]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Where a row differs from the row before in one of the columns."""
    starts = np.zeros(table.num_rows, np.bool_)
    starts[:1] = True
    for name in names:
        codes = table.column(name).combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
        starts[1:] |= codes[1:] != codes[:-1]
    return starts


def _read(store: Store, path: str) -> pa.Table | None:
    """None when the file was merged away."""
    try:
        return pq.read_table(pa.BufferReader(store.read(path)), use_threads=False).cast(SCHEMA)
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{store.location(path)} is not a whole parquet file: {error}") from error
    except StoreError:
        if store.exists(path):
            raise
        return None
