"""Rows of the prediction log with their labels, in the columns and types that training expects."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.tree import Config
from raymlops.data.kinds import kind_of
from raymlops.errors import ConfigError, DataError
from raymlops.features.rows import Rows
from raymlops.features.values import text
from raymlops.monitoring.labelled import HEAD

INPUT, OUTPUT = "input.", "output."


def readable(labels: list[str | None], task: str) -> np.ndarray:
    """Which canonical texts are labels of this task: finite numbers for regression, anything else for classes."""
    if task != "regression":
        return np.array([label is not None for label in labels], np.bool_)
    return np.array([_finite(label) for label in labels], np.bool_)


def shape(rows: pa.Table, config: Config, kinds: Mapping[str, str]) -> pa.Table:
    """`rows` of the log, each with its `label` (canonical text), `labelled_at` and `received`, as `labelled.py` says.

    `kinds` are the kinds of columns that a contract asks for (`data/kinds.py`). A column that cannot be converted stays
    as it was logged, for the contract to name. Raises ConfigError when an input has the name of a column of ours.
    """
    target, features = config.data.target, config.features
    columns: dict[str, Any] = {name: rows.column(name).cast(HEAD.field(name).type) for name in HEAD.names}
    columns |= {name: rows.column(name) for name in rows.column_names if name.startswith(OUTPUT)}
    inputs = {name.removeprefix(INPUT): rows.column(name) for name in rows.column_names if name.startswith(INPUT)}
    inputs.pop(target, None)
    for name in features.raw_columns():
        if name not in config.serving.log.redact:  # what was not kept is absent: empty, it would train a model blindly
            inputs.setdefault(name, pa.chunked_array([pa.nulls(rows.num_rows)]))
    _check_names(inputs, config)
    wanted = dict.fromkeys(features.dates, "timestamp") | dict.fromkeys(features.tensor, "tensor")
    if config.time_column is not None:
        wanted[config.time_column] = "timestamp"
    for name, column in inputs.items():
        kind = "tensor" if name in features.tensor else kinds.get(name) or wanted.get(name)
        columns[name] = column if kind is None else as_kind(name, column, kind)
    if config.time_column is not None:
        columns.setdefault(config.time_column, columns["time"])
    kind = kinds.get(target) or ("number" if config.task == "regression" else "string")
    columns[target] = as_kind(target, rows.column("label"), kind)
    if config.task == "regression" and kind_of(columns[target].type) == "string":  # 3.5 where 3 and 4 were learnt
        columns[target] = as_kind(target, columns[target], "number")
    return pa.table(columns)


def as_kind(name: str, column: pa.ChunkedArray, kind: str) -> pa.ChunkedArray:
    """The same values as this kind; the column itself if they are none of it."""
    found = kind_of(column.type)
    if found == kind or found == "null":
        return column
    try:
        if kind == "timestamp":
            return pa.chunked_array([pa.array(Rows({name: column}, len(column)).times(name), pa.timestamp("us"))])
        if kind == "string":
            return pa.chunked_array([pa.array(Rows({name: column}, len(column)).texts(name), pa.string())])
        read = _READ[kind]
        values = [None if value is None or value != value else read(value) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(values, _TYPES[kind])])
    except (DataError, ValueError, TypeError, KeyError, OverflowError, pa.ArrowInvalid):
        return column


def canonical(name: str, column: Any, length: int, times: Collection[str] = ()) -> list[str | None]:
    """The canonical text of every value: 3 and 3.0 are "3", a time is ISO 8601 in UTC, what is missing is None.

    Columns named in `times` are read as times even where they are text. Raises DataError for other kinds of values.
    """
    rows = Rows({name: column}, length)
    if name in times or (hasattr(column, "type") and kind_of(column.type) == "timestamp"):
        moments = rows.times(name)
        shown = np.datetime_as_string(moments)
        return [None if missing else str(t) for t, missing in zip(shown, np.isnat(moments), strict=True)]
    return [value or None for value in rows.texts(name)]


def _check_names(inputs: Collection[str], config: Config) -> None:
    taken = [name for name in inputs if name in HEAD.names and name != config.data.target]
    if taken or config.data.target in HEAD.names:
        name = taken[0] if taken else config.data.target
        raise ConfigError(
            f"data: the column {name!r} of the data has the name of a column of labelled rows "
            f"({', '.join(HEAD.names)}); rename it in the data"
        )


def _finite(label: str | None) -> bool:
    try:
        return label is not None and math.isfinite(float(label))
    except ValueError:
        return False


def _whole(value: Any) -> int:
    number = float(value)
    if not number.is_integer():
        raise ValueError(f"{value} is no whole number")
    return value if isinstance(value, int) else int(value) if isinstance(value, str) else int(number)


def _truth(value: Any) -> bool:
    return {"true": True, "false": False, "1": True, "0": False}[str(text(value))]


def _tensor(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


_READ: dict[str, Callable[[Any], Any]] = {"integer": _whole, "number": float, "boolean": _truth, "tensor": _tensor}
_TYPES = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_(), "tensor": None}
