"""Files of labels: `labels/ENDPOINT/date=YYYY-MM-DD/HASH.parquet`, by the day (UTC) on which they were received."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time as clock
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.serving.parts import Tiers, day_of
from raymlops.store import Store

GRACE_S = 30.0
"""Seconds that merged files stay: for readers that listed them before."""

SCHEMA = pa.schema(
    [
        ("prediction_id", pa.string()),
        ("key_hash", pa.string()),
        ("label", pa.string()),  # JSON
        ("number", pa.float64()),  # null for text
        ("at", pa.timestamp("us", "UTC")),  # null if the client did not say
        ("received", pa.timestamp("us", "UTC")),
    ]
)
_NAME = re.compile(r"[0-9a-f]{32}\.parquet")


@dataclass(frozen=True, slots=True)
class LabelRow:
    prediction_id: str | None
    key_hash: str | None
    label: str
    number: float | None
    at: int | None
    """Microseconds since 1970."""
    received: float
    """Seconds since 1970."""

    @property
    def unit(self) -> str:
        """What has one label: a prediction, or a key."""
        return f"id {self.prediction_id}" if self.prediction_id is not None else f"key {self.key_hash}"


def labels_path(endpoint: str) -> str:
    return f"labels/{endpoint}"


def label_files(names: Sequence[str]) -> list[str]:
    """Those that are files of labels and not temporary."""
    return [name for name in names if _NAME.fullmatch(name)]


def content_name(table: pa.Table) -> str:
    """From the set of rows, whatever their order. Without the time received, so that a batch that is sent again has the
    name that it had."""
    shown = table.drop_columns(["received"])
    return _name({json.dumps(list(row.values()), default=str) for row in shown.to_pylist()})


def merged_name(names: Iterable[str]) -> str:
    """From those of the files that were merged, which say what is in them: to look at all rows again would keep the
    process busy for a second per 100,000."""
    return _name({"merged", *names})


def _name(lines: set[str]) -> str:
    return sha256("\n".join(sorted(lines)).encode()).hexdigest()[:32] + ".parquet"


class LabelWriter:
    """Writes and merges the files of one replica; used by one thread. Only `write` raises."""

    def __init__(self, store: Store, endpoint: str) -> None:
        self._store, self._root = store, labels_path(endpoint)
        self._tiers: dict[str, Tiers[tuple[str, pa.Table]]] = {}
        self._doomed: deque[tuple[float, str]] = deque()
        self._synced: set[PurePosixPath] = set()
        self.files = self.failed_merges = 0
        self.last_error = ""

    def write(self, rows: Sequence[LabelRow]) -> None:
        """Returns when the rows are on disk. Raises what the store raises; writing again is harmless."""
        table = _table(rows)
        day = day_of(min(row.received for row in rows))
        name = content_name(table)
        if self._create(day, name, table):
            self.files += 1
            self._tiers.setdefault(day, Tiers()).add((name, table), table.nbytes)

    def housekeeping(self, last: bool = False) -> None:
        """Merges where enough small files have gathered, and deletes what was merged a while ago. A crash in between
        leaves rows in two files, which readers collapse like any label that was sent twice."""
        today = day_of(clock.time())
        for day, tiers in list(self._tiers.items()):
            while (due := tiers.due()) and self._merge(day, tiers, due):
                pass
            if (last or day < today) and (rest := tiers.rest()):
                self._merge(day, tiers, rest)
            if day < today:
                del self._tiers[day]
        while self._doomed and self._doomed[0][0] <= clock.monotonic():
            path = self._doomed.popleft()[1]
            with contextlib.suppress(Exception):  # what stays does no harm
                self._store.delete_file(path)

    def _merge(self, day: str, tiers: Tiers[tuple[str, pa.Table]], files: list[tuple[str, pa.Table]]) -> bool:
        table = pa.concat_tables([table for _, table in files]).combine_chunks()
        name = merged_name(name for name, _ in files)
        try:
            self._create(day, name, table)
        except Exception as error:  # the small files are still there; the next housekeeping tries again
            self.failed_merges += 1
            self.last_error = f"cannot merge: {error}"
            return False
        tiers.merged(len(files), (name, table), table.nbytes)
        gone_at = clock.monotonic() + GRACE_S
        self._doomed.extend((gone_at, f"{self._root}/{day}/{old}") for old, _ in files)
        return True

    def _create(self, day: str, name: str, table: pa.Table) -> bool:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", compression_level=1)
        path = f"{self._root}/{day}/{name}"
        new = self._store.create(path, bytes(sink.getvalue()))
        if self._store.is_local:
            self._sync_directories(PurePosixPath(path))
        return new

    def _sync_directories(self, path: PurePosixPath) -> None:
        """The name of a new file, or of a new directory, survives a loss of power once its directory is synced."""
        for folder in path.parents:
            handle = os.open(self._store.location(str(folder)), os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
            if folder in self._synced:
                break
            self._synced.add(folder)


def _table(rows: Sequence[LabelRow]) -> pa.Table:
    received = [round(row.received * 1e6) for row in rows]
    columns = [
        pa.array([row.prediction_id for row in rows], pa.string()),
        pa.array([row.key_hash for row in rows], pa.string()),
        pa.array([row.label for row in rows], pa.string()),
        pa.array([row.number for row in rows], pa.float64()),
        pa.array([row.at for row in rows], pa.int64()).cast(SCHEMA.field("at").type),
        pa.array(received, pa.int64()).cast(SCHEMA.field("received").type),
    ]
    return pa.table(columns, schema=SCHEMA)
