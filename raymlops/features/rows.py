"""Raw rows, however they arrive, to NumPy columns: the same rules for a frame of a million rows and for one dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raymlops.errors import DataError
from raymlops.features.columns import Column, encoded, flat_tensor, from_pandas, is_arrow
from raymlops.features.values import flatten, is_missing, number_of, short, single, text, time_of


class Rows:
    """Named columns of equal length. Values are converted when asked for, by the use that is made of them."""

    def __init__(self, columns: Mapping[str, Column], length: int) -> None:
        self.columns, self.length = columns, length

    @classmethod
    def of(cls, rows: Any) -> Rows:
        """From a pyarrow Table, a pandas DataFrame, a mapping (one row) or a sequence of mappings."""
        if isinstance(rows, Rows):
            return rows
        if isinstance(rows, Mapping):
            return cls({name: [value] for name, value in rows.items()}, 1)
        if hasattr(rows, "column_names"):  # pyarrow.Table
            return cls({name: rows.column(name) for name in rows.column_names}, rows.num_rows)
        if hasattr(rows, "iloc"):  # pandas.DataFrame
            return cls({str(name): from_pandas(rows[name]) for name in rows.columns}, len(rows))
        if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            names = {name for row in rows for name in row}
            partial = [name for name in names if any(name not in row for row in rows)]
            if partial:
                first = next(i for i, row in enumerate(rows) if partial[0] not in row)
                raise DataError(f"column {partial[0]!r}: missing from row {first}")
            return cls({name: [row[name] for row in rows] for name in names}, len(rows))
        raise DataError(f"rows: found {type(rows).__name__}, expected a table, a data frame, a row or a list of rows")

    def _column(self, name: str) -> Column:
        try:
            return self.columns[name]
        except KeyError:
            present = ", ".join(sorted(self.columns)[:20])
            raise DataError(f"column {name!r}: missing; the rows have {present}") from None

    def numbers(self, name: str) -> np.ndarray:
        """float64 (n,); missing and infinite values as NaN, booleans as 0 and 1. Raises DataError for text."""
        column = self._column(name)
        is_numeric = isinstance(column, np.ndarray) and column.dtype.kind in "biuf"
        values: np.ndarray
        if self.length == 1 and (is_numeric or type(column) is list):  # the same, without what NumPy costs per call
            value = float(column[0]) if is_numeric else number_of(name, 0, column[0])
            return np.array([value + 0.0 if math.isfinite(value) else math.nan])
        if is_numeric:
            values = column.astype(np.float64)
        elif is_arrow(column):
            import pyarrow as pa
            import pyarrow.types as kinds

            if kinds.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if kinds.is_null(column.type):
                return np.full(self.length, np.nan)
            if kinds.is_boolean(column.type) or kinds.is_integer(column.type) or kinds.is_floating(column.type):
                values = np.array(column.cast(pa.float64(), safe=False).to_numpy(), dtype=np.float64)
            elif kinds.is_decimal(column.type):
                values = np.array([math.nan if v is None else float(v) for v in column.to_pylist()], dtype=np.float64)
            else:
                example = next((v for v in column.to_pylist() if v is not None), None)
                raise DataError(f"column {name!r}: found {column.type} (such as {example!r}), expected numbers")
        else:
            values = np.fromiter((number_of(name, i, v) for i, v in enumerate(column)), np.float64, self.length)
        finite = np.isfinite(values)
        if np.count_nonzero(finite) < len(finite):
            values[~finite] = np.nan
        values += 0.0  # −0.0 becomes 0.0: the two compare equal, so a sort may leave them in either order
        return values

    def texts(self, name: str) -> np.ndarray:
        """Object array (n,) of canonical text or None: 3 and 3.0 are "3", True is "true", NaN is missing."""
        column = self._column(name)
        if is_arrow(column):
            codes, distinct = encoded(name, column)
            known = np.empty(len(distinct) + 1, dtype=object)
            known[:-1] = [text(value) for value in distinct]
            known[-1] = None
            return np.asarray(known[codes])
        out = np.empty(self.length, dtype=object)
        out[:] = [text(value) for value in column]
        return out

    def codes(self, name: str, lookup: Callable[[str | None], int]) -> np.ndarray:
        """int32 (n,): `lookup` of each value's canonical text, once per distinct value where that is possible."""
        column = self._column(name)
        if is_arrow(column):
            codes, distinct = encoded(name, column)
            table = np.array([lookup(text(value)) for value in distinct] + [lookup(None)], dtype=np.int32)
            return np.asarray(table[codes])
        if isinstance(column, np.ndarray):
            values, inverse = np.unique(column, return_inverse=True)
            return np.asarray(np.array([lookup(text(value)) for value in values.tolist()], dtype=np.int32)[inverse])
        return np.fromiter((lookup(text(value)) for value in column), np.int32, self.length)

    def times(self, name: str) -> np.ndarray:
        """datetime64[us] (n,) in UTC without zone, NaT where missing; text is read as ISO 8601."""
        column = self._column(name)
        if is_arrow(column):
            import pyarrow as pa
            import pyarrow.types as kinds

            if kinds.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            if kinds.is_timestamp(column.type):
                # NumPy rounds nanoseconds down, also before 1970, as is done for a single value; Arrow rounds to zero.
                return np.asarray(column.cast(pa.timestamp(column.type.unit)).to_numpy(), dtype="datetime64[us]")
            if kinds.is_date(column.type):
                return np.asarray(column.cast(pa.timestamp("us")).to_numpy(), dtype="datetime64[us]")
            column = column.to_pylist()
        elif isinstance(column, np.ndarray) and column.dtype.kind == "M":
            return column.astype("datetime64[us]")
        return np.array([time_of(name, i, v) for i, v in enumerate(column)], dtype="datetime64[us]")

    def tensors(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """float32 (n, *shape). Raises DataError naming the row whose array has another size or a missing value."""
        column, size = self._column(name), math.prod(shape)
        if is_arrow(column):
            flat = flat_tensor(column, size)
            if flat is not None:
                return single(flat).reshape(self.length, *shape)
            column = column.to_pylist()
        elif isinstance(column, np.ndarray) and column.dtype.kind in "biuf" and column[:1].size == size:
            return single(column).reshape(self.length, *shape)
        out = np.empty((self.length, size), dtype=np.float32)
        for i, value in enumerate(column):
            if is_missing(value):
                raise DataError(f"column {name!r}, row {i}: found a missing value, expected {size} numbers")
            try:
                row = flatten(value)
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"column {name!r}, row {i}: found {short(value)}, expected numbers") from None
            if row.size != size:
                shown = f"expected {size} (shape {list(shape)})"
                raise DataError(f"column {name!r}, row {i}: found {row.size} values, {shown}")
            out[i] = single(row)
        return out.reshape(self.length, *shape)

    def natural(self, name: str, kind: str) -> np.ndarray:
        """The column as derived features get it: `number` float64, `time` datetime64[us], `text` objects."""
        if kind == "number":
            return self.numbers(name)
        return self.times(name) if kind == "time" else self.texts(name)
