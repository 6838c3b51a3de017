"""Columns derived from the published schedule: known before departure, so safe to predict from."""

from __future__ import annotations

import numpy as np


def minute_of_day(hhmm: np.ndarray) -> np.ndarray:
    """Minutes since midnight of a clock time written as a number, 517 for 05:17."""
    return np.floor(hhmm / 100) * 60 + hhmm % 100


def scheduled_minutes(departure: np.ndarray, arrival: np.ndarray) -> np.ndarray:
    """Minutes from scheduled departure to scheduled arrival, both local: the time zones crossed are in there too."""
    return (minute_of_day(arrival) - minute_of_day(departure)) % 1440
