"""Predictions with their labels: where they lie, how they are read.

`labelled/ENDPOINT/date=YYYY-MM-DD/join-000007-00.parquet`, by the day (UTC) of the prediction; the number is that of
the join that wrote the file. Every labelled row of the prediction log is in one file, with the columns

    prediction_id, row       which prediction, and which row of its request
    time                     of the prediction (UTC)
    labelled_at, received    when the outcome was known, and when it came (UTC)
    version, variant, status, output.…    as in the prediction log
    the model's input columns under their own names, and the label under that of `data.target`

so that `data.source: {kind: parquet, path: STORAGE/labelled/ENDPOINT}` trains on it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from raymlops.monitoring.label_match import TIME
from raymlops.serving.parts import days_between
from raymlops.serving.prediction_reader import read_part
from raymlops.serving.prediction_table import unify
from raymlops.store import Store

HEAD = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("row", pa.int32()),
        ("time", TIME),
        ("labelled_at", TIME),
        ("received", TIME),
        ("version", pa.string()),
        ("variant", pa.string()),
        ("status", pa.string()),
    ]
)
FILE = re.compile(r"join-(\d{6,})-\d{2,}\.parquet")


def labelled_path(endpoint: str) -> str:
    """Below the store."""
    return f"labelled/{endpoint}"


def labelled_files(store: Store, endpoint: str, since: datetime, until: datetime) -> list[str]:
    """Paths below the store of the files that can hold predictions made in [since, until)."""
    root = labelled_path(endpoint)
    days = days_between(store.list(root), since, until)
    return [f"{root}/{day}/{name}" for day in days for name in store.list(f"{root}/{day}") if FILE.fullmatch(name)]


def read_labelled(
    store: Store, endpoint: str, since: datetime, until: datetime, columns: Sequence[str] | None = None
) -> pa.Table:
    """Labelled rows whose prediction was made in [since, until), two aware times, by time, id and row.

    `columns` in the order wanted; one that no file has is all null. Types that differ between files become the widest,
    as in the prediction log. Raises StoreError and IntegrityError.
    """
    if since.tzinfo is None or until.tzinfo is None:
        raise ValueError("since and until: expected times with a time zone")
    needed = None if columns is None else list(dict.fromkeys([*HEAD.names[:3], *columns]))
    tables = [read_part(store, path, needed) for path in labelled_files(store, endpoint, since, until)]
    table = unify(tables) if tables else HEAD.empty_table()
    time = table.column("time")
    table = table.filter(pc.and_(pc.greater_equal(time, pa.scalar(since, TIME)), pc.less(time, pa.scalar(until, TIME))))
    table = table.sort_by([("time", "ascending"), ("prediction_id", "ascending"), ("row", "ascending")])
    if columns is None:
        return table
    types = {field.name: field.type for field in HEAD}
    empty = {name: pa.nulls(table.num_rows, types.get(name, pa.null())) for name in columns}
    return pa.table({n: table.column(n) if n in table.column_names else empty[n] for n in columns})
