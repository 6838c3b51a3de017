"""The short way to a replica's endpoint: from its HTTP server straight to `Ingress`, past what Serve does in between.

Serve's own way costs a replica about as much per request as the whole answer does. What it does on the way is done by
the endpoint itself: deadlines, limits, metrics by variant. What is left to Serve: health checks, draining (its HTTP
server lets requests in progress end before the replica does), and everything in deployments that autoscale, because
the number of requests in progress that it scales by counts those only that it has seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Finished(Protocol):
    """A response that is complete."""

    @property
    def status_code(self) -> int: ...
    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]: ...
    @property
    def body(self) -> bytes | memoryview: ...


class Lane:
    """Belongs to the event loop that it was made on, which has to be the HTTP server's too: it is in Serve's
    throughput mode, and only then are requests taken."""

    def __init__(
        self,
        answer: Callable[[Scope, Receive], Awaitable[Finished]],
        busy: Callable[[Scope], Finished],
        most: int,
        roots: Collection[str],
    ) -> None:
        """`answer` never raises. While `most` requests are in progress, others get `busy`. `roots` are the first parts
        of the paths that are taken; what has another is Serve's: its own health check and list of routes, and every
        request where the application has a route prefix, which Serve alone knows."""
        self._answer, self._busy, self._most, self._roots = answer, busy, most, roots
        self._loop = asyncio.get_running_loop()
        self._requests: Collection[Any] | None = None
        self.in_progress = 0

    @property
    def alone(self) -> bool:
        """Whether the request that is being answered is the only one that the server has read; False if unknown."""
        return self._requests is not None and len(self._requests) == 1

    def takes(self, scope: Scope) -> bool:
        root = scope["path"][1:].partition("/")[0]
        return root in self._roots and asyncio.get_running_loop() is self._loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._requests is None:
            self._requests = _requests_of(send)
        if self.in_progress >= self._most:
            done = self._busy(scope)
        else:
            self.in_progress += 1
            try:
                done = await self._answer(scope, receive)
            finally:
                self.in_progress -= 1
        with in_one_write(send):
            await send({"type": "http.response.start", "status": done.status_code, "headers": done.raw_headers})
            await send({"type": "http.response.body", "body": done.body})


class OneWrite:
    """Stands in for a connection while a response is sent, so that its head and body leave together: each write wakes
    the other side, and costs as much as reading the request did."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._parts = connection, list[bytes]()

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def close(self) -> None:
        self.flush()
        self._connection.close()

    def flush(self) -> None:
        if self._parts:
            self._connection.write(b"".join(self._parts))
            self._parts.clear()


@contextmanager
def in_one_write(send: Send) -> Iterator[None]:
    """Where `send` belongs to uvicorn's cycle of request and response, which holds its connection as `transport`.
    Elsewhere nothing changes."""
    cycle = getattr(send, "__self__", None)
    connection = getattr(cycle, "transport", None)
    if cycle is None or connection is None:
        yield
        return
    cycle.transport = joined = OneWrite(connection)
    try:
        yield
    finally:
        cycle.transport = connection
        joined.flush()


def _requests_of(send: Send) -> Collection[Any] | None:
    """The tasks of all requests of uvicorn's server: it starts one as soon as it has read a request's head."""
    protocol = getattr(getattr(getattr(send, "__self__", None), "on_response", None), "__self__", None)
    tasks = getattr(protocol, "tasks", None)
    return tasks if isinstance(tasks, set) else None


_here: Lane | None = None


def open_lane(lane: Lane | None) -> None:
    """The lane of this process; there is one endpoint replica in a process at most. None closes it."""
    global _here
    _here = lane


def lane_here() -> Lane | None:
    return _here


def alone() -> bool:
    """Whether the request that is being answered has no company in this process."""
    return _here is not None and _here.alone
