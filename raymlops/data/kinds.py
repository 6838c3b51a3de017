"""The project's names for column types, and the one Arrow type that each kind is stored as."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as types

from raymlops.errors import DataError
from raymlops.features.rows import Rows

ARROW_TYPES = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us"),
}
"""How columns are stored. Tensors become flat fixed-size lists of float32, the only form in which they are used;
columns without any value keep Arrow's null type."""


def kind_of(kind: pa.DataType) -> str:
    """integer, number, boolean, string, timestamp, tensor or null; `unsupported` for anything else."""
    if types.is_dictionary(kind):
        return kind_of(kind.value_type)
    if types.is_boolean(kind):
        return "boolean"
    if types.is_integer(kind):
        return "integer"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "timestamp"
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string"
    if types.is_null(kind):
        return "null"
    is_list = types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind)
    is_tensor = isinstance(kind, pa.BaseExtensionType) and "tensor" in kind.extension_name.lower()
    return "tensor" if is_list or is_tensor else "unsupported"


def widest(a: str, b: str) -> str:
    """The kind that holds values of both, or "mixed" when none does."""
    if a == b or b == "null":
        return a
    if a == "null":
        return b
    return "number" if {a, b} == {"integer", "number"} else "mixed"


def normalise(table: pa.Table, times: Collection[str], shapes: Mapping[str, Sequence[int]]) -> pa.Table:
    """Columns in alphabetical order and in the types of `ARROW_TYPES`.

    Columns named in `times` are read as times even if they are stored as ISO 8601 text; `shapes` gives the shape of
    a row of declared tensor columns. Raises DataError naming the column, what was found and what was expected.
    """
    columns = {}
    for name in sorted(table.column_names):
        column = table.column(name)
        columns[name] = _times(column, name) if name in times else _canonical(column, name, shapes.get(name))
    return pa.table(columns)


def _canonical(column: pa.ChunkedArray, name: str, shape: Sequence[int] | None) -> pa.ChunkedArray:
    kind = kind_of(column.type)
    if kind == "unsupported":
        raise DataError(
            f"column {name!r}: type {column.type} is not supported; leave it out by naming the columns to keep under "
            "data.columns"
        )
    if kind == "null":
        return column
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if kind == "tensor":
        return pa.chunked_array([_flat_lists(chunk, name, shape) for chunk in _chunks(column)])
    if kind == "timestamp":
        # Casting a zoned timestamp to one without zone gives UTC.
        column = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
    try:
        return column.cast(ARROW_TYPES[kind], safe=kind == "integer")
    except pa.ArrowInvalid:
        raise DataError(f"column {name!r}: holds integers beyond 64 bits with sign; store it as text") from None


def _times(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = kind_of(column.type)
    if kind in ("timestamp", "null"):
        return _canonical(column, name, None).cast(pa.timestamp("us"))
    if kind == "string":
        try:
            return column.cast(pa.string()).cast(pa.timestamp("us"))
        except pa.ArrowInvalid:
            pass  # zone offsets, or not a time at all: looked at value by value
    return pa.chunked_array([pa.array(Rows({name: column}, len(column)).times(name), pa.timestamp("us"))])


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks or [pa.array([], column.type)]


def _flat_lists(array: pa.Array, name: str, shape: Sequence[int] | None) -> pa.Array:
    missing = array.is_null()
    values: pa.Array = array.drop_null()
    rows, size = len(values), None if shape is None else math.prod(shape)
    while kind_of(values.type) == "tensor":
        if isinstance(values, pa.ExtensionArray):
            values = values.storage
            if types.is_struct(values.type):  # Ray's tensors of varying shape
                values = pc.struct_field(values, "data")
            continue
        lengths = pc.unique(pc.list_value_length(values)).to_pylist()
        if len(lengths) > 1:
            raise DataError(f"column {name!r}: rows hold arrays of different lengths ({_some(lengths)}), expected one")
        values = pc.list_flatten(values)
    found = len(values) // rows if rows else (size or 0)
    if size is not None and found != size:
        assert shape is not None
        raise DataError(f"column {name!r}: rows hold {found} values, expected {size} (shape {list(shape)})")
    if kind_of(values.type) not in ("integer", "number", "boolean", "null"):
        raise DataError(f"column {name!r}: arrays of {values.type}, expected arrays of numbers")
    if types.is_boolean(values.type):
        values = values.cast(pa.int8())
    flat = values.cast(pa.float32(), safe=False).fill_null(float("nan"))
    stored = pa.FixedSizeListArray.from_arrays(flat, found)
    if not missing.true_count:
        return stored
    kept = pc.subtract(pc.cumulative_sum(pc.invert(missing).cast(pa.int64())), 1)
    return stored.take(pc.if_else(missing, None, kept))


def _some(lengths: list[int]) -> str:
    shown = ", ".join(map(str, sorted(lengths)[:5]))
    return f"{shown}, …" if len(lengths) > 5 else shown
