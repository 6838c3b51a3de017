"""The prediction log: every answer of a replica, written to parquet in the background.

    log = PredictionLog(store, endpoint, replica, config.serving.log)
    log.append(time, prediction_id, version, variant, weight, key_hash, inputs, outputs, rows, latency, status, size)
    log.close()

Whatever happens to the store, a request neither waits nor fails for the log: rows wait in memory up to a bound, and
beyond it they are dropped and counted.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time as clock
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from raymlops.config.serving import PredictionLog as LogConfig
from raymlops.serving.batching import Batch
from raymlops.serving.logs import log_event
from raymlops.serving.prediction_table import Column, Record
from raymlops.serving.prediction_writer import Encoded, MakeTables, PartWriter
from raymlops.serving.single_rows import Single
from raymlops.store import Store

_MOST_BYTES = 256 * 1024 * 1024
"""Bodies of requests that wait to be written; rows alone would bound nothing when each has megabytes."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 5.0


class PredictionLog:
    """One per replica process; `replica` is unique to this process. Rows reach the store at most `config.flush_s`
    seconds plus the time of one write after `append`."""

    def __init__(
        self, store: Store, endpoint: str, replica: str, config: LogConfig, make: MakeTables | None = None
    ) -> None:
        """`make` as in `PartWriter`."""
        self._flush_s, self._sample, self._most_rows = config.flush_s, config.sample, config.queue_rows
        self._writer = PartWriter(store, endpoint, replica, frozenset(config.redact), make)
        self._lock = threading.Lock()
        self._pending: list[Record] = []
        self._singles: list[Single] = []
        self._rows = self._bytes = 0
        """Held: waiting and being written."""
        self._open = True
        self._wake, self._stop = threading.Event(), threading.Event()
        self._give_up_at = float("inf")
        self._done = self._written = self._dropped = self._sampled_out = self._failed_writes = 0
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="raymlops-prediction-log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def append(
        self,
        time: float,
        prediction_id: str,
        version: str,
        variant: str,
        weight: float,
        key_hash: int | str | None,
        inputs: Mapping[str, Column],
        outputs: Mapping[str, Column] | None,
        rows: int,
        latency: float,
        status: str,
        size: int,
        batch: Batch | None = None,
        at: int = 0,
    ) -> bool:
        """Takes one request: `rows` values per column of `inputs` and `outputs`, which must not change afterwards.

        `time` in seconds since 1970, `latency` in seconds, `size` the bytes of the request's body. `batch`, if given,
        has the same values from row `at` on. Never raises and never waits; any thread may call. False if the request
        was dropped: too much is waiting, or the log is closed.
        """
        if self._sample < 1 and not self._in_sample(prediction_id):
            with self._lock:
                self._sampled_out += rows
            return True
        with self._lock:
            held = self._rows + rows
            if not self._open or held > self._most_rows or self._bytes + size > _MOST_BYTES:
                self._dropped += rows
                return False
            self._rows = held
            self._bytes += size
            if rows != 1 or outputs is None:
                who = time, prediction_id, version, variant, weight, key_hash
                self._pending.append(Record(*who, inputs, outputs, rows, latency, status))
            else:
                if batch is None or self._sample < 1:  # a batch would keep the rows that are not in the sample
                    batch, at = Batch(inputs, outputs, 1), 0
                one = time, prediction_id, version, variant, weight, key_hash, latency, status, batch, at
                self._singles.append(one)
        if held * 2 > self._most_rows and not self._wake.is_set():
            self._wake.set()
        return True

    def statistics(self) -> dict[str, Any]:
        """Counts since the start. accepted = written + waiting + those dropped later, which are in `dropped_rows`
        together with the refused ones."""
        with self._lock:
            return {
                "accepted_rows": self._done + self._rows,
                "written_rows": self._written,
                "written_parts": self._writer.parts,
                "waiting_rows": self._rows,
                "dropped_rows": self._dropped,
                "sampled_out_rows": self._sampled_out,
                "failed_writes": self._failed_writes + self._writer.failed_merges,
                "last_error": self._last_error or self._writer.last_error,
            }

    def close(self, timeout_s: float = 5.0) -> None:
        """Writes what waits and stops. What cannot be written within `timeout_s` is dropped and counted."""
        with self._lock:
            if self._open:
                self._give_up_at = clock.monotonic() + timeout_s
            self._open = False
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s + 1.0)
        atexit.unregister(self.close)

    def _in_sample(self, prediction_id: str) -> bool:
        digest = blake2b(prediction_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big") < self._sample * 2.0**64

    def _run(self) -> None:
        due = clock.monotonic()
        while True:
            due = max(due + self._flush_s, clock.monotonic())
            self._wake.wait(due - clock.monotonic())
            self._wake.clear()
            last = self._stop.is_set()  # read before taking: nothing is accepted after it
            due = clock.monotonic()
            self._flush()
            self._writer.housekeeping(last)
            if last:
                return

    def _flush(self) -> None:
        with self._lock:
            records, singles, rows, size = self._pending, self._singles, self._rows, self._bytes
            self._pending, self._singles = [], []
        if not rows:
            return
        good, bad_rows = self._writer.encode(records, singles, size)
        written = 0
        for number, part in good:
            if self._written_in_the_end(part):
                written += number
            else:
                bad_rows += number
        with self._lock:
            self._written += written
            self._dropped += bad_rows
            self._done += rows
            self._rows -= rows
            self._bytes -= size

    def _written_in_the_end(self, part: Encoded) -> bool:
        """Tries until it works; meanwhile requests queue up to the bound. False: the log is closed and out of time."""
        wait = _FIRST_WAIT_S
        while True:
            try:
                self._writer.write(part)
                return True
            except Exception as error:  # whatever a filesystem raises: a log that stops would stop for ever
                with self._lock:
                    self._failed_writes += 1
                    self._last_error = str(error)
                if wait == _FIRST_WAIT_S:
                    log_event(logging.WARNING, "prediction_log_waits", reason=str(error))
            left = self._give_up_at - clock.monotonic()
            if left <= 0:
                return False
            if self._stop.is_set():
                clock.sleep(min(wait, left, 0.5))
            else:
                self._stop.wait(wait)
            wait = min(wait * 2, _LONGEST_WAIT_S)
