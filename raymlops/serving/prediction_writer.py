"""The slow half of the prediction log: encodes, writes and merges parts. Used by one thread."""

from __future__ import annotations

import time as clock
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymlops.serving.parts import Part, Tiers, day_of, replica_token, split_covered
from raymlops.serving.prediction_reader import predictions_path, read_part
from raymlops.serving.prediction_table import Record, to_table, unify
from raymlops.serving.single_rows import Single, apart, singles_tables
from raymlops.store import Store

GRACE_S = 30.0
"""Seconds that merged parts stay after the part that covers them appeared: for whoever listed them before, and because
a listing during which one file appears and others go may show neither."""
_TIDY_DAYS = 7
_KEPT_BYTES = 1024 * 1024
"""Parts up to this size stay in memory until they are merged, which saves reading them again."""
_Kept = tuple[Part, pa.Table | None]
_BLOCK, _BLOCKS_BYTES = 2048, 2 * 1024 * 1024
"""Requests of one row that become a table at one go, and bytes of all their bodies: that takes a few milliseconds."""
MakeTables = Callable[[Callable[[], list[pa.Table]]], list[pa.Table]]
"""Calls the function that it is given, and returns what that returns."""
_SAMPLE = Record(0.0, "", "", "", 0.0, None, {"x": [1.0], "y": ["a"], "z": [None]}, None, 1, 0.0, "")


@dataclass(frozen=True)
class Encoded:
    """A part that can be written, again if need be: the same path and bytes."""

    day: str
    part: Part
    data: bytes
    table: pa.Table


def encode(table: pa.Table, lasting: bool = True) -> bytes:
    """Parquet. What is not to last is not made as small as it could be, which would take twice as long."""
    sink = pa.BufferOutputStream()
    # Dictionaries for what repeats; of ids, times and numbers they would be as long as the column.
    repeats = [field.name for field in table.schema if field.type == pa.string() and field.name != "prediction_id"]
    how: dict[str, Any] = {"compression": "zstd", "compression_level": 1} if lasting else {"compression": "lz4"}
    pq.write_table(table, sink, use_dictionary=repeats, write_statistics=["time"], **how)
    return bytes(sink.getvalue())


def _here(work: Callable[[], list[pa.Table]]) -> list[pa.Table]:
    return work()


class PartWriter:
    """The parts of one replica. Only `write` raises; what else fails is counted and leaves all rows readable."""

    def __init__(
        self, store: Store, endpoint: str, replica: str, redact: frozenset[str], make: MakeTables | None = None
    ) -> None:
        """`make` calls what makes tables of small requests, in a thread of its choice; without it, the caller's."""
        self._make = make or _here
        self._store, self._endpoint, self._replica, self._redact = store, endpoint, replica, redact
        self._root = predictions_path(endpoint)
        self._token = replica_token(replica)
        self._sequence = 0
        self._tiers: dict[str, Tiers[_Kept]] = {}
        self._doomed: deque[tuple[float, str]] = deque()
        self._tidied = ""
        self.parts = self.failed_merges = 0
        self.last_error = ""
        encode(to_table([_SAMPLE], endpoint, replica))  # loads what Arrow loads late, which takes half a second

    def encode(
        self, records: Sequence[Record], singles: Sequence[Single] = (), size: int = 0
    ) -> tuple[list[tuple[int, Encoded]], int]:
        """Parts with their rows, one per day; and the rows of requests that no table could be made of. `size`: bytes of
        their bodies."""
        try:
            return self._encode(records, singles, self._make if size <= _BLOCKS_BYTES else _here), 0
        except Exception as error:  # one request must not take the others with it
            self.last_error = f"cannot log: {error}"
        every = [*records, *apart(singles)]
        good = [record for record in every if self._is_sound(record)]
        bad = sum(record.rows for record in every) - sum(record.rows for record in good)
        try:
            return self._encode(good) if good else [], bad
        except Exception as error:
            self.last_error = f"cannot log: {error}"
            return [], sum(record.rows for record in every)

    def _is_sound(self, record: Record) -> bool:
        try:
            encode(self._table([record]))
            day_of(record.time)
        except Exception:
            return False
        return True

    def _table(self, records: Sequence[Record], singles: Sequence[Single] = (), make: MakeTables = _here) -> pa.Table:
        whom = self._endpoint, self._replica, self._redact
        blocks = [singles[start : start + _BLOCK] for start in range(0, len(singles), _BLOCK)]
        tables = [table for block in blocks for table in make(partial(singles_tables, block, *whom))]
        return unify([*tables, to_table(records, *whom)] if records else tables)

    def _encode(
        self, records: Sequence[Record], singles: Sequence[Single] = (), make: MakeTables = _here
    ) -> list[tuple[int, Encoded]]:
        table = self._table(records, singles, make)
        days = table.column("time").cast(pa.int64()).to_numpy() // 86_400_000_000
        numbers = np.unique(days)
        made = []
        for number in numbers:
            self._sequence += 1
            part = Part(self._token, self._sequence, self._sequence)
            belonging = table if len(numbers) == 1 else table.filter(pa.array(days == number))
            data = encode(belonging, lasting=False)
            made.append((belonging.num_rows, Encoded(day_of(number * 86_400.0), part, data, belonging)))
        return made

    def write(self, encoded: Encoded) -> None:
        """Raises whatever the store raises; then nothing was written, and it may be called again."""
        self._store.write(self._path(encoded.day, encoded.part), encoded.data)
        self.parts += 1
        table = encoded.table
        kept = (encoded.part, table if table.nbytes <= _KEPT_BYTES else None)
        self._tiers.setdefault(encoded.day, Tiers()).add(kept, table.nbytes)

    def housekeeping(self, last: bool = False) -> None:
        """Merges small parts where enough have gathered (all of them at the end or when their day is over), and
        deletes those that were merged a while ago."""
        today = day_of(clock.time())
        for day, tiers in list(self._tiers.items()):
            while due := tiers.due():
                if not self._merge(day, tiers, due):
                    break
            over = day < today
            if (last or over) and (rest := tiers.rest()):
                self._merge(day, tiers, rest)
            if over:
                del self._tiers[day]
        now = clock.monotonic()
        while self._doomed and self._doomed[0][0] <= now:
            self._delete(self._doomed.popleft()[1])
        if self._tidied != today:
            self._tidied = today
            self._tidy()

    def _path(self, day: str, part: Part) -> str:
        return f"{self._root}/{day}/{part.name}"

    def _merge(self, day: str, tiers: Tiers[_Kept], kept: list[_Kept]) -> bool:
        try:
            tables = [read_part(self._store, self._path(day, part)) if t is None else t for part, t in kept]
            table = unify(tables)
            merged = Part(self._token, kept[0][0].first, kept[-1][0].last)
            self._store.write(self._path(day, merged), encode(table.combine_chunks()))
        except FileNotFoundError:  # somebody deleted them
            tiers.forget()
            return False
        except Exception as error:  # the small parts are still there; the next housekeeping tries again
            self.failed_merges += 1
            self.last_error = f"cannot merge: {error}"
            return False
        tiers.merged(len(kept), (merged, None), table.nbytes)
        gone_at = clock.monotonic() + GRACE_S
        self._doomed.extend((gone_at, self._path(day, part)) for part, _ in kept)
        return True

    def _tidy(self) -> None:
        """Deletes covered parts that crashed or stopped replicas left on days that nobody writes any more."""
        now = datetime.now(UTC)
        for ago in range(2, 2 + _TIDY_DAYS):
            day = day_of((now - timedelta(days=ago)).timestamp())
            try:
                covered = split_covered(self._store.list(f"{self._root}/{day}"))[1]
            except Exception as error:
                self.last_error = f"cannot list: {error}"
                return
            for name in covered:
                self._delete(f"{self._root}/{day}/{name}")

    def _delete(self, path: str) -> None:
        try:
            self._store.delete_file(path)
        except Exception as error:  # covered parts do no harm
            self.last_error = f"cannot delete: {error}"
