"""Raw rows, however they arrive, to NumPy columns: the same rules for a frame of a million rows and for one dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from raymlops.errors import DataError

Column = Any
"""A pyarrow array (from tables and typed frames), a NumPy array of numbers or times (from derived features and
endpoints), or a plain sequence of Python values (from records)."""


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
            value = float(column[0]) if is_numeric else _number(name, 0, column[0])
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
            values = np.fromiter((_number(name, i, v) for i, v in enumerate(column)), np.float64, self.length)
        finite = np.isfinite(values)
        if np.count_nonzero(finite) < len(finite):
            values[~finite] = np.nan
        values += 0.0  # −0.0 becomes 0.0: the two compare equal, so a sort may leave them in either order
        return values

    def texts(self, name: str) -> np.ndarray:
        """Object array (n,) of canonical text or None: 3 and 3.0 are "3", True is "true", NaN is missing."""
        column = self._column(name)
        if is_arrow(column):
            codes, distinct = _encoded(name, column)
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
            codes, distinct = _encoded(name, column)
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
        return np.array([_time(name, i, v) for i, v in enumerate(column)], dtype="datetime64[us]")

    def tensors(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """float32 (n, *shape). Raises DataError naming the row whose array has another size or a missing value."""
        column, size = self._column(name), math.prod(shape)
        if is_arrow(column):
            flat = _flat_tensor(column, size)
            if flat is not None:
                return _single(flat).reshape(self.length, *shape)
            column = column.to_pylist()
        elif isinstance(column, np.ndarray) and column.dtype.kind in "biuf" and column[:1].size == size:
            return _single(column).reshape(self.length, *shape)
        out = np.empty((self.length, size), dtype=np.float32)
        for i, value in enumerate(column):
            if _is_missing(value):
                raise DataError(f"column {name!r}, row {i}: found a missing value, expected {size} numbers")
            try:
                row = _flat(value)
            except (TypeError, ValueError, OverflowError):
                raise DataError(f"column {name!r}, row {i}: found {_short(value)}, expected numbers") from None
            if row.size != size:
                shown = f"expected {size} (shape {list(shape)})"
                raise DataError(f"column {name!r}, row {i}: found {row.size} values, {shown}")
            out[i] = _single(row)
        return out.reshape(self.length, *shape)

    def natural(self, name: str, kind: str) -> np.ndarray:
        """The column as derived features get it: `number` float64, `time` datetime64[us], `text` objects."""
        if kind == "number":
            return self.numbers(name)
        return self.times(name) if kind == "time" else self.texts(name)


def natural_kind(column: Column) -> str:
    """How a typed column is handed to derived features: number, time or text; `null` when it says nothing."""
    import pyarrow.types as kinds

    kind = column.type
    if kinds.is_null(kind):
        return "null"
    if kinds.is_timestamp(kind) or kinds.is_date(kind):
        return "time"
    is_text = (
        kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_dictionary(kind) or kinds.is_string_view(kind)
    )
    return "text" if is_text else "number"


def text(value: Any) -> str | None:
    """Canonical text of a category: independent of whether it was stored as text, integer or float."""
    if type(value) is str:
        return value
    if value is None:
        return None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() else repr(number)
    if _is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    return str(value)


def _is_missing(value: Any) -> bool:
    """None and the missing values of NumPy and pandas, without importing pandas for it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64) and bool(value != value)


def is_arrow(column: Column) -> bool:
    """Whether the column is a pyarrow array; without importing pyarrow for it."""
    return not isinstance(column, np.ndarray | list) and hasattr(column, "type")


def from_pandas(series: Any) -> Column:
    """Typed columns through Arrow; columns of mixed Python objects stay as they are."""
    import pyarrow as pa

    if series.dtype == object:
        return series.tolist()
    try:
        array = pa.array(series, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return series.tolist()
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def _encoded(name: str, column: Column) -> tuple[np.ndarray, list[Any]]:
    """Index of each value among the distinct ones, the last index for null; and the distinct values."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_null(column.type):
        return np.full(len(column), -1), []
    if not kinds.is_dictionary(column.type):
        try:
            column = column.dictionary_encode()
        except pa.ArrowNotImplementedError:
            raise DataError(f"column {name!r}: found {column.type}, expected text, numbers or booleans") from None
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.unify_dictionaries().chunks) if array.num_chunks else None
    if array is None:
        return np.empty(0, dtype=np.int64), []
    distinct = array.dictionary.to_pylist()
    indices = array.indices.cast(pa.int64()).fill_null(len(distinct))
    return indices.to_numpy(), distinct


def _flat_tensor(column: Column, size: int) -> np.ndarray | None:
    """All values in one array when every row has `size` of them and none is missing, else None."""
    import pyarrow as pa
    import pyarrow.types as kinds

    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if array.null_count or not (kinds.is_fixed_size_list(array.type) or kinds.is_list(array.type)):
        return None
    if kinds.is_list(array.type) and np.any(np.diff(array.offsets.to_numpy()) != size):
        return None
    if kinds.is_fixed_size_list(array.type) and array.type.list_size != size:
        return None
    values = array.flatten()
    plain = kinds.is_floating(values.type) or kinds.is_integer(values.type) or kinds.is_boolean(values.type)
    return values.to_numpy(zero_copy_only=False) if plain and not values.null_count else None


def _flat(value: Any) -> np.ndarray:
    """All numbers of a nested sequence, float64 (size,). Raises TypeError or ValueError when there is anything else."""
    array = np.asarray(value)
    if array.dtype == object and array.ndim:  # arrays of arrays: how data frames hold nested lists
        return np.concatenate([_flat(part) for part in array])
    if array.dtype.kind not in "biuf":
        raise TypeError
    return array.reshape(-1).astype(np.float64)


def _single(values: np.ndarray) -> np.ndarray:
    """float32, always by way of float64: large integers rounded once and rounded twice can differ."""
    with np.errstate(over="ignore"):  # the transform refuses infinities by name
        return values.astype(np.float64, copy=False).astype(np.float32)


def _number(name: str, row: int, value: Any) -> float:
    if _is_missing(value):
        return math.nan
    if isinstance(value, str | bytes | complex | np.ndarray):  # float() would take some of these
        raise DataError(f"column {name!r}, row {row}: found {_short(value)}, expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise DataError(f"column {name!r}, row {row}: found {_short(value)}, expected a number") from None


def _time(name: str, row: int, value: Any) -> Any:
    if _is_missing(value):
        return np.datetime64("NaT", "us")
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise DataError(f"column {name!r}, row {row}: found {_short(value)}, expected a time (ISO 8601)") from None
    if isinstance(value, datetime):
        plain = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
        return np.datetime64(plain.isoformat()[:26], "us")  # to microseconds; a pandas Timestamp has three digits more
    if isinstance(value, date):
        return np.datetime64(value.isoformat(), "us")
    raise DataError(f"column {name!r}, row {row}: found {_short(value)}, expected a time (ISO 8601)")


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
