"""Concurrent requests share a batch, and nothing else."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import numpy as np
import pytest

from raymlops.errors import DataError
from raymlops.serving.batching import GarbageError, MicroBatcher, merge


class Doubling:
    """Answers 2 × x, refuses negative numbers, and remembers its batches."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.seconds = seconds

    def __call__(self, columns: Any, rows: int) -> dict[str, np.ndarray]:
        self.batches.append(rows)
        self.threads.add(threading.get_ident())
        time.sleep(self.seconds)
        x = np.asarray(columns["x"], dtype=np.float64)
        if (x < 0).any():
            raise DataError("column 'x': negative")
        return {"prediction": np.where(x == 13, np.nan, 2 * x)}


async def ask(batcher: MicroBatcher, *requests: list[float]) -> list[Any]:
    found = await asyncio.gather(
        *(batcher.submit({"x": np.array(values)}, len(values)) for values in requests), return_exceptions=True
    )
    return [one if isinstance(one, Exception) else one.answer["prediction"].tolist() for one in found]


def test_requests_of_one_moment_are_one_batch() -> None:
    model = Doubling()
    assert asyncio.run(ask(MicroBatcher(model), [1.0], [2.0, 3.0], [4.0])) == [[2.0], [4.0, 6.0], [8.0]]
    assert model.batches == [4]


def test_who_is_alone_is_answered_at_once_unless_the_model_is_slow_or_told_to_wait() -> None:
    async def at_once(batcher: MicroBatcher) -> bool:
        future = batcher.submit({"x": np.array([1.0])}, 1)
        done = future.done()
        assert (await future).answer["prediction"].tolist() == [2.0]
        return done

    async def run() -> None:
        assert await at_once(MicroBatcher(Doubling(), alone=lambda: True))
        assert not await at_once(MicroBatcher(Doubling(), alone=lambda: False))
        assert not await at_once(MicroBatcher(Doubling(), alone=lambda: True, wait_s=0.001))
        assert not await at_once(MicroBatcher(Doubling(), alone=lambda: True, expected_s=1.0))

    asyncio.run(run())


def test_batches_are_bounded_and_one_scores_every_request_alone() -> None:
    model = Doubling()
    asyncio.run(ask(MicroBatcher(model, max_rows=3), [1.0, 1.0], [2.0, 2.0], [3.0], [1.0] * 5))
    assert model.batches == [2, 3, 5]
    model = Doubling()
    asyncio.run(ask(MicroBatcher(model, max_rows=1), [1.0], [2.0]))
    assert model.batches == [1, 1]


def test_a_bad_request_fails_alone() -> None:
    found = asyncio.run(ask(MicroBatcher(Doubling()), [1.0], [-1.0], [13.0], [4.0]))
    assert found[0] == [2.0] and found[3] == [8.0]
    assert isinstance(found[1], DataError) and isinstance(found[2], GarbageError)


def test_different_columns_are_not_mixed() -> None:
    assert merge([{"x": [1]}, {"y": [1]}]) is None
    assert merge([{"x": [1]}, {"x": np.array([1.0])}]) is None
    assert merge([{"x": [1], "y": ["a"]}, {"x": [2, 3], "y": [None, "b"]}]) == {"x": [1, 2, 3], "y": ["a", None, "b"]}


def test_a_slow_model_leaves_the_event_loop_free_and_gathers_what_comes_meanwhile() -> None:
    model = Doubling(seconds=0.05)

    async def run() -> tuple[float, list[Any]]:
        batcher = MicroBatcher(model, expected_s=0.05)
        first = asyncio.ensure_future(ask(batcher, [1.0]))
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        later = asyncio.ensure_future(ask(batcher, [2.0], [3.0]))
        await asyncio.sleep(0)
        free = time.perf_counter() - began
        return free, [await first, await later]

    free, answers = asyncio.run(run())
    assert answers == [[[2.0]], [[4.0], [6.0]]]
    assert model.batches == [1, 2]
    assert free < 0.03 and threading.get_ident() not in model.threads


def test_a_model_that_turns_slow_moves_to_its_thread() -> None:
    model = Doubling()

    async def run() -> None:
        batcher = MicroBatcher(model)
        await ask(batcher, [1.0])
        model.seconds = 0.03
        for _ in range(15):
            await ask(batcher, [1.0])

    asyncio.run(run())
    assert len(model.threads) == 2


def test_who_gives_up_is_not_scored() -> None:
    model = Doubling()

    async def run() -> None:
        batcher = MicroBatcher(model)
        gone, kept = batcher.submit({"x": [1.0]}, 1), batcher.submit({"x": [2.0]}, 1)
        gone.cancel()
        assert (await kept).answer["prediction"].tolist() == [4.0]
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    assert model.batches == [1]
