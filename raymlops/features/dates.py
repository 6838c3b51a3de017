"""Parts of timestamps as numbers, exactly the same for one value and for many."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

US_PER_MINUTE = 60_000_000


def _minute_of_day(times: np.ndarray) -> np.ndarray:
    micros = (times - times.astype("datetime64[D]")).astype(np.int64)
    return np.asarray(micros // US_PER_MINUTE)


def _day_of_year(times: np.ndarray) -> np.ndarray:
    return np.asarray(
        (times.astype("datetime64[D]") - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    )


def _month(times: np.ndarray) -> np.ndarray:
    return np.asarray(times.astype("datetime64[M]").astype(np.int64) % 12)


def _day(times: np.ndarray) -> np.ndarray:
    return np.asarray(
        (times.astype("datetime64[D]") - times.astype("datetime64[M]").astype("datetime64[D]")).astype(int)
    )


PERIODS: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
    "hour": (24, lambda t: _minute_of_day(t) // 60),
    "minute_of_day": (1440, _minute_of_day),
    "weekday": (7, lambda t: (t.astype("datetime64[D]").astype(np.int64) + 3) % 7),  # Monday 0; 1970-01-01: Thursday
    "day": (31, _day),
    "day_of_year": (366, _day_of_year),
    "month": (12, _month),
}
"""Number of values in a cycle, and the position in it counted from 0."""

_CIRCLES = {
    part: np.array(
        [(math.sin(2 * math.pi * i / period), math.cos(2 * math.pi * i / period)) for i in range(period)],
        dtype=np.float64,
    )
    for part, (period, _) in PERIODS.items()
}


def cyclic(times: np.ndarray, part: str) -> np.ndarray:
    """Sine and cosine of the position in the cycle, float64 (n, 2); positions of NaT are meaningless."""
    period, position = PERIODS[part]
    return np.asarray(_CIRCLES[part][position(times) % period])


def year(times: np.ndarray) -> np.ndarray:
    """The calendar year, float64 (n,)."""
    return np.asarray(times.astype("datetime64[Y]").astype(np.int64) + 1970, dtype=np.float64)
