"""Requests that arrive at the same time are scored together, because a batch of sixteen costs little more than one row.

Nothing waits for company unless told to: what queued while the event loop was busy, or while a batch ran, is the batch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from raymlops.errors import RaymlopsError

Columns = Mapping[str, Any]
"""Named columns of equal length: lists, or NumPy arrays whose first dimension is the rows."""
Answer = dict[str, np.ndarray]
Predict = Callable[[Columns, int], Answer]

INLINE_SECONDS = 0.005
"""A batch that is expected to take longer runs in a thread, so that the event loop goes on answering."""
_SMOOTHING = 0.2
_FEW_ROWS = 16


class GarbageError(RaymlopsError):
    """The model answered with a wrong shape, or with numbers that are none."""


class Batch(NamedTuple):
    """Rows that were scored together."""

    columns: Columns
    answer: Columns
    rows: int


class Scored(NamedTuple):
    answer: Answer
    seconds: float
    """Time that the model took for the batch in which these rows were scored."""
    batch: Batch | None = None
    """That batch, if other requests' rows were in it."""
    at: int = 0
    """Position of the first of these rows in it."""


class _Waiting(NamedTuple):
    columns: Columns
    rows: int
    future: asyncio.Future[Scored]


class MicroBatcher:
    """Scores with one model. `predict` runs on the event loop while it is quick, else in one thread of its own.

    An error of a batch is not shared: its requests are scored again one by one, and each gets its own answer or error.
    """

    def __init__(
        self,
        predict: Predict,
        *,
        max_rows: int = 256,
        wait_s: float = 0.0,
        expected_s: float = 0.0,
        observe: Callable[[int], None] | None = None,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        """`expected_s`: what one row took before any traffic. `observe` gets the rows of every batch. `alone` says that
        no other request can be on its way here: then nothing is gained by letting the event loop turn first."""
        self._predict, self._max_rows, self._wait_s = predict, max_rows, wait_s
        self._observe, self._alone = observe, alone
        self._waiting: list[_Waiting] = []
        self._scheduled = self._running = False
        self._thread: ThreadPoolExecutor | None = None
        self._per_batch, self._per_row = expected_s, 0.0

    def submit(self, columns: Columns, rows: int) -> asyncio.Future[Scored]:
        """A future of the answer; fails as the model failed on these rows."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scored] = loop.create_future()
        self._waiting.append(_Waiting(columns, rows, future))
        if not (self._scheduled or self._running):
            if self._wait_s == 0 and self._is_quick(rows) and self._alone():
                self._flush()
                return future
            self._scheduled = True
            # A context of its own: a batch belongs to no single request, whose end must not cancel it.
            if self._wait_s > 0:
                loop.call_later(self._wait_s, self._flush, context=Context())
            else:
                loop.call_soon(self._flush, context=Context())
        return future

    def _flush(self) -> None:
        self._scheduled = False
        while self._waiting and not self._running:
            batch, rows = self._take()
            if not batch:
                continue
            if self._observe is not None:
                self._observe(rows)
            if self._is_quick(rows):
                self._settle(batch, self._score(batch, rows), rows)
            else:
                self._in_thread(batch, rows)

    def _is_quick(self, rows: int) -> bool:
        return self._per_batch + self._per_row * rows <= INLINE_SECONDS

    def _take(self) -> tuple[list[_Waiting], int]:
        """The next batch: as many whole requests as fit, at least one. Who has stopped waiting is left out."""
        batch: list[_Waiting] = []
        rows = taken = 0
        for one in self._waiting:
            if batch and rows + one.rows > self._max_rows:
                break
            taken += 1
            if not one.future.done():
                batch.append(one)
                rows += one.rows
        del self._waiting[:taken]
        return batch, rows

    def _in_thread(self, batch: list[_Waiting], rows: int) -> None:
        loop = asyncio.get_running_loop()
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="raymlops-model")
        self._running = True

        def done(work: asyncio.Future[list[Scored | Exception]]) -> None:
            self._running = False
            self._settle(batch, work.result(), rows)
            self._flush()

        loop.run_in_executor(self._thread, self._score, batch, rows).add_done_callback(done)

    def _score(self, batch: list[_Waiting], rows: int) -> list[Scored | Exception]:
        """The outcome of each request, in order; never raises."""
        if len(batch) == 1:
            return [self._one(batch[0].columns, rows)]
        merged = merge([one.columns for one in batch])
        outcome = self._one(merged, rows) if merged is not None else None
        if merged is None or not isinstance(outcome, Scored):
            return [self._one(one.columns, one.rows) for one in batch]
        whole = Batch(merged, outcome.answer, rows)
        sizes = [one.rows for one in batch]
        starts = accumulate(sizes, initial=0)
        parts = zip(split(outcome.answer, sizes), starts, strict=False)
        return [Scored(part, outcome.seconds, whole, start) for part, start in parts]

    def _one(self, columns: Columns, rows: int) -> Scored | Exception:
        started = time.perf_counter()
        try:
            answer = self._predict(columns, rows)
            require_sound(answer, rows)
        except Exception as error:
            return error
        seconds = time.perf_counter() - started
        self._learn(seconds, rows)
        return Scored(answer, seconds)

    def _learn(self, seconds: float, rows: int) -> None:
        """Expected time = fixed part + rows × slope, both smoothed. One batch that was interrupted on a busy machine
        says little: no single one can raise the expectation far."""
        seconds = min(seconds, 4.0 * (self._per_batch + self._per_row * rows) + 0.001)
        if rows <= _FEW_ROWS:
            self._per_batch += _SMOOTHING * (seconds - self._per_batch)
        else:
            self._per_row += _SMOOTHING * (max(seconds - self._per_batch, 0.0) / rows - self._per_row)

    @staticmethod
    def _settle(batch: list[_Waiting], outcomes: list[Scored | Exception], rows: int) -> None:
        for one, outcome in zip(batch, outcomes, strict=True):
            if one.future.done():  # its request gave up
                continue
            if isinstance(outcome, Scored):
                one.future.set_result(outcome)
            else:
                one.future.set_exception(outcome)


def merge(parts: Sequence[Columns]) -> Columns | None:
    """The parts one below the other; None when they do not have the same columns in the same form."""
    first = parts[0]
    if any(part.keys() != first.keys() for part in parts[1:]):
        return None
    merged: dict[str, Any] = {}
    for name, column in first.items():
        columns = [part[name] for part in parts]
        if any(type(other) is not type(column) for other in columns):
            return None
        if isinstance(column, np.ndarray):
            if any(c.dtype != column.dtype or c.shape[1:] != column.shape[1:] for c in columns):
                return None
            merged[name] = np.concatenate(columns)
        else:
            merged[name] = [value for values in columns for value in values]
    return merged


def split(answer: Answer, rows: Sequence[int]) -> list[Answer]:
    """The reverse of `merge` for an answer."""
    parts, start = [], 0
    for n in rows:
        parts.append({name: values[start : start + n] for name, values in answer.items()})
        start += n
    return parts


def require_sound(answer: Answer, rows: int) -> None:
    """Raises GarbageError unless every column has a value per row and every number is finite."""
    for name, values in answer.items():
        if values.shape != (rows,):
            raise GarbageError(f"{name}: the model answered with shape {values.shape}, expected ({rows},)")
        if values.dtype.kind == "f" and not (
            math.isfinite(values[0]) if rows == 1 else bool(np.isfinite(values).all())
        ):
            raise GarbageError(f"{name}: the model answered with NaN or infinity")
