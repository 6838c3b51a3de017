"""Content hashes of rows and of whole tables that do not depend on row order, file layout or storage types.

A row's id is 2 × 64 bits, mixed from its values and column names. A table's hash sums remixed row ids modulo 2^64 in
four lanes, so blocks can be added in any order (a multiset hash in the manner of AdHash; Bellare & Micciancio,
EUROCRYPT 1997). It tells different data apart; it is not meant to resist somebody who constructs collisions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as types

LANES = 4
NULL = np.uint64(0x9D39247E33776D41)
Codes = Mapping[str, np.ndarray]
"""Column name to one uint64 per row, see `value_codes`."""


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A bijective mixer of 64-bit words (Steele, Lea & Flood, OOPSLA 2014), element by element."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def table_codes(table: pa.Table) -> dict[str, np.ndarray]:
    """The codes of all columns of a normalised table."""
    return {name: value_codes(table.column(name)) for name in table.column_names}


def value_codes(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 (n,): equal for equal values, whatever type stores them.

    Numbers of any type that are equal have the code of the float64 of that value, and missing values of any type (null
    or NaN) have one code. Text is hashed once per distinct value; arrays row by row.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # too long for one array
        return np.concatenate([value_codes(pa.chunked_array([chunk])) for chunk in array.chunks])
    kind = array.type
    if types.is_null(kind):
        return np.full(len(array), NULL)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    if types.is_boolean(kind):
        codes = _float_bits(array.cast(pa.int8()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64))
    elif types.is_integer(kind):
        codes = _integer_codes(array.fill_null(0).to_numpy(zero_copy_only=False))
    elif types.is_floating(kind):
        values = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        missing = missing | np.isnan(values)
        codes = _float_bits(values)
    elif types.is_timestamp(kind):
        micros = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0)
        codes = splitmix64(micros.to_numpy(zero_copy_only=False).view(np.uint64) ^ np.uint64(0x7469_6D65))
    elif types.is_fixed_size_list(kind):
        codes = _array_codes(array)
    else:
        encoded = array if types.is_dictionary(kind) else array.dictionary_encode()
        distinct = [_digest(str(v).encode("utf-8", "surrogatepass")) for v in encoded.dictionary.to_pylist()]
        indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        codes = np.array([*distinct, 0], dtype=np.uint64)[indices]
    codes = np.array(codes, dtype=np.uint64)
    codes[missing] = NULL
    return codes


def _integer_codes(values: np.ndarray) -> np.ndarray:
    as_float = values.astype(np.float64)
    codes = _float_bits(as_float)
    # Beyond 2^53 several integers share a float64; those that are not exactly that float are hashed as integers.
    large = np.flatnonzero((values > 2**53) | (values < -(2**53)))
    inexact = large[[int(f) != int(v) for f, v in zip(as_float[large], values[large], strict=True)]]
    codes[inexact] = splitmix64(values[inexact].astype(np.int64).view(np.uint64))
    return codes


def _array_codes(array: pa.FixedSizeListArray) -> np.ndarray:
    codes = np.zeros(len(array), dtype=np.uint64)
    valid = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    flat = array.drop_null().flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    rows = np.where(np.isnan(flat), np.nan, flat + 0.0).reshape(len(valid), array.type.list_size)
    codes[valid] = np.fromiter((_digest(row.tobytes()) for row in rows), np.uint64, len(valid))
    return codes


def row_ids(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Two independent uint64 hashes per row, from column names and values; the order of columns does not matter."""
    rows = len(next(iter(codes.values()))) if codes else 0
    first, second = np.zeros(rows, dtype=np.uint64), np.zeros(rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name, column in codes.items():
            first += splitmix64(column ^ np.uint64(_digest(f"a:{name}".encode())))
            second += splitmix64(column ^ np.uint64(_digest(f"b:{name}".encode())))
    return splitmix64(first), splitmix64(second)


def key_hashes(codes: Codes, columns: Sequence[str], salt: str = "") -> np.ndarray:
    """uint64 (n,): a hash of the values of `columns`, for uniqueness checks and for dealing keys to parts."""
    rows = len(codes[columns[0]])
    mixed = np.full(rows, np.uint64(_digest(salt.encode())), dtype=np.uint64)
    for name in columns:
        mixed = splitmix64(mixed ^ codes[name])
    return mixed


@dataclass(frozen=True)
class ContentHash:
    """Mergeable hash of a multiset of rows."""

    rows: int = 0
    lanes: tuple[int, ...] = (0,) * LANES

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> ContentHash:
        lanes = []
        with np.errstate(over="ignore"):
            for lane in range(LANES):
                mixed = splitmix64(first ^ splitmix64(second + np.uint64(lane + 1)))
                lanes.append(int(mixed.sum(dtype=np.uint64)))
        return cls(len(first), tuple(lanes))

    def merge(self, other: ContentHash) -> ContentHash:
        lanes = tuple((a + b) % 2**64 for a, b in zip(self.lanes, other.lanes, strict=True))
        return ContentHash(self.rows + other.rows, lanes)

    def hexdigest(self) -> str:
        text = f"{self.rows}:" + ":".join(f"{lane:016x}" for lane in self.lanes)
        return hashlib.sha256(text.encode()).hexdigest()


def _float_bits(values: np.ndarray) -> np.ndarray:
    return (values + 0.0).view(np.uint64)  # adding zero turns -0.0 into 0.0


def _digest(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
