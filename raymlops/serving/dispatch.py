"""Asking an isolated candidate: the hop is the dear part, so what queued within one tick of the event loop goes as one
call; and whatever the candidate does, the wait ends within its budget.

A request that is not answered here raises a `Missed`, and the champion answers in its place.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(slots=True, eq=False)
class _Request:
    columns: Columns
    rows: int
    future: asyncio.Future[Scored]
    timer: asyncio.TimerHandle | None = None
    sent: _Sent | None = None
    """The call under way that it is part of."""


@dataclass(slots=True, eq=False)
class _Sent:
    """One call."""

    parts: list[_Request]
    late: bool = False
    """Whether one of its requests has given up."""


class Dispatcher:
    """Calls to one candidate. Belongs to one event loop.

    `budget_s` is the longest wait of a request, `max_in_flight` the most requests under way. That bound is ours, so
    meeting it is no failure of the candidate: what finds no room waits for it, within its budget. Requests whose answer
    nobody waits for any more stay under way until the candidate answers or dies. So one that hangs is not sent more and
    more, and once it is both full and late nobody waits for it either.
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
        self._waiting: deque[_Request] = deque()
        """In the order in which they give up."""
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._late = 0
        """Calls under way that are late."""
        self._last_failure: Event = "timeouts"
        """What requests are counted as while the breaker is open: the blame is that of the calls that opened it."""
        self.in_flight = 0
        """Requests under way."""

    def ask(self, columns: Columns, rows: int) -> asyncio.Future[Scored]:
        """A future that is done within the budget: the answer, `Missed`, or DataError for rows that it cannot read.
        Raises Missed at once when nothing may be sent."""
        if self._late and self.in_flight >= self._max_in_flight:
            raise Missed("timeouts", f"{self.in_flight} requests are under way to the candidate, and it is late")
        if not self._breaker.allows(self._clock()):
            raise Missed(self._last_failure, "the candidate failed or was late several times in a row")
        loop = asyncio.get_running_loop()
        one = _Request(columns, rows, loop.create_future())
        one.timer = loop.call_later(self._budget_s, self._expire, one, context=Context())
        self._waiting.append(one)
        self._wake()
        return one.future

    def _wake(self) -> None:
        if self._scheduled or not self._waiting or self.in_flight >= self._max_in_flight:
            return
        self._scheduled = True
        # A context of its own: Serve cancels calls made in the context of a request when that request ends.
        asyncio.get_running_loop().call_soon(self._flush, context=Context())

    def _flush(self) -> None:
        self._scheduled = False
        sent = _Sent([])
        while self._waiting and self.in_flight < self._max_in_flight:
            one = self._waiting.popleft()
            if not one.future.done():  # else its request has ended meanwhile
                one.sent = sent
                sent.parts.append(one)
                self.in_flight += 1
        if sent.parts:
            task = asyncio.get_running_loop().create_task(self._send(sent))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, sent: _Sent) -> None:
        try:
            outcomes = await self._call([(part.columns, part.rows) for part in sent.parts])
        except Exception as error:  # gone, restarting, or broken in a way of its own
            outcomes = [("error", f"{type(error).__name__}: {str(error)[:200]}", 0.0)] * len(sent.parts)
        finally:
            self.in_flight -= len(sent.parts)
            self._late -= sent.late
            for part in sent.parts:
                if part.timer is not None:
                    part.timer.cancel()
                part.sent = None  # else a circle of the two keeps all that they hold until garbage is collected
            self._wake()
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

    def _expire(self, one: _Request) -> None:
        if not one.future.done():
            one.future.set_exception(Missed("timeouts", f"no answer within {self._budget_s * 1000:g} ms"))
        if one.sent is None:
            while self._waiting and self._waiting[0].future.done():
                self._waiting.popleft()
        elif not one.sent.late:
            one.sent.late, self._last_failure = True, "timeouts"
            self._late += 1
            self._breaker.record(False, self._clock())


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
