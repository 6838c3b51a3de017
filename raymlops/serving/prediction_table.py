"""Answers as Arrow tables: what the log's columns are, and how values of any kind become typed columns.

Inputs and outputs are columns `input.NAME` and `output.NAME`. Each part has the types that its values have; types are
unified when parts are read or merged, so that a log stays readable when a version changes its columns:
null → anything, whole numbers and fractions → double, and whatever else does not agree → text.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

Column = Sequence[Any] | np.ndarray[Any, Any]
FIRST_TIME, LAST_TIME = -62_135_596_800, 253_402_300_800
"""Start of year 1 and end of year 9999, in seconds since 1970."""

HEAD = pa.schema(
    [
        ("time", pa.timestamp("us", "UTC")),
        ("prediction_id", pa.string()),
        ("row", pa.int32()),  # position in the request
        ("endpoint", pa.string()),
        ("version", pa.string()),
        ("variant", pa.string()),
        ("weight", pa.float64()),
        ("key_hash", pa.string()),
        ("replica", pa.string()),
        ("latency", pa.float64()),  # seconds
        ("status", pa.string()),
    ]
)


class Record(NamedTuple):
    """One request; nothing of it is copied or converted before the writer's turn."""

    time: float
    prediction_id: str
    version: str
    variant: str
    weight: float
    key_hash: int | str | None
    inputs: Mapping[str, Column]
    outputs: Mapping[str, Column] | None
    rows: int
    latency: float
    status: str


def key_text(key_hash: int | str | None) -> str | None:
    """16 hexadecimal digits for a 64-bit hash, so that it survives readers that know no unsigned integers."""
    return f"{key_hash:016x}" if isinstance(key_hash, int) else key_hash


def to_table(records: Sequence[Record], endpoint: str, replica: str, redact: frozenset[str] = frozenset()) -> pa.Table:
    """One row per answered row. Raises ValueError when a column is not as long as its request has rows, or a time is
    not in the calendar."""
    columns = zip(*records, strict=True) if records else [()] * len(Record._fields)
    times, ids, versions, variants, weights, keys, inputs, outputs, sizes, latencies, statuses = map(list, columns)
    arrays = {f"input.{name}": array for name, array in _arrays(inputs, sizes, redact).items()}
    arrays |= {f"output.{name}": array for name, array in _arrays(outputs, sizes).items()}
    head = (times, ids, versions, variants, weights, keys, latencies, statuses)
    return make_table(head, np.array(sizes, np.int64), endpoint, replica, arrays)


def make_table(
    head: Sequence[Sequence[Any]],
    sizes: np.ndarray[Any, Any] | None,
    endpoint: str,
    replica: str,
    arrays: Mapping[str, pa.Array],
) -> pa.Table:
    """`arrays` beside the columns that every log has. `head`: times, ids, versions, variants, weights, key hashes,
    latencies and statuses per request; `sizes`: the rows of each, None: one. Raises ValueError for a time that is not
    in the calendar."""
    times, ids, versions, variants, weights, keys, latencies, statuses = head
    seconds = np.array(times, np.float64)
    if not ((seconds >= FIRST_TIME) & (seconds < LAST_TIME)).all():  # false for NaN
        raise ValueError("a time is not in the calendar")
    micros = np.rint(seconds * 1e6).astype(np.int64)
    requests = {
        "time": pa.array(micros).cast(HEAD.field("time").type),
        "prediction_id": pa.array(ids, pa.string()),
        "version": pa.array(versions, pa.string()),
        "variant": pa.array(variants, pa.string()),
        "weight": pa.array(weights, pa.float64()),
        "key_hash": pa.array(list(map(key_text, keys)) if set(keys) != {None} else keys, pa.string()),
        "latency": pa.array(latencies, pa.float64()),
        "status": pa.array(statuses, pa.string()),
    }
    position = np.zeros(len(ids), np.int32)
    if sizes is not None and not (sizes == 1).all():
        owner = np.repeat(np.arange(len(ids)), sizes)
        position = (np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)).astype(np.int32)
        requests = {name: array.take(pa.array(owner)) for name, array in requests.items()}
    total = len(position)
    same = {"endpoint": pa.repeat(endpoint, total), "replica": pa.repeat(replica, total)}
    rows = requests | same | {"row": pa.array(position)}
    return pa.table({name: rows[name] for name in HEAD.names} | dict(arrays))


def _arrays(
    requests: list[Mapping[str, Column] | None], rows: list[int], redact: frozenset[str] = frozenset()
) -> dict[str, pa.Array]:
    given = [columns or {} for columns in requests]
    wanted = (name for name in dict.fromkeys(chain.from_iterable(given)) if name not in redact)
    return {name: to_array(_pieces(given, name), rows) for name in wanted}


def _pieces(requests: list[Mapping[str, Column]], name: str) -> list[Column | None]:
    try:
        return list(map(itemgetter(name), requests))
    except KeyError:
        return [columns.get(name) for columns in requests]


def to_array(pieces: list[Column | None], rows: list[int]) -> pa.Array:
    """One column from the pieces of its requests; a request without the column (None) has nulls."""
    given: list[Any] = pieces
    types = set(map(type, pieces))
    if type(None) in types:
        given = [[None] * n if piece is None else piece for piece, n in zip(pieces, rows, strict=True)]
        types = set(map(type, given))
    if list(map(len, given)) != rows:
        raise ValueError("a column is not as long as the request has rows")
    if types == {np.ndarray}:
        kinds = {piece.dtype.kind for piece in given}
        if kinds <= {"f", "i"} or kinds == {"b"}:  # numbers: no look at single values
            joined: np.ndarray[Any, Any] = np.concatenate(given)
            if joined.ndim == 1:
                plain = {"f": np.float64, "i": np.int64, "b": np.bool_}[joined.dtype.kind]
                return pa.array(joined.astype(plain, copy=False))
    if np.ndarray in types:
        given = [_listed(piece) if isinstance(piece, np.ndarray) else piece for piece in given]
    return values_to_array(list(chain.from_iterable(given)))


def _listed(array: np.ndarray[Any, Any]) -> list[Any]:
    listed: list[Any] = array.astype("datetime64[us]").tolist() if array.dtype.kind == "M" else array.tolist()
    return listed


def values_to_array(values: list[Any]) -> pa.Array:
    """The narrowest of null, bool, int64, double, timestamp and text that holds all values."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return _strings(values)
    if not kinds <= {bool, int, float, type(None)}:
        values = [_plain(value) for value in values]
        kinds = set(map(type, values))
    kinds.discard(type(None))
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        with contextlib.suppress(OverflowError):  # then they are as near as a fraction can be
            return pa.array(values, pa.int64())
    if kinds == {float}:
        return pa.array(values, pa.float64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds == {datetime}:
        return pa.array(values, pa.timestamp("us"))
    return _strings([_text(value) for value in values])


def _strings(values: list[str | None]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
        return pa.array([value and value.encode("utf-8", "replace").decode() for value in values], pa.string())


def _plain(value: Any) -> Any:
    """A value as one of None, bool, int, float, str, datetime (UTC, naive), or whatever it is."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, datetime):  # pandas' Timestamp too; its NaT has no value
        if value != value:
            return None
        moved = value.astimezone(UTC) if value.tzinfo else value
        return datetime(*moved.timetuple()[:6], moved.microsecond)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else value


def _text(value: Any) -> str | None:
    """One spelling per value, whichever column types it passed through: 1.0 is "1", missing is null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        value = float(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() and abs(value) <= 2**53 else repr(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return json.dumps(value, default=str)


def unify(tables: Iterable[pa.Table]) -> pa.Table:
    """One table of all rows in order; columns as described at the top of this module, in order of appearance."""
    tables = list(tables)
    types: dict[str, pa.DataType] = {}
    for table in tables:
        for field in table.schema:
            known = types.get(field.name)
            types[field.name] = field.type if known is None else _common(known, field.type)
    if not types:
        return HEAD.empty_table()
    schema = pa.schema(list(types.items()))
    return pa.concat_tables([_conform(table, schema) for table in tables]) if tables else schema.empty_table()


def _common(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    return pa.float64() if {one, other} == {pa.int64(), pa.float64()} else pa.string()


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        at = table.schema.get_field_index(field.name)
        if at < 0:
            columns.append(pa.nulls(table.num_rows, field.type))
        elif (column := table.column(at)).type == field.type:
            columns.append(column)
        elif field.type == pa.string():
            columns.append(_strings([_text(value) for value in column.to_pylist()]))
        else:
            columns.append(column.cast(field.type, safe=False))
    return pa.table(columns, schema=schema)
