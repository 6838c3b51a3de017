"""Asking an isolated candidate: the hop is the dear part, so what queued within one tick of the event loop goes as one
call; and whatever the candidate does, the wait ends within its budget.

A request that is not answered here raises a `Missed`, and the champion answers in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from raymlops.errors import DataError, RaymlopsError
from raymlops.serving.batching import Answer, Columns, GarbageError, Scored, require_sound

Event = Literal["errors", "timeouts"]
Call = Callable[[list[tuple[Columns, int]]], Awaitable[Sequence[tuple[str, Any, float]]]]
"""Asks the candidate; see `Candidate.predict`."""


class Missed(RaymlopsError):
    """The candidate has no answer. `event` is what the evidence counts it as: `errors` or `timeouts`."""

    def __init__(self, event: Event, message: str) -> None:
        super().__init__(message)
        self.event: Event = event


class Breaker:
    """Opens after so many failures in a row; after a while one call is let through, whose outcome decides. `changed` is
    told when it has opened (True) or closed again."""

    def __init__(self, failures: int, seconds: float, changed: Callable[[bool], None] = lambda opened: None) -> None:
        self._limit, self._seconds, self._changed = failures, seconds, changed
        self._failures = 0
        self._closed_at = 0.0

    def allows(self, now: float) -> bool:
        if self._failures < self._limit:
            return True
        if now < self._closed_at:
            return False
        self._closed_at = now + self._seconds  # this one tries; the others wait for what becomes of it
        return True

    def record(self, ok: bool, now: float) -> None:
        if ok:
            was_open, self._failures = self._failures >= self._limit, 0
            if was_open:
                self._changed(False)
            return
        self._failures += 1
        if self._failures >= self._limit:
            self._closed_at = now + self._seconds
            if self._failures == self._limit:
                self._changed(True)


class _Waiting(NamedTuple):
    columns: Columns
    rows: int
    future: asyncio.Future[Scored]


@dataclass(slots=True)
class _Sent:
    """One call."""

    parts: list[_Waiting]
    late: bool = False


class Dispatcher:
    """Calls to one candidate. Belongs to one event loop.

    `budget_s` is the longest wait of a request, `max_in_flight` the most rows under way; rows that the candidate still
    works on after their request gave up count until it answers or dies, so that a candidate that hangs is not sent
    more and more.
    """

    def __init__(
        self,
        call: Call,
        *,
        budget_s: float,
        max_in_flight: int,
        breaker: Breaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._call, self._budget_s, self._max_in_flight = call, budget_s, max_in_flight
        self._breaker, self._clock = breaker, clock
        self._waiting: list[_Waiting] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_failure: Event = "timeouts"
        """What requests are counted as while the breaker is open: the blame is that of the calls that opened it."""
        self.in_flight = 0

    def ask(self, columns: Columns, rows: int) -> asyncio.Future[Scored]:
        """A future that is done within the budget: the answer, `Missed`, or DataError for rows that it cannot read.
        Raises Missed at once when nothing may be sent."""
        if self.in_flight and self.in_flight + rows > self._max_in_flight:
            raise Missed("errors", f"{self.in_flight} rows are under way to the candidate")
        if not self._breaker.allows(self._clock()):
            raise Missed(self._last_failure, "the candidate failed or was late several times in a row")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Scored] = loop.create_future()
        if not self._waiting:
            # A context of its own: Serve cancels calls made in the context of a request when that request ends.
            loop.call_soon(self._flush, context=Context())
        self._waiting.append(_Waiting(columns, rows, future))
        self.in_flight += rows
        return future

    def _flush(self) -> None:
        sent, self._waiting = _Sent(self._waiting), []
        task = asyncio.get_running_loop().create_task(self._send(sent))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, sent: _Sent) -> None:
        timer = asyncio.get_running_loop().call_later(self._budget_s, self._expire, sent)
        try:
            outcomes = await self._call([(part.columns, part.rows) for part in sent.parts])
        except Exception as error:  # gone, restarting, or broken in a way of its own
            outcomes = [("error", f"{type(error).__name__}: {str(error)[:200]}", 0.0)] * len(sent.parts)
        finally:
            timer.cancel()
            self.in_flight -= sum(part.rows for part in sent.parts)
        found = [_result(outcome, part.rows) for part, outcome in zip(sent.parts, outcomes, strict=True)]
        if not sent.late:
            missed = [one for one in found if isinstance(one, Missed)]
            if len(missed) == len(found):
                self._last_failure = missed[0].event
            self._breaker.record(len(missed) < len(found), self._clock())
        for part, one in zip(sent.parts, found, strict=True):
            if part.future.done():
                continue
            if isinstance(one, Scored):
                part.future.set_result(one)
            else:
                part.future.set_exception(one)

    def _expire(self, sent: _Sent) -> None:
        sent.late, self._last_failure = True, "timeouts"
        self._breaker.record(False, self._clock())
        for part in sent.parts:
            if not part.future.done():
                part.future.set_exception(Missed("timeouts", f"no answer within {self._budget_s * 1000:g} ms"))


def _result(outcome: tuple[str, Any, float], rows: int) -> Scored | Missed | DataError:
    kind, value, seconds = outcome
    if kind == "data":
        return DataError(value)
    if kind != "ok":
        return Missed("errors", value)
    answer: Answer = {name: np.asarray(values) for name, values in _mapping(value).items()}
    try:
        require_sound(answer, rows)
    except GarbageError as error:
        return Missed("errors", str(error))
    return Scored(answer, seconds)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {"prediction": value}
