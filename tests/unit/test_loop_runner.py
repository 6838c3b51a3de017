"""Work that a thread has done by an event loop's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from prediction_cases import append, ids, opened, record

from raymlops.serving.loop_runner import LoopRunner
from raymlops.store import Store

LONG = 60.0
"""Seconds that no test waits for."""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread."""
    made = asyncio.new_event_loop()
    thread = threading.Thread(target=made.run_forever)
    thread.start()
    yield made
    if not made.is_closed():
        made.call_soon_threadsafe(made.stop)
    thread.join()
    made.close()


def thread_of(loop: asyncio.AbstractEventLoop) -> int:
    async def own() -> int:
        return threading.get_ident()

    return asyncio.run_coroutine_threadsafe(own(), loop).result(LONG)


def test_work_is_done_in_the_loops_thread(loop: asyncio.AbstractEventLoop) -> None:
    assert LoopRunner(loop, LONG)(threading.get_ident) == thread_of(loop) != threading.get_ident()


@pytest.mark.parametrize("kind", [ValueError, TimeoutError, SystemExit])
def test_what_work_raises_is_raised_here(loop: asyncio.AbstractEventLoop, kind: type[BaseException]) -> None:
    def fail() -> None:
        raise kind("no")

    with pytest.raises(kind, match="no"):
        LoopRunner(loop, LONG)(fail)
    assert thread_of(loop)  # the loop goes on


def test_a_loop_that_does_not_come_to_it_is_not_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    go_on, calls = threading.Event(), []
    loop.call_soon_threadsafe(go_on.wait, LONG)
    assert LoopRunner(loop, 0.01)(lambda: calls.append(threading.get_ident())) is None
    go_on.set()
    thread_of(loop)
    assert calls == [threading.get_ident()]  # and it is not done twice


def test_work_that_has_begun_is_waited_for(loop: asyncio.AbstractEventLoop) -> None:
    patience, calls = 0.2, []

    def work() -> int:
        calls.append(threading.get_ident())
        threading.Event().wait(1.5 * patience)
        return calls[-1]

    assert [LoopRunner(loop, patience)(work)] == calls


def test_a_loop_that_has_ended_is_done_without(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        threading.Event().wait(0.001)
    loop.close()
    assert LoopRunner(loop, LONG)(threading.get_ident) == threading.get_ident()


def test_a_log_in_a_loop_has_every_row(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    store, threads = Store(str(tmp_path)), set()
    run = LoopRunner(loop, LONG)

    def make(work: Callable[[], list[pa.Table]]) -> list[pa.Table]:
        return run(lambda: (threads.add(threading.get_ident()), work())[1])

    log = opened(store, make=make, flush_s=30)
    for number in range(5000):
        assert append(log, number)
    log.close()
    assert ids(store) == [f"id-{number}" for number in range(5000)]
    assert threads == {thread_of(loop)}


def test_what_would_hold_up_a_loop_is_not_done_there(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    def never(work: Callable[[], list[pa.Table]]) -> list[pa.Table]:
        raise AssertionError("megabytes in the loop")

    store = Store(str(tmp_path))
    log = opened(store, make=never, flush_s=30)
    assert log.append(*record(0, inputs={"text": ["x" * 3_000_000]}), 3_000_000)
    log.close()
    assert (ids(store), log.statistics()["last_error"]) == (["id-0"], "")


def test_a_log_closes_while_its_loop_waits_for_that(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    log = opened(store, make=LoopRunner(loop, 0.05), flush_s=30)
    for number in range(3000):
        assert append(log, number)

    async def close() -> None:
        log.close(LONG)

    asyncio.run_coroutine_threadsafe(close(), loop).result(LONG)
    assert ids(store) == [f"id-{number}" for number in range(3000)]
