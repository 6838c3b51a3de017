"""What a label join remembers between runs.

`labelled/ENDPOINT/_state.json` is replaced when everything else of a run is written. A run that died before that is
done again by the next one, which finds the rows that were written already and writes no prediction twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.errors import IntegrityError
from raymlops.monitoring.label_match import LABELS
from raymlops.monitoring.labelled import labelled_path
from raymlops.serving.prediction_writer import encode
from raymlops.store import Store


@dataclass(frozen=True)
class JoinState:
    run: int = 0
    """Number of the last completed join."""
    until: datetime | None = None
    """Its `now`: labels received before were taken."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was read of each source under `labels.sources`, by the hash of what the configuration says of it."""
    totals: dict[str, int] = field(default_factory=dict)
    """Counts over all joins."""

    @classmethod
    def read(cls, store: Store, endpoint: str) -> JoinState:
        """Raises IntegrityError when the file is damaged."""
        path = f"{labelled_path(endpoint)}/_state.json"
        if not store.exists(path):
            return cls()
        try:
            data = json.loads(store.read(path))
            return cls(**{**data, "until": datetime.fromisoformat(data["until"])})
        except (ValueError, TypeError, KeyError) as error:
            raise IntegrityError(f"{store.location(path)} is damaged: {error}") from error

    def write(self, store: Store, endpoint: str, waiting: pa.Table) -> None:
        """`waiting` are the labels that the next join takes up again."""
        assert self.until is not None
        root = labelled_path(endpoint)
        store.write(f"{root}/{_waiting_name(self.run)}", encode(waiting))
        store.write(f"{root}/_state.json", json.dumps({**asdict(self), "until": self.until.isoformat()}).encode())
        for name in store.list(root):
            if name.startswith("_waiting-") and name != _waiting_name(self.run):
                store.delete_file(f"{root}/{name}")

    def waiting(self, store: Store, endpoint: str) -> pa.Table:
        if not self.run:
            return LABELS.empty_table()
        data = store.read(f"{labelled_path(endpoint)}/{_waiting_name(self.run)}")
        return pq.read_table(pa.BufferReader(data), use_threads=False).cast(LABELS)


def joined_until(store: Store, endpoint: str) -> datetime | None:
    """The time up to which labels were joined: `now` of the last completed join, None before the first."""
    return JoinState.read(store, endpoint).until


def _waiting_name(run: int) -> str:
    return f"_waiting-{run:06d}.parquet"  # the underscore hides it from whoever reads the directory as a table
