"""A directory with rows, a store, and a way to build snapshots from them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from snapshot_cases import config

from raymlops.data.build import build_snapshot
from raymlops.data.snapshot import BuiltSnapshot, Snapshot
from raymlops.data.split import PARTS
from raymlops.errors import DataError
from raymlops.imports import resolve, user_functions
from raymlops.store import Store

NOW = datetime(2024, 1, 6, 12, tzinfo=UTC)


@dataclass
class Lab:
    base: Path
    storage: str = ""
    numbers: Any = field(default_factory=itertools.count)
    heard: list[str] = field(default_factory=list)

    @property
    def store(self) -> Store:
        return Store(self.storage or str(self.base / "storage"))

    def parquet(self, table: pa.Table, name: str = "rows/part.parquet", rows_per_group: int | None = None) -> Path:
        path = self.base / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path, row_group_size=rows_per_group)
        return path

    def build(self, *, now: datetime = NOW, functions: dict[str, Any] | None = None, **changes: Any) -> BuiltSnapshot:
        """Build a snapshot of the rows under `rows/`, or of what `changes` of the configuration say."""
        chosen = config(**changes)
        found = functions or {name: resolve(path, name) for name, path in user_functions(chosen).items()}
        run = f"run{next(self.numbers)}"
        return build_snapshot(chosen, self.base, self.store, run, now, found, self.heard.append)

    def left_behind(self) -> list[str]:
        """Everything in the store but contracts and quarantined rows."""
        root = Path(self.store.uri.removeprefix("local://"))
        found = [str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file()]
        return [path for path in found if not path.startswith(("contracts/", "quarantine/"))]


def encoded(snapshot: Snapshot) -> dict[str, dict[str, bytes]]:
    """All arrays of all parts, shard after shard, as bytes."""
    out: dict[str, dict[str, bytes]] = {}
    for part in PARTS:
        loaded = [snapshot.load_shard(shard) for shard in snapshot.shards(part)]
        out[part] = {name: b"".join(arrays[name].tobytes() for arrays in loaded) for name in loaded[0]}
    return out


def contract_file(lab: Lab) -> Path:
    return lab.base / "storage" / "contracts" / "trips.yaml"


def refused(lab: Lab, error: type[Exception] = DataError, **changes: Any) -> str:
    """The whole message of a build that fails, after a look that nothing is left of it."""
    before = lab.left_behind()
    with pytest.raises(error) as caught:
        lab.build(**changes)
    assert lab.left_behind() == before
    message = str(caught.value)
    assert "Traceback" not in message and "ray::" not in message and "DataContext" not in message
    return message
