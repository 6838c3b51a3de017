"""Which part a row belongs to: a function of the row alone, so that no part can leak into another."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from raymlops.config.data import HashSplit, TimeSplit
from raymlops.data.hashing import key_hashes, value_codes
from raymlops.errors import DataError

EXCLUDED, TRAIN, VALIDATION, HOLDOUT = -1, 0, 1, 2
PARTS = ("train", "validation", "holdout")


def assign(split: TimeSplit | HashSplit, table: pa.Table) -> np.ndarray:
    """int8 (n,): EXCLUDED, TRAIN, VALIDATION or HOLDOUT for every row of a normalised table.

    By time, a row at or after a mark belongs to what follows the mark. By hash, a key's 64-bit hash is compared with
    thresholds, so that all rows of a key share a part wherever and whenever they are read. Raises DataError for rows
    without a time.
    """
    if isinstance(split, TimeSplit):
        return _by_time(split, table)
    keys = [split.key] if isinstance(split.key, str) else split.key
    codes_of_keys = {key: value_codes(table.column(key)) for key in keys}
    share = key_hashes(codes_of_keys, keys, split.salt).astype(np.float64) / 2.0**64
    codes = np.full(table.num_rows, TRAIN, dtype=np.int8)
    codes[share < split.holdout + split.validation] = VALIDATION
    codes[share < split.holdout] = HOLDOUT
    return codes


def _by_time(split: TimeSplit, table: pa.Table) -> np.ndarray:
    column = table.column(split.column)
    if column.null_count:
        raise DataError(
            f"data.split.column: {column.null_count} of {table.num_rows} rows have no {split.column!r}; "
            "a row without a time cannot be dealt to a part"
        )
    times = column.cast(pa.timestamp("us"), safe=False).to_numpy().astype("datetime64[us]")
    codes = np.full(table.num_rows, TRAIN, dtype=np.int8)
    codes[times >= moment(split.validation_from)] = VALIDATION
    codes[times >= moment(split.holdout_from)] = HOLDOUT
    if split.start is not None:
        codes[times < moment(split.start)] = EXCLUDED
    if split.end is not None:
        codes[times >= moment(split.end)] = EXCLUDED
    return codes


def moment(value: datetime) -> np.datetime64:
    """UTC without zone, as all stored times."""
    plain = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
    return np.datetime64(plain, "us")
