"""Requests of one row on their way to the prediction log.

Most that come at the same time were scored together, and then their values are columns already. So a request leaves no
more than where they are; its own columns, a few dozen small objects that one thread makes and another drops, would cost
a replica three times that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from raymlops.serving.batching import Batch
from raymlops.serving.prediction_table import Column, Record, make_table, to_array

Single = tuple[Any, ...]
"""Time, prediction id, version, variant, weight, key hash, latency, status, the batch, and which row of it."""
_Part = tuple[Batch, slice | None]
"""Rows of a batch; None: all."""


def singles_tables(
    singles: Sequence[Single], endpoint: str, replica: str, redact: frozenset[str] = frozenset()
) -> list[pa.Table]:
    """The same rows as `to_table` makes of the requests, in a table for every set of columns. Raises ValueError when a
    column is not as long as its batch has rows, or a time is not in the calendar."""
    alike: dict[Any, tuple[list[Single], list[_Part]]] = defaultdict(lambda: ([], []))
    for start, stop in _runs(singles):
        batch, row = singles[start][-2:]
        requests, parts = alike[tuple(batch.columns), tuple(batch.answer)]
        requests += singles[start:stop]
        parts.append((batch, None if stop - start == batch.rows else slice(row, row + stop - start)))
    tables = []
    for (inputs, outputs), (requests, parts) in alike.items():
        *head, _, _ = zip(*requests, strict=True)
        sizes = [batch.rows if rows is None else rows.stop - rows.start for batch, rows in parts]
        given = [(batch.columns, rows) for batch, rows in parts]
        found = [(batch.answer, rows) for batch, rows in parts]
        arrays = {f"input.{name}": _array(given, name, sizes) for name in inputs if name not in redact}
        arrays |= {f"output.{name}": _array(found, name, sizes) for name in outputs}
        tables.append(make_table(head, None, endpoint, replica, arrays))
    return tables


def apart(singles: Sequence[Single]) -> Iterator[Record]:
    """The requests, each with its own values."""
    for *who, latency, status, batch, row in singles:
        given, found = batch.columns, batch.answer
        if batch.rows > 1:  # who was alone keeps what came, so that a column of two values is still found to be wrong
            given = {name: column[row : row + 1] for name, column in given.items()}
            found = {name: column[row : row + 1] for name, column in found.items()}
        yield Record._make((*who, given, found, 1, latency, status))


def _runs(singles: Sequence[Single]) -> Iterator[tuple[int, int]]:
    """From where to where requests are rows of one batch, in its order."""
    start, last, expected = 0, None, 0
    for number, one in enumerate(singles):
        batch, row = one[-2], one[-1]
        if batch is not last or row != expected:
            if number:
                yield start, number
            start, last = number, batch
        expected = row + 1
    if singles:
        yield start, len(singles)


def _array(parts: Sequence[tuple[Mapping[str, Column], slice | None]], name: str, sizes: list[int]) -> pa.Array:
    return to_array([columns[name] if rows is None else columns[name][rows] for columns, rows in parts], sizes)
