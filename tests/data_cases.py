"""Small tables and configurations for the tests of the data room."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.data.block import BlockPass
from raymlops.data.contract import Contract
from raymlops.data.scan import Scan
from raymlops.store import Store

START = datetime(2030, 1, 1)
BY_TIME = {"by": "time", "column": "day", "validation_from": "2030-02-01", "holdout_from": "2030-02-20"}
BY_HASH = {"by": "hash", "key": "id", "validation": 0.2, "holdout": 0.2}


def trips(rows: int = 600, seed: int = 0) -> pa.Table:
    """Rows over sixty days; `carrier` is missing now and then."""
    rng = np.random.default_rng(seed)
    distance = rng.uniform(50, 3000, rows).round(2)
    carriers = rng.choice(["UA", "AA", "B6", None], rows, p=[0.4, 0.3, 0.25, 0.05])
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "day": pa.array(
                [START + timedelta(hours=int(h)) for h in rng.integers(0, 60 * 24, rows)], pa.timestamp("us")
            ),
            "distance": distance,
            "carrier": pa.array(carriers.tolist(), pa.string()),
            "minutes": (distance / 8 + rng.normal(0, 3, rows)).round(3),
        }
    )


def config_of(source: dict[str, Any] | None = None, **changes: Any) -> Config:
    """Regression of `minutes`. `changes` replace top-level sections; those starting with `data_` go below `data`."""
    data: dict[str, Any] = {
        "source": source or {"kind": "parquet", "path": "trips.parquet"},
        "target": "minutes",
        "split": BY_TIME,
    }
    data |= {key.removeprefix("data_"): changes.pop(key) for key in list(changes) if key.startswith("data_")}
    raw = {
        "name": "trips",
        "task": "regression",
        "data": data,
        "features": {"numeric": {"distance": {}}, "categorical": {"carrier": {}}},
    }
    return parse_config({**raw, **changes})


def with_value(table: pa.Table, column: str, row: int, value: Any) -> pa.Table:
    """The table with one cell changed."""
    values = table.column(column).to_pylist()
    values[row] = value
    kind = table.schema.field(column).type
    return table.set_column(table.column_names.index(column), column, pa.array(values, kind))


def scanned(config: Config, directory: Path, blocks: list[pa.Table], contract: Contract | None = None) -> Scan:
    """The pass over some blocks in this process, without Ray."""
    work = BlockPass(config, {}, contract, Store(str(directory)), "staging/run", "quarantine/run")
    found = Scan()
    for block in blocks:
        found.add(work.run(block))
    return found
