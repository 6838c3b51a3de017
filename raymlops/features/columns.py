"""Columns as they arrive, and what is read from those of Arrow; pyarrow is imported when there is one, not before."""

from __future__ import annotations

from typing import Any

import numpy as np

from raymlops.errors import DataError

Column = Any
"""A pyarrow array (from tables and typed frames), a NumPy array of numbers or times (from derived features and
endpoints), or a plain sequence of Python values (from records)."""


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


def encoded(name: str, column: Column) -> tuple[np.ndarray, list[Any]]:
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


def flat_tensor(column: Column, size: int) -> np.ndarray | None:
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
