"""Five days of trips and a configuration for them, for tests of contracts and snapshots."""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config

START = datetime(2024, 1, 1)
BASE: dict[str, Any] = {
    "name": "trips",
    "task": "regression",
    "data": {
        "source": {"kind": "parquet", "path": "rows"},
        "target": "minutes",
        "split": {"by": "time", "column": "at", "validation_from": "2024-01-04", "holdout_from": "2024-01-05"},
    },
    "features": {
        "numeric": {"distance": {}, "stops": {"scale": "robust"}},
        "categorical": {"carrier": {}},
        "dates": {"at": {"parts": ["hour"]}},
    },
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, mapping by mapping; a value under a key ending in "!" replaces it whole."""
    out = copy.deepcopy(base)
    for key, value in changes.items():
        if key.endswith("!"):
            out[key[:-1]] = value
        elif isinstance(value, dict) and isinstance(out.get(key), dict):
            out[key] = merged(out[key], value)
        else:
            out[key] = value
    return out


def config(**changes: Any) -> Config:
    return parse_config(merged(BASE, changes))


def trips(rows: int = 240, seed: int = 0) -> pa.Table:
    """An integer key, a time, numbers with gaps, a category with gaps, a flag and the label."""
    rng = np.random.default_rng(seed)
    distance = rng.gamma(2.0, 400.0, rows).round(1)
    stops = rng.integers(0, 4, rows)
    carrier = rng.choice(["AA", "B6", "UA", "Ünïted"], rows)
    return pa.table(
        {
            "id": pa.array(np.arange(rows) + 1000),
            "at": pa.array([START + timedelta(minutes=5 * 1440 * i / rows) for i in range(rows)], pa.timestamp("us")),
            "distance": pa.array([None if i % 17 == 3 else float(d) for i, d in enumerate(distance)], pa.float64()),
            "stops": pa.array(stops),
            "carrier": pa.array([None if i % 23 == 5 else str(c) for i, c in enumerate(carrier)]),
            "late": pa.array(rng.random(rows) < 0.2),
            "minutes": pa.array((distance / 7 + 20 * stops + rng.normal(0, 3, rows)).round(2)),
        }
    )


def replaced(table: pa.Table, name: str, values: Any, kind: pa.DataType | None = None) -> pa.Table:
    """The table with a column's values replaced, or with the column appended."""
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, kind)
    if name not in table.column_names:
        return table.append_column(name, column)
    return table.set_column(table.column_names.index(name), name, column)


def with_cell(table: pa.Table, name: str, row: int, value: Any) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    return replaced(table, name, values, table.schema.field(name).type)
