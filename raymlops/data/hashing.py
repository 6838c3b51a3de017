"""Content hashes of rows and of whole tables that do not depend on row order, file layout or storage types.

A row's id is 2 × 64 bits, mixed from its values and column names. A table's hash sums remixed row ids modulo 2^64 in
four lanes, so blocks can be added in any order (a multiset hash in the manner of AdHash; Bellare & Micciancio,
EUROCRYPT 1997). It tells different data apart; it does not resist somebody who constructs collisions on purpose.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

LANES = 4
NULL = np.uint64(0x9D39247E33776D41)
EXACT = 2**53
"""Integers up to this are hashed as the float64 of equal value, so that 3 and 3.0 are the same content."""


def splitmix64(x: np.ndarray) -> np.ndarray:
    """A bijective mixer of 64-bit words (Steele, Lea & Flood, OOPSLA 2014), element by element."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))


def value_codes(column: pa.ChunkedArray) -> np.ndarray:
    """uint64 (n,): equal for equal values, whatever type stores them."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    kind = array.type
    if kinds.is_null(kind):
        return np.full(len(array), NULL)
    missing = array.is_null().to_numpy(zero_copy_only=False)
    if kinds.is_boolean(kind):
        codes = _float_bits(array.cast(pa.int8()).fill_null(0).to_numpy(zero_copy_only=False).astype(np.float64))
    elif kinds.is_integer(kind):
        values = array.fill_null(0).to_numpy(zero_copy_only=False)
        codes = _float_bits(values.astype(np.float64))
        large = (values > EXACT) | (values < -EXACT)
        if large.any():
            codes[large] = splitmix64(values[large].astype(np.uint64))
    elif kinds.is_floating(kind):
        values = array.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        missing = missing | np.isnan(values)
        codes = _float_bits(values)
    elif kinds.is_timestamp(kind):
        micros = array.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).fill_null(0)
        codes = splitmix64(micros.to_numpy(zero_copy_only=False).astype(np.uint64) ^ np.uint64(0x7469_6D65))
    elif kinds.is_fixed_size_list(kind):
        flat = array.cast(pa.list_(pa.float64(), kind.list_size)).fill_null([0.0] * kind.list_size)
        rows = flat.flatten().to_numpy(zero_copy_only=False).reshape(len(array), kind.list_size)
        codes = np.fromiter((_digest(row.tobytes()) for row in np.ascontiguousarray(rows)), np.uint64, len(array))
    else:
        encoded = array if kinds.is_dictionary(kind) else array.dictionary_encode()
        distinct = [_digest(str(v).encode("utf-8", "surrogatepass")) for v in encoded.dictionary.to_pylist()]
        indices = encoded.indices.fill_null(0).to_numpy(zero_copy_only=False)
        codes = np.array([*distinct, 0], dtype=np.uint64)[indices]
    codes = np.array(codes, dtype=np.uint64)
    codes[missing] = NULL
    return codes


def row_ids(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Two independent uint64 hashes per row, from column names and values; the order of columns does not matter."""
    first = np.zeros(table.num_rows, dtype=np.uint64)
    second = np.zeros(table.num_rows, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in table.column_names:
            codes = value_codes(table.column(name))
            first += splitmix64(codes ^ np.uint64(_digest(f"a:{name}".encode())))
            second += splitmix64(codes ^ np.uint64(_digest(f"b:{name}".encode())))
    return splitmix64(first), splitmix64(second)


def key_hashes(table: pa.Table, columns: list[str], salt: str = "") -> np.ndarray:
    """uint64 (n,): a hash of the values of `columns`, for uniqueness checks and for dealing keys to parts."""
    mixed = np.full(table.num_rows, np.uint64(_digest(salt.encode())), dtype=np.uint64)
    for name in columns:
        mixed = splitmix64(mixed ^ value_codes(table.column(name)))
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
