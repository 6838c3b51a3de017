"""A short way between processes of one machine: a Unix socket that only this user may open.

A call through a Serve handle costs both sides more than a millisecond of CPU, about twenty times what this costs, and a
tenth of the traffic takes it. Where no socket is found (the candidate runs on another node) the handle is used.

    frame: 4 bytes length of what follows, 8 bytes number of the call, pickled content

The candidate's first frame, number 0, is its greeting: what it says of itself, and the sign that it is alive.

Pickle as Serve's own calls: both ends are this program, and nobody else can reach the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import pickle
import socket
import struct
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, cast

from raymlops.serving.batching import Columns
from raymlops.serving.local import runtime_directory

logger = logging.getLogger("raymlops.serving")
HEAD = struct.Struct("!IQ")
MOST_BYTES = 256 * 1024 * 1024
SCAN_SECONDS = 0.5
SETTLED_SECONDS = 60.0
GREETING_SECONDS = 1.0
"""For a socket opens, by the kernel, to a process that hangs as well."""
Parts = list[tuple[Columns, int]]
Outcomes = Sequence[tuple[str, Any, float]]


def socket_directory(cluster: str, app: str) -> Path:
    """Where the replicas of an application on this machine have their sockets. Short: such paths are limited."""
    name = hashlib.blake2b(f"{cluster} {app}".encode(), digest_size=6).hexdigest()
    return runtime_directory() / f"c{name}"


def sweep() -> None:
    """Remove what candidates left behind that were killed: sockets that nobody listens on, and their directories."""
    for directory in runtime_directory().glob("c" + 12 * "[0-9a-f]"):
        with contextlib.suppress(OSError):  # somebody else removed it, or a candidate lives in it
            if time.time() - directory.stat().st_mtime < SETTLED_SECONDS:
                continue  # one may be opening its socket in it
            for path in directory.iterdir():
                if not _listens(path):
                    path.unlink()
            directory.rmdir()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


class _Frames(asyncio.Protocol):
    """Cuts the stream into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= HEAD.size:
            length, number = HEAD.unpack_from(self._buffer)
            if length > MOST_BYTES:
                self.close()
                return
            end = HEAD.size + length
            if len(self._buffer) < end:
                return
            content = bytes(memoryview(self._buffer)[HEAD.size : end])
            del self._buffer[:end]
            self.received(number, content)

    def send(self, number: int, content: Any) -> None:
        data = pickle.dumps(content, protocol=pickle.HIGHEST_PROTOCOL)
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(HEAD.pack(len(data), number) + data)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def received(self, number: int, content: bytes) -> None:
        raise NotImplementedError


class _Answering(_Frames):
    """The candidate's end of a connection."""

    def __init__(self, answer: Callable[[Parts], Awaitable[Outcomes]], greeting: Any) -> None:
        super().__init__()
        self._answer, self._greeting = answer, greeting
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.send(0, self._greeting)

    def received(self, number: int, content: bytes) -> None:
        task = asyncio.get_running_loop().create_task(self._reply(number, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _reply(self, number: int, content: bytes) -> None:
        self.send(number, await self._answer(pickle.loads(content)))  # noqa: S301  (our own; see the module)


class Listener:
    """The candidate's side: answers calls at a socket of its own until closed."""

    def __init__(self, directory: Path, answer: Callable[[Parts], Awaitable[Outcomes]], greeting: Any = None) -> None:
        self._path = directory / f"{uuid.uuid4().hex[:12]}"
        self._answer, self._greeting = answer, greeting
        self._server: asyncio.AbstractServer | None = None

    async def open(self) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._answering, str(self._path))

    def _answering(self) -> _Answering:
        return _Answering(self._answer, self._greeting)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are in it
            self._path.parent.rmdir()


class Connection(_Frames):
    """The endpoint's end."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self.open = True
        self.greeting: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """What the candidate says of itself; cancelled when it goes away before that."""

    async def call(self, parts: Parts) -> Outcomes:
        """Raises ConnectionError when the other side goes away."""
        if not self.open:
            raise ConnectionError("the candidate is gone")
        self._number += 1
        number = self._number
        future = self._calls[number] = asyncio.get_running_loop().create_future()
        self.send(number, parts)
        try:
            answer: Outcomes = pickle.loads(await future)  # noqa: S301  (our own; see the module)
        finally:
            self._calls.pop(number, None)
        return answer

    def received(self, number: int, content: bytes) -> None:
        if number == 0 and not self.greeting.done():
            self.greeting.set_result(pickle.loads(content))  # noqa: S301  (our own; see the module)
        future = self._calls.get(number)
        if future is not None and not future.done():
            future.set_result(content)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        self.greeting.cancel()
        for future in self._calls.values():
            if not future.done():
                future.set_exception(ConnectionError("the candidate is gone"))


class Links:
    """Connections to every replica of a candidate on this machine, kept up by one task.

    `greeted` gets what a replica says of itself when it is connected to.
    """

    def __init__(self, directory: Path, greeted: Callable[[Any], None] = lambda _: None) -> None:
        self._directory, self._greeted = directory, greeted
        self._open: dict[str, Connection] = {}
        self._turn = 0

    def one(self) -> Connection | None:
        """The next in turn; None when there is none."""
        alive = [connection for connection in self._open.values() if connection.open]
        if not alive:
            return None
        self._turn += 1
        return alive[self._turn % len(alive)]

    async def keep(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await self.scan()
                await asyncio.sleep(SCAN_SECONDS)
        finally:
            for connection in self._open.values():
                connection.close()

    async def scan(self) -> None:
        self._open = {name: connection for name, connection in self._open.items() if connection.open}
        try:
            names = [path.name for path in self._directory.iterdir()]
        except OSError:  # no replica is here, or not yet
            return
        for name in names:
            if name in self._open:
                continue
            path = self._directory / name
            try:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_unix_connection(Connection, str(path))
            except ConnectionRefusedError:  # left behind by a process that was killed
                path.unlink(missing_ok=True)
                continue
            except OSError as error:
                logger.debug("cannot connect to %s: %s", path, error)
                continue
            await asyncio.wait((connection.greeting,), timeout=GREETING_SECONDS)
            if connection.greeting.done() and not connection.greeting.cancelled():
                self._open[name] = connection
                self._greeted(connection.greeting.result())
            else:  # it hangs, or has just gone; it is connected to again
                connection.close()
