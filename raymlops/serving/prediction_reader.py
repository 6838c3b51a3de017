"""Reading the prediction log, also while it is written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raymlops.errors import IntegrityError
from raymlops.serving.parts import days_between, split_covered
from raymlops.serving.prediction_table import HEAD, unify
from raymlops.store import Store, StoreError, filesystem_of

_TRIES = 20


def predictions_path(endpoint: str) -> str:
    return f"predictions/{endpoint}"


def prediction_parts(store: Store, endpoint: str, since: datetime, until: datetime) -> list[str]:
    """Paths below the store of the parts that can hold answers in [since, until) (aware times), each row in one.

    For Ray Data: `ray.data.from_items(parts).flat_map(…)` with `read_part`. Parts of a running endpoint are merged;
    those that were listed stay for half a minute after that.
    """
    _check(since, until)
    root = predictions_path(endpoint)
    days = days_between(store.list(root), since, until)
    return [f"{root}/{day}/{name}" for day in days for name in split_covered(store.list(f"{root}/{day}"))[0]]


def read_part(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Raises FileNotFoundError when it was merged away, StoreError when it cannot be read, IntegrityError when it is
    no parquet. Columns that the part lacks are left out."""
    store.location(path)  # refuses what leads out of the store
    filesystem, root = filesystem_of(store.uri)
    try:
        with filesystem.open_input_file(f"{root.rstrip('/')}/{path}") as file:
            parquet = pq.ParquetFile(file)
            wanted = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
            return parquet.read(columns=wanted, use_threads=False)
    except FileNotFoundError:
        raise
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{store.location(path)} is not a whole parquet file: {error}") from error
    except OSError as error:
        raise StoreError(f"cannot read {store.location(path)}: {error}") from error


def read_predictions(
    store: Store, endpoint: str, since: datetime, until: datetime, columns: Sequence[str] | None = None
) -> pa.Table:
    """Answers with `time` in [since, until), two aware times; by part, in the order in which they were given there.

    `columns` in the order wanted; one that nothing has is all null. Raises StoreError and IntegrityError.
    """
    needed = None if columns is None else list(dict.fromkeys(["time", *columns]))
    for _ in range(_TRIES):
        try:
            tables = [read_part(store, path, needed) for path in prediction_parts(store, endpoint, since, until)]
            break
        except FileNotFoundError:  # merged between listing and reading: the next listing has its rows
            continue
    else:
        raise StoreError(f"the log of {endpoint!r} changes faster than it can be read")
    table = unify(_within(table, since, until) for table in tables)
    if columns is None:
        return table
    types = {field.name: field.type for field in HEAD}
    kept: dict[str, Any] = {
        name: table.column(name) if name in table.column_names else pa.nulls(table.num_rows, types.get(name, pa.null()))
        for name in columns
    }
    return pa.table(kept)


def _within(table: pa.Table, since: datetime, until: datetime) -> pa.Table:
    kind = HEAD.field("time").type
    time = table.column("time")
    return table.filter(pc.and_(pc.greater_equal(time, pa.scalar(since, kind)), pc.less(time, pa.scalar(until, kind))))


def _check(since: datetime, until: datetime) -> None:
    if since.tzinfo is None or until.tzinfo is None:
        raise ValueError("since and until: expected times with a time zone")
