"""Answers as the prediction log takes them, and their ids as it gives them back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
from hypothesis import strategies as st

from raymlops.config.serving import PredictionLog as LogConfig
from raymlops.serving.prediction_log import PredictionLog
from raymlops.serving.prediction_reader import read_predictions
from raymlops.serving.prediction_table import Record
from raymlops.serving.prediction_writer import MakeTables
from raymlops.store import Store

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), st.text("ab1", max_size=3)
)
ALL = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


def record(number: int, at: datetime = NOON, rows: int = 1, **changes: Any) -> Record:
    inputs = {"distance": np.arange(rows) + float(number), "carrier": ["AA"] * rows}
    base = Record(
        at.timestamp(),
        f"id-{number}",
        "3",
        "champion",
        0.9,
        255,
        inputs,
        {"prediction": np.ones(rows)},
        rows,
        0.002,
        "ok",
    )
    return base._replace(**changes)


def append(log: PredictionLog, number: int, **changes: Any) -> bool:
    return log.append(*record(number, **changes), 100)


def ids(store: Store, since: datetime = ALL[0], until: datetime = ALL[1]) -> list[str]:
    return read_predictions(store, "flights", since, until).column("prediction_id").to_pylist()


def opened(store: Store, make: MakeTables | None = None, **config: Any) -> PredictionLog:
    return PredictionLog(store, "flights", "replica-1", LogConfig(**{"flush_s": 0.02, **config}), make)
