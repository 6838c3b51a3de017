"""Which requests take the short way to the endpoint, and what becomes of the others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from raymlops.serving.lane import Lane, alone, open_lane
from raymlops.serving.middleware import Gate
from raymlops.serving.protocol import ROOTS


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    open_lane(None)


def scope(path: str = "/v2/models/m/rows", **headers: str) -> dict[str, Any]:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": "POST", "path": path, "headers": named}


def done(status: int, body: bytes = b"") -> Any:
    return SimpleNamespace(status_code=status, body=body, raw_headers=[(b"x-who", b"lane")])


class Server:
    """An HTTP server with Serve behind its middleware; `sent` and `served` are what each side saw."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.served: list[dict[str, Any]] = []
        self.gate = Gate(self.serve)

    async def serve(self, scope: Any, receive: Any, send: Any) -> None:
        self.served.append(scope)

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def ask(self, scope: dict[str, Any]) -> int | None:
        """The status that the lane answered; None when Serve got the request."""
        before = len(self.sent)
        await self.gate(scope, None, self.send)  # type: ignore[arg-type]
        return self.sent[before]["status"] if len(self.sent) > before else None


async def answer(scope: Any, receive: Any) -> Any:
    return done(200, scope["path"].encode())


def test_an_endpoint_in_this_process_answers_itself() -> None:
    async def run() -> None:
        server = Server()
        open_lane(Lane(answer, lambda scope: done(503), 8, ROOTS))
        assert await server.ask(scope()) == 200
        start, body = server.sent
        assert start["headers"] == [(b"x-who", b"lane")]
        assert body["body"] == b"/v2/models/m/rows" and server.served == []

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes", "/prefix/v2/models/m/rows", "/", "*", ""])
def test_what_serve_alone_can_answer_stays_with_serve(path: str) -> None:
    async def run() -> None:
        server = Server()
        open_lane(Lane(answer, lambda scope: done(503), 8, ROOTS))
        assert await server.ask(scope(path)) is None
        assert len(server.served) == 1

    asyncio.run(run())


def test_without_a_lane_serve_answers_and_no_header_of_the_client_changes_how() -> None:
    async def run() -> None:
        server = Server()
        assert await server.ask(scope(x_request_timeout_seconds="-1", x_request_id="7")) is None
        assert dict(server.served[0]["headers"]) == {b"x-request-id": b"7", b"x-request-disconnect-disabled": b"?1"}

    asyncio.run(run())


def test_an_http_server_on_another_event_loop_asks_serve() -> None:
    async def make() -> Lane:
        return Lane(answer, lambda scope: done(503), 8, ROOTS)

    async def run() -> None:
        assert await server.ask(scope()) is None

    server = Server()
    open_lane(asyncio.run(make()))
    asyncio.run(run())
    assert len(server.served) == 1


def test_requests_beyond_the_limit_are_refused_until_one_has_ended() -> None:
    async def run() -> None:
        server, release = Server(), asyncio.Event()

        async def slow(scope: Any, receive: Any) -> Any:
            await release.wait()
            return done(200)

        open_lane(Lane(slow, lambda scope: done(503), 2, ROOTS))
        asked = [asyncio.create_task(server.ask(scope())) for _ in range(2)]
        await asyncio.sleep(0)
        assert await server.ask(scope()) == 503
        release.set()
        await asyncio.gather(*asked)
        assert [m["status"] for m in server.sent if "status" in m] == [503, 200, 200]
        assert await server.ask(scope()) == 200

    asyncio.run(run())


def test_a_request_that_is_cancelled_gives_its_place_back() -> None:
    async def run() -> None:
        async def hangs(scope: Any, receive: Any) -> Any:
            await asyncio.Event().wait()

        lane = Lane(hangs, lambda scope: done(503), 1, ROOTS)
        open_lane(lane)
        asked = asyncio.create_task(Server().ask(scope()))
        await asyncio.sleep(0)
        assert lane.in_progress == 1
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert lane.in_progress == 0

    asyncio.run(run())


def test_a_request_is_alone_while_the_server_has_read_no_other() -> None:
    """A real server, and two connections whose requests are there at the same moment."""

    async def run() -> None:
        seen: list[tuple[bytes, bool]] = []

        async def answer(scope: Any, receive: Any) -> Any:
            seen.append((scope["path"].encode(), alone()))
            return done(200)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            assert scope["type"] == "http"
            await Gate(Server().serve)(scope, receive, send)

        assert not alone()
        open_lane(Lane(answer, lambda scope: done(503), 8, ROOTS))
        config = uvicorn.Config(app, port=0, lifespan="off", log_level="error", http="httptools")
        server = uvicorn.Server(config)
        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = asyncio.create_task(server.serve([listening]))
            streams = [await asyncio.open_connection(*listening.getsockname()) for _ in range(2)]
            for _, writer in streams:
                writer.write(b"GET /v2/both HTTP/1.1\r\nhost: a\r\n\r\n")  # both leave before the server's turn
            for reader, _ in streams:
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
            streams[0][1].write(b"GET /v2/one HTTP/1.1\r\nhost: a\r\n\r\n")
            while len(seen) < 3:
                await asyncio.wait_for(streams[0][0].readline(), 10)
            server.should_exit = True
            for _, writer in streams:
                writer.close()
            await serving
        assert [path for path, _ in seen] == [b"/v2/both", b"/v2/both", b"/v2/one"]
        assert (seen[0][1], seen[2][1]) == (False, True)

    asyncio.run(run())


class Cycle:
    """What uvicorn's cycle of request and response is to `send`: the owner of a transport."""

    def __init__(self) -> None:
        self.transport = self.connection = Connection()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.transport.write(b"head;")
        else:
            self.transport.write(message["body"])
            self.transport.close()


class Connection:
    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.seen.append(data)

    def close(self) -> None:
        self.seen.append(b"closed")


def test_a_response_leaves_in_one_write_before_its_connection_is_closed() -> None:
    async def run() -> None:
        cycle = Cycle()
        await Lane(answer, lambda scope: done(503), 1, ROOTS)(scope("/a"), None, cycle.send)  # type: ignore[arg-type]
        assert cycle.connection.seen == [b"head;/a", b"closed"]
        assert cycle.transport is cycle.connection

    asyncio.run(run())
