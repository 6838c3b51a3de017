"""Whatever a candidate does, the wait for it ends, and what happened is told apart."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from raymlops.errors import DataError
from raymlops.serving.dispatch import Breaker, Dispatcher, Missed

Parts = list[tuple[dict[str, Any], int]]


class Candidate:
    """Doubles; `does` can be replaced by anything that a candidate may do."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.does: Callable[[Parts], Awaitable[Any]] = self.double

    async def __call__(self, parts: Parts) -> Any:
        self.calls.append([rows for _, rows in parts])
        return await self.does(parts)

    async def double(self, parts: Parts) -> Any:
        return [("ok", {"prediction": 2.0 * np.array(columns["x"])}, 0.001) for columns, _ in parts]


def dispatcher(candidate: Candidate, **options: Any) -> Dispatcher:
    breaker = options.pop("breaker", Breaker(failures=100, seconds=1.0))
    return Dispatcher(candidate, **{"budget_s": 0.05, "max_in_flight": 8, "breaker": breaker, **options})


async def outcome(sent: Dispatcher, *values: float) -> Any:
    try:
        return (await sent.ask({"x": list(values)}, len(values))).answer["prediction"].tolist()
    except Missed as missed:
        return missed.event
    except DataError as error:
        return str(error)


def test_what_queued_in_a_tick_is_one_call() -> None:
    candidate = Candidate()

    async def run() -> list[Any]:
        sent = dispatcher(candidate)
        found = await asyncio.gather(outcome(sent, 1.0), outcome(sent, 2.0, 3.0), outcome(sent, 4.0))
        assert sent.in_flight == 0
        return found

    assert asyncio.run(run()) == [[2.0], [4.0, 6.0], [8.0]]
    assert candidate.calls == [[1, 2, 1]]


def test_an_answered_request_is_freed_at_once() -> None:
    """Left to the garbage collection, requests would fill memory for seconds, and going through them stalls others."""

    async def run() -> bool:
        sent = dispatcher(Candidate())
        values = np.ones(1)
        gone = weakref.ref(values)
        await sent.ask({"x": values}, 1)
        del values
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
        return gone() is None

    gc.disable()
    try:
        assert asyncio.run(run())
    finally:
        gc.enable()


def test_outcomes_of_one_call_are_kept_apart() -> None:
    candidate = Candidate()

    async def mixed(parts: Parts) -> Any:
        (good,) = await candidate.double(parts[:1])
        nan = ("ok", {"prediction": np.array([np.nan])}, 0.0)
        short = ("ok", {"prediction": np.array([])}, 0.0)
        return [good, nan, short, ("data", "column 'x': bad", 0.0), ("error", "ValueError", 0.0)]

    candidate.does = mixed

    async def run() -> list[Any]:
        sent = dispatcher(candidate)
        return await asyncio.gather(*(outcome(sent, float(n)) for n in range(5)))

    assert asyncio.run(run()) == [[0.0], "errors", "errors", "column 'x': bad", "errors"]


def test_a_call_that_fails_fails_all_and_is_over() -> None:
    candidate = Candidate()

    async def gone(parts: Parts) -> Any:
        raise ConnectionError("the replica died")

    candidate.does = gone

    async def run() -> None:
        sent = dispatcher(candidate)
        assert await asyncio.gather(outcome(sent, 1.0), outcome(sent, 2.0)) == ["errors", "errors"]
        assert sent.in_flight == 0

    asyncio.run(run())


def test_a_hanging_candidate_costs_the_budget_and_gets_no_more_than_fits() -> None:
    candidate, released = Candidate(), asyncio.Event()

    async def hang(parts: Parts) -> Any:
        await released.wait()
        return await candidate.double(parts)

    candidate.does = hang

    async def run() -> None:
        sent = dispatcher(candidate)
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await asyncio.gather(*(outcome(sent, 1.0) for _ in range(11)))  # three of them find no room
        assert found == ["timeouts"] * 11
        assert 0.04 < loop.time() - began < 0.5
        assert sent.in_flight == 8
        began = loop.time()
        assert [await outcome(sent, 1.0) for _ in range(50)] == ["timeouts"] * 50  # it still works on eight
        assert loop.time() - began < 1.0
        assert candidate.calls == [[1] * 8]
        released.set()
        async with asyncio.timeout(5):
            while sent.in_flight:
                await asyncio.sleep(0)
        assert await outcome(sent, 1.0) == [2.0]
        assert candidate.calls == [[1] * 8, [1]], "nobody waits for those that found no room"

    asyncio.run(run())


@pytest.mark.parametrize("rows", [1, 450])
def test_what_finds_no_room_waits_for_it_and_is_no_failure(rows: int) -> None:
    candidate, most = Candidate(), [0]

    async def run() -> None:
        sent = dispatcher(candidate, budget_s=30.0, max_in_flight=4, breaker=Breaker(failures=1, seconds=1000.0))

        async def works(parts: Parts) -> Any:
            most[0] = max(most[0], sent.in_flight)
            await asyncio.sleep(0.001)
            return await candidate.double(parts)

        candidate.does = works
        found = await asyncio.gather(*(outcome(sent, *[float(n)] * rows) for n in range(50)))
        assert found == [[2.0 * n] * rows for n in range(50)]
        assert sent.in_flight == 0

    asyncio.run(run())
    assert most == [4]
    assert sum(map(len, candidate.calls)) == 50


def test_waiting_for_room_belongs_to_the_budget() -> None:
    """The first call is answered after half of the budget, the second, which waited for it, never."""
    candidate, budget = Candidate(), 0.4

    async def once(parts: Parts) -> Any:
        await asyncio.sleep(budget / 2 if len(candidate.calls) == 1 else 100.0)
        return await candidate.double(parts)

    candidate.does = once

    async def run() -> None:
        sent = dispatcher(candidate, budget_s=budget, max_in_flight=1)
        began = asyncio.get_running_loop().time()
        assert await asyncio.gather(outcome(sent, 1.0), outcome(sent, 2.0)) == [[2.0], "timeouts"]
        assert len(candidate.calls) == 2
        assert asyncio.get_running_loop().time() - began < 1.4 * budget

    asyncio.run(run())


def test_the_breaker_opens_and_lets_one_try_after_a_while() -> None:
    candidate, now = Candidate(), [0.0]

    async def broken(parts: Parts) -> Any:
        raise ConnectionError

    candidate.does = broken

    async def run() -> None:
        sent = dispatcher(candidate, breaker=Breaker(failures=2, seconds=10.0), clock=lambda: now[0])
        assert [await outcome(sent, 1.0) for _ in range(3)] == ["errors", "errors", "errors"]
        assert len(candidate.calls) == 2
        now[0] = 10.5
        candidate.does = candidate.double
        assert await asyncio.gather(outcome(sent, 1.0), outcome(sent, 1.0)) == [[2.0], "errors"]
        assert await outcome(sent, 3.0) == [6.0]

    asyncio.run(run())


@pytest.mark.parametrize("ok", [True, False])
def test_the_breaker_believes_its_trial(ok: bool) -> None:
    breaker = Breaker(failures=1, seconds=1.0)
    breaker.record(False, 0.0)
    assert not breaker.allows(0.5) and breaker.allows(1.0) and not breaker.allows(1.1)
    breaker.record(ok, 1.2)
    assert breaker.allows(1.3) is ok


def test_who_stops_waiting_does_not_disturb_the_others() -> None:
    async def run() -> None:
        sent = dispatcher(Candidate())
        gone, kept = sent.ask({"x": [1.0]}, 1), sent.ask({"x": [2.0]}, 1)
        gone.cancel()
        assert (await kept).answer["prediction"].tolist() == [4.0]

    asyncio.run(run())


def test_what_the_open_breaker_keeps_away_is_blamed_on_what_opened_it() -> None:
    candidate, now = Candidate(), [0.0]

    async def hang(parts: Parts) -> Any:
        await asyncio.Event().wait()

    candidate.does = hang

    async def run() -> list[Any]:
        sent = dispatcher(candidate, breaker=Breaker(failures=2, seconds=10.0), clock=lambda: now[0])
        return [await outcome(sent, 1.0) for _ in range(4)]

    assert asyncio.run(run()) == ["timeouts"] * 4
