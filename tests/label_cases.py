"""A small endpoint's log and labels, written by what writes them in production."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from raymlops.config.loading import parse_config
from raymlops.config.tree import Config
from raymlops.serving.label_files import LabelWriter
from raymlops.serving.labels import Label
from raymlops.serving.prediction_table import Record
from raymlops.serving.prediction_writer import PartWriter
from raymlops.store import Store

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
FAR = (START - timedelta(days=100), START + timedelta(days=100))


def minute(n: float) -> datetime:
    return START + timedelta(minutes=n)


def config_of(task: str = "regression", **changes: Any) -> Config:
    raw: dict[str, Any] = {
        "name": "fares",
        "task": task,
        "data": {
            "source": {"kind": "parquet", "path": "rows.parquet"},
            "target": "fare",
            "split": {
                "by": "time",
                "column": "when",
                "validation_from": "2026-03-02T00:00:00",
                "holdout_from": "2026-03-03T00:00:00",
            },
        },
        "features": {"numeric": {"distance": {}}, "categorical": {"zone": {}}},
    }
    return parse_config({**raw, **changes})


class Endpoint:
    """Writes as replicas do."""

    def __init__(self, root: Path, name: str = "fares") -> None:
        self.store, self.name = Store(str(root)), name
        self._replicas = count()

    def predicted(self, records: Sequence[Record]) -> None:
        """One part per day, of a replica of its own."""
        writer = PartWriter(self.store, self.name, f"r{next(self._replicas)}", frozenset())
        good, bad = writer.encode(records)
        assert not bad
        for _, part in good:
            writer.write(part)

    def labelled(self, labels: Sequence[Label], received: datetime) -> None:
        LabelWriter(self.store, self.name).write([label.row(received.timestamp()) for label in labels])


def answer(
    at: datetime,
    identity: str,
    *,
    zone: str = "a",
    distance: float = 1.0,
    key: int | None = None,
    rows: int = 1,
    status: str = "ok",
    version: str = "1",
) -> Record:
    inputs = {"distance": [distance + i for i in range(rows)], "zone": [zone] * rows}
    outputs = None if status in ("error", "refused") else {"prediction": [2.0 * distance + i for i in range(rows)]}
    return Record(at.timestamp(), identity, version, "champion", 1.0, key, inputs, outputs, rows, 0.01, status)


def by_prediction(table: pa.Table, *columns: str) -> dict[tuple[str, int], Any]:
    rows = table.to_pylist()
    found = {(row["prediction_id"], row["row"]): tuple(row[name] for name in columns) for row in rows}
    assert len(found) == len(rows), "a prediction was labelled twice"
    return found
