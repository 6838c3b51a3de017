"""Single values as features take them: canonical text, numbers, times, arrays; and what is missing."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from raymlops.errors import DataError


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
    if is_missing(value):
        return None
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    return str(value)


def is_missing(value: Any) -> bool:
    """None and the missing values of NumPy and pandas, without importing pandas for it."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64) and bool(value != value)


def number_of(name: str, row: int, value: Any) -> float:
    """NaN where missing. Raises DataError naming column and row."""
    if is_missing(value):
        return math.nan
    if isinstance(value, str | bytes | complex | np.ndarray):  # float() would take some of these
        raise DataError(f"column {name!r}, row {row}: found {short(value)}, expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        raise DataError(f"column {name!r}, row {row}: found {short(value)}, expected a number") from None


def time_of(name: str, row: int, value: Any) -> Any:
    """datetime64[us] in UTC without zone, NaT where missing. Raises DataError naming column and row."""
    if is_missing(value):
        return np.datetime64("NaT", "us")
    if isinstance(value, np.datetime64):
        return value.astype("datetime64[us]")
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise DataError(f"column {name!r}, row {row}: found {short(value)}, expected a time (ISO 8601)") from None
    if isinstance(value, datetime):
        try:
            plain = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
        except OverflowError:  # the first or the last day there is, elsewhere
            found = f"column {name!r}, row {row}: found {short(value)}"
            raise DataError(f"{found}, expected a year from 1 to 9999 in UTC") from None
        return np.datetime64(plain.isoformat()[:26], "us")  # to microseconds; a pandas Timestamp has three digits more
    if isinstance(value, date):
        return np.datetime64(value.isoformat(), "us")
    raise DataError(f"column {name!r}, row {row}: found {short(value)}, expected a time (ISO 8601)")


def flatten(value: Any) -> np.ndarray:
    """All numbers of a nested sequence, float64 (size,). Raises TypeError or ValueError when there is anything else."""
    array = np.asarray(value)
    if array.dtype == object and array.ndim:  # arrays of arrays: how data frames hold nested lists
        return np.concatenate([flatten(part) for part in array])
    if array.dtype.kind not in "biuf":
        raise TypeError
    return array.reshape(-1).astype(np.float64)


def single(values: np.ndarray) -> np.ndarray:
    """float32, always by way of float64: large integers rounded once and rounded twice can differ."""
    with np.errstate(over="ignore"):  # the transform refuses infinities by name
        return values.astype(np.float64, copy=False).astype(np.float32)


def short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
