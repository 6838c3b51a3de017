"""Labels from feedback: on disk before they are acknowledged, and the same however often they are sent.

    labels = LabelStore(store, endpoint, replica)
    counts = await labels.add([Label(12.5, prediction_id="…")])

Requests that arrive while a file is written share the next one. A file's name is the hash of what is in it, so the
same batch sent again writes nothing; what repeats in other company is collapsed when it is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import threading
import time as clock
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from raymlops.errors import RaymlopsError
from raymlops.serving.label_files import LabelRow, LabelWriter
from raymlops.serving.logs import log_event
from raymlops.serving.prediction_table import key_text
from raymlops.store import Store

_MOST_WAITING = 100_000
_REMEMBERED = 50_000


class LabelError(RaymlopsError):
    """A label that means nothing: the message names the field, what was found and what was expected."""


class LabelsUnavailable(RaymlopsError):
    """The labels are not stored: send them again later. Sending what was stored again is harmless."""


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome of a prediction, found by its id or else by the hash of its key (`Stamp.key`, not the key)."""

    label: float | int | str | bool
    prediction_id: str | None = None
    key_hash: int | str | None = None
    at: float | None = None
    """When the outcome was known, in seconds since 1970; None if the client did not say."""

    def __post_init__(self) -> None:
        if not self.prediction_id and self.key_hash is None:
            raise LabelError("prediction_id: expected an id or a key, found neither")
        if not isinstance(self.label, (bool, int, float, str)):
            raise LabelError(f"label: expected a number, text or true or false, found {type(self.label).__name__}")
        if isinstance(self.label, (int, float)) and not _is_finite(self.label):
            raise LabelError(f"label: expected a finite number, found {self.label}")
        if self.at is not None and not (_is_finite(self.at) and 0 <= self.at < 253402300800):
            raise LabelError(f"at: expected seconds since 1970, before the year 10000, found {self.at}")

    def row(self, received: float) -> LabelRow:
        number = None if isinstance(self.label, str) else float(self.label)
        at = None if self.at is None else round(self.at * 1e6)
        key = None if self.prediction_id else key_text(self.key_hash)
        return LabelRow(_clean(self.prediction_id or None), _clean(key), label_text(self.label), number, at, received)


def label_text(label: float | int | str | bool) -> str:
    """One spelling per value, as JSON: 1.0 is 1, and text differs from the number it looks like."""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return json.dumps(label)


class LabelCounts(NamedTuple):
    """What became of one request's labels, as far as this replica remembers."""

    accepted: int
    duplicates: int
    """Stored before."""
    conflicts: int
    """Of the accepted: differ from an earlier label of the same prediction, which stays the one that counts."""


@dataclass
class _Waiting:
    labels: Sequence[Label]
    received: float
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[LabelCounts]


class LabelStore:
    """One per replica. `add` belongs to event loops; a thread of its own writes."""

    def __init__(self, store: Store, endpoint: str, most_waiting: int = _MOST_WAITING) -> None:
        self._writer = LabelWriter(store, endpoint)
        self._most_waiting = most_waiting
        self._lock = threading.Lock()
        self._queue: list[_Waiting] = []
        self._held = 0
        self._open = True
        self._wake = threading.Event()
        self._known: OrderedDict[str, str] = OrderedDict()
        self._totals = {"accepted": 0, "duplicates": 0, "conflicts": 0, "refused": 0, "failed_writes": 0}
        self._last_error = ""
        self._thread = threading.Thread(target=self._run, name="raymlops-labels", daemon=True)
        self._thread.start()

    async def add(self, labels: Sequence[Label]) -> LabelCounts:
        """Returns when every label is on disk. Raises LabelsUnavailable when too many wait or the store fails; whoever
        stops waiting does not know, and sends them again."""
        loop = asyncio.get_running_loop()
        waiting = _Waiting(labels, clock.time(), loop, loop.create_future())
        with self._lock:
            if not self._open or self._held + len(labels) > self._most_waiting:
                self._totals["refused"] += len(labels)
                reason = f"{self._held} labels wait to be stored" if self._open else "the endpoint is shutting down"
                log_event(logging.WARNING, "labels_refused", reason=reason)
                raise LabelsUnavailable(f"the labels were not stored, send them again later: {reason}")
            self._held += len(labels)
            self._queue.append(waiting)
        self._wake.set()
        return await waiting.future

    def statistics(self) -> dict[str, Any]:
        with self._lock:
            return {
                **self._totals,
                "waiting": self._held,
                "written_files": self._writer.files,
                "failed_merges": self._writer.failed_merges,
                "last_error": self._last_error or self._writer.last_error,
            }

    def close(self, timeout_s: float = 5.0) -> None:
        """Stores what was taken and stops; waits at most `timeout_s`."""
        with self._lock:
            self._open = False
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            with self._lock:
                taken, self._queue = self._queue, []
                last = not self._open
            if taken:
                self._commit(taken)
            self._writer.housekeeping(last)
            if last:
                return

    def _commit(self, taken: list[_Waiting]) -> None:
        results: list[LabelCounts] = []
        error: LabelsUnavailable | None = None
        try:
            rows, results, learned = self._sort_out(taken)
            if rows:
                self._writer.write(rows)
            self._remember(learned)
        except Exception as found:  # nothing is acknowledged, and the next batch tries anew
            error = LabelsUnavailable(f"the labels were not stored, send them again later: {found}")
        if error:
            log_event(logging.WARNING, "labels_not_stored", reason=str(error))
        with self._lock:
            self._held -= sum(len(waiting.labels) for waiting in taken)
            if error:
                self._totals["failed_writes"] += 1
                self._last_error = str(error)
            else:
                for name in ("accepted", "duplicates", "conflicts"):
                    self._totals[name] += sum(getattr(result, name) for result in results)
        for position, waiting in enumerate(taken):
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits
                waiting.loop.call_soon_threadsafe(_settle, waiting.future, error or results[position])

    def _sort_out(self, taken: list[_Waiting]) -> tuple[list[LabelRow], list[LabelCounts], dict[str, str]]:
        """What is to be written, what each request is told, and the first label of each new unit."""
        rows: list[LabelRow] = []
        results = []
        learned: dict[str, str] = {}
        for waiting in taken:
            duplicates = conflicts = 0
            for label in waiting.labels:
                row = label.row(waiting.received)
                first = learned.get(row.unit) or self._known.get(row.unit)
                if first == row.label:
                    duplicates += 1
                    continue
                if first is None:
                    learned[row.unit] = row.label
                else:
                    conflicts += 1
                rows.append(row)
            results.append(LabelCounts(len(waiting.labels) - duplicates, duplicates, conflicts))
        return rows, results, learned

    def _remember(self, learned: dict[str, str]) -> None:
        self._known.update(learned)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


def _settle(future: asyncio.Future[LabelCounts], result: LabelCounts | LabelsUnavailable) -> None:
    if future.done():  # cancelled: the client left
        return
    if isinstance(result, LabelCounts):
        future.set_result(result)
    else:
        future.set_exception(result)


def _is_finite(value: float | int) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _clean(text: str | None) -> str | None:
    """Half a surrogate pair, which JSON can spell and UTF-8 cannot, becomes a question mark."""
    return text and text.encode("utf-8", "replace").decode()
