"""Requests of one row on their way to the prediction log: packed into bytes, taken apart by the writer.

A handful of objects per request, made by one thread and dropped by another, cost a replica three times what one `bytes`
with the same values costs it.
"""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.serving.prediction_table import Column, Record, make_table, values_to_array

Names = tuple[tuple[str, ...], tuple[str, ...]]
"""Of the columns of a request's inputs and outputs."""
Packed = Mapping[Names, list[bytes]]
Head = tuple[float, str, str, str, float, int | str | None, float, str]
"""Time, prediction id, version, variant, weight, key hash, latency, status."""

_HEAD = 8
_PLAIN = frozenset({str, float, int, bool, type(None)})
"""What bytes give back as it was."""
_KINDS = "fiubU"
"""Of an array's values, those that `item` makes plain without a change; not times, say."""
_AT_ONCE = 500
"""Rows that are taken apart without letting another thread in: for less than a millisecond."""


def pack(head: Head, inputs: Mapping[str, Column], outputs: Mapping[str, Column]) -> tuple[Names, bytes] | None:
    """A request of one row. None if a column has not exactly one plain value: it has to wait as it is."""
    try:
        values = [value for [value] in (*inputs.values(), *outputs.values())]
    except (ValueError, TypeError):  # the writer says what is wrong with them
        return None
    if not _PLAIN.issuperset(map(type, values)):
        values = [v.item() if isinstance(v, np.generic) and v.dtype.kind in _KINDS else v for v in values]
        if not _PLAIN.issuperset(map(type, values)):
            return None
    return (tuple(inputs), tuple(outputs)), marshal.dumps((*head, *values))


def packed_table(names: Names, rows: list[bytes], endpoint: str, replica: str, redact: frozenset[str]) -> pa.Table:
    """The same table as `to_table` makes of the requests."""
    columns = _columns(rows)
    inputs, outputs = names
    given = zip(inputs, columns[_HEAD:], strict=False)
    found = zip(outputs, columns[_HEAD + len(inputs) :], strict=True)
    arrays = {f"input.{name}": values_to_array(values) for name, values in given if name not in redact}
    arrays |= {f"output.{name}": values_to_array(values) for name, values in found}
    return make_table(columns[:_HEAD], None, endpoint, replica, arrays)


def unpacked(packed: Packed) -> Iterator[Record]:
    """The requests one by one."""
    for (inputs, outputs), rows in packed.items():
        for time, identity, version, variant, weight, key, latency, status, *values in map(marshal.loads, rows):
            columns = [[value] for value in values]
            given = dict(zip(inputs, columns, strict=False))
            found = dict(zip(outputs, columns[len(inputs) :], strict=True))
            yield Record(time, identity, version, variant, weight, key, given, found, 1, latency, status)


def _columns(rows: list[bytes]) -> list[list[Any]]:
    columns: list[list[Any]] = []
    for start in range(0, len(rows), _AT_ONCE):
        block = zip(*map(marshal.loads, rows[start : start + _AT_ONCE]), strict=True)
        if not columns:
            columns = [list(values) for values in block]
            continue
        for column, values in zip(columns, block, strict=True):
            column.extend(values)
    return columns
