"""The short way to a candidate on the same machine: answers, order, and what happens when an end goes away."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymlops.serving import link
from raymlops.serving.link import HEAD, MOST_BYTES, Connection, Links, Listener

Run = Callable[[Coroutine[Any, Any, None]], None]


async def double(parts: Any) -> Any:
    await asyncio.sleep(0.02 if parts[0][1] == 1 else 0)  # the first call is answered last
    return [("ok", {"prediction": 2.0 * columns["x"]}, 0.0) for columns, _ in parts]


def parts(*values: float) -> Any:
    return [({"x": np.array(values)}, len(values))]


@pytest.fixture(params=["asyncio", "uvloop"])
def run_on(request: pytest.FixtureRequest) -> Run:
    """Ray's actors run on uvloop, whose transports are of classes of their own."""
    return asyncio.run if request.param == "asyncio" else pytest.importorskip("uvloop").run


@pytest.fixture()
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(link, "runtime_directory", lambda: tmp_path)
    return link.socket_directory("cluster", "app")


def test_calls_overlap_and_large_ones_arrive_whole(directory: Path, run_on: Run) -> None:
    async def run() -> None:
        listener = Listener(directory, double)
        await listener.open()
        links = Links(directory)
        await links.scan()
        near = links.one()
        assert near is not None
        large = [({"x": np.arange(300_000.0)}, 300_000)]
        small, big = await asyncio.gather(near.call(parts(1.0)), near.call(large))
        assert small[0][1]["prediction"].tolist() == [2.0]
        assert big[0][1]["prediction"][-1] == 599_998.0
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        near.close()
        listener.close()
        assert not directory.exists()

    run_on(run())


def test_a_candidate_that_goes_away_fails_its_calls_at_once(directory: Path, run_on: Run) -> None:
    async def never(parts: Any) -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        listener = Listener(directory, never)
        await listener.open()
        links = Links(directory)
        await links.scan()
        near = links.one()
        assert near is not None
        waiting = asyncio.ensure_future(near.call(parts(1.0)))
        await asyncio.sleep(0)
        near.close()
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(waiting, 5)
        with pytest.raises(ConnectionError):
            await near.call(parts(1.0))
        assert links.one() is None
        await links.scan()
        assert links.one() is not None, "it is connected to again"
        listener.close()

    run_on(run())


def test_replicas_take_turns_and_dead_sockets_are_removed(directory: Path, run_on: Run) -> None:
    async def run() -> None:
        listeners = [Listener(directory, double) for _ in range(2)]
        for one in listeners:
            await one.open()
        links = Links(directory)
        await links.scan()
        assert len({id(links.one()) for _ in range(4)}) == 2
        first = listeners[0]
        assert first._server is not None
        first._server.close()
        first._path.touch()  # as after SIGKILL: a name without anybody
        other = Links(directory)
        await other.scan()
        assert len({id(other.one()) for _ in range(4)}) == 1
        listeners[1].close()

    run_on(run())


def test_a_replica_says_first_what_it_is_and_one_that_says_nothing_is_not_used(
    directory: Path, run_on: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "GREETING_SECONDS", 0.05)

    async def run() -> None:
        said: list[Any] = []
        links = Links(directory, said.append)
        listener = Listener(directory, double, greeting={"reads": ["x"]})
        await listener.open()
        hangs = await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, str(directory / "hangs"))
        await links.scan()
        assert said == [{"reads": ["x"]}] and links.one() is links.one()
        await links.scan()
        assert len(said) == 1, "once for every connection"
        hangs.close()
        listener.close()

    run_on(run())


def test_nothing_there_is_no_connection(directory: Path, run_on: Run) -> None:
    async def run() -> None:
        links = Links(directory)
        await links.scan()
        assert links.one() is None

    run_on(run())


def test_a_frame_that_cannot_be_is_refused() -> None:
    closed: list[bool] = []

    class Transport(asyncio.Transport):
        def close(self) -> None:
            closed.append(True)

        def is_closing(self) -> bool:
            return bool(closed)

    async def run() -> None:
        connection = Connection()
        connection.connection_made(Transport())
        connection.data_received(HEAD.pack(MOST_BYTES + 1, 1))

    asyncio.run(run())
    assert closed


def test_what_killed_candidates_left_is_removed_and_nothing_else(
    directory: Path,
) -> None:
    async def run() -> None:
        listener = Listener(directory, double)
        await listener.open()
        old, fresh = link.socket_directory("cluster", "killed"), link.socket_directory("cluster", "starting")
        for path in (old, fresh):
            path.mkdir()
        for path in (old / "dead", directory / "dead"):
            with socket.socket(socket.AF_UNIX) as left:
                left.bind(str(path))
        for path in (old, directory):
            os.utime(path, (0, 0))
        link.sweep()
        assert not old.exists() and fresh.exists()
        assert [path.name for path in directory.iterdir()] != ["dead"] and len(list(directory.iterdir())) == 1
        links = Links(directory)
        await links.scan()
        assert links.one() is not None
        listener.close()

    asyncio.run(run())
