"""Who answers a request, and in whose account it goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from raymlops.errors import DataError
from raymlops.serving.accounts import Accounts
from raymlops.serving.answering import Answered, Answerer, ModelFailed
from raymlops.serving.batching import MicroBatcher
from raymlops.serving.dispatch import Breaker, Dispatcher
from raymlops.serving.document import Arm, ModelRef, RoutingDocument
from raymlops.serving.metrics import ArmCounts
from raymlops.serving.prediction_table import Record
from raymlops.serving.protocol import ModelSchema, ParsedRequest, Rules
from raymlops.serving.router import Router
from raymlops.serving.routing import ArmRoute, Remote, Routing
from raymlops.serving.shadow import Mirror, compare

A, B = ModelRef("m", "1", "a" * 64), ModelRef("m", "2", "b" * 64)
BUDGET = 0.05
Behaviour = Callable[[Any, int], dict[str, np.ndarray]]


def adds(amount: float) -> Behaviour:
    return lambda columns, rows: {"prediction": np.array(columns["x"], dtype=float) + amount}


PLUS_ONE = adds(1.0)


def raises(error: Exception) -> Behaviour:
    def fail(columns: Any, rows: int) -> dict[str, np.ndarray]:
        raise error

    return fail


class Hosted:
    def __init__(self, behaviour: Behaviour) -> None:
        self.batcher = MicroBatcher(behaviour)


class Log:
    """Keeps what was appended."""

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.sizes: list[int] = []

    def append(self, *given: Any) -> bool:
        *row, size = given[: len(Record._fields) + 1]
        self.rows.append(tuple(row))
        self.sizes.append(size)
        return True


class World:
    """A champion and one candidate, which gets everything that is keyed `B`."""

    def __init__(
        self,
        champion: Behaviour = PLUS_ONE,
        candidate: Behaviour | None = None,
        remote: Callable[[Any], Awaitable[Any]] | None = None,
        mode: str = "canary",
        budget: float = BUDGET,
    ) -> None:
        self.document = RoutingDocument(
            "m",
            1,
            1,
            A,
            (Arm(A), Arm(B, None if candidate else "app")),
            "r",
            mode,
            1,
            "s",
            () if mode == "shadow" else (5_000,),
            mode != "shadow",
            rates={"errors": "errors", "timeouts": "timeouts"},
        )
        router = Router(self.document)
        hosted: Any = [Hosted(champion), Hosted(candidate) if candidate else None]
        self.counts = [ArmCounts(), ArmCounts()]
        link = None
        if remote is not None:
            options: Any = {"budget_s": BUDGET, "max_in_flight": 8, "breaker": Breaker(99, 1.0)}
            link = Remote(Dispatcher(remote, **options))
        arms = tuple(
            ArmRoute(model, router.variants[n], router.weights[n], hosted[n], link if n else None, self.counts[n])
            for n, model in enumerate((A, B))
        )
        rules = Rules(ModelSchema("m", ("1",), "regression", {}))
        self.routing = Routing(self.document, router, hosted[0], ArmCounts(), arms, rules)
        self.accounts = Accounts("replica", BUDGET, 1.0)
        self.accounts.follow(self.document, 0.0)
        self.log = Log()
        self.mirror = Mirror(self.accounts, self.log, BUDGET, 4)  # type: ignore[arg-type]
        self.answerer = Answerer("m", self.accounts, self.log, budget, self.mirror)  # type: ignore[arg-type]
        keys = map(str, range(1000))
        self.key = {0: "", 1: ""}
        for key in keys:
            self.key[router.route(key).arm] = key

    async def ask(self, arm: int, forced: int | None = None) -> Answered:
        request = ParsedRequest({"x": [1.0]}, 1, None, {}, self.key[arm], None, 70)  # type: ignore[arg-type]
        return await self.answerer.answer(self.routing, request, forced)

    def totals(self, arm: int) -> dict[str, Any]:
        message = self.accounts.take(100.0)
        assert message is not None
        found = [row for row in message["totals"] if row.arm == arm]
        return {name: getattr(found[0], name) for name in ("requests", "errors", "timeouts", "fallbacks")}


def test_each_arm_answers_its_keys() -> None:
    async def run() -> None:
        world = World(candidate=adds(10.0))
        ours, theirs = await world.ask(0), await world.ask(1)
        assert (ours.answer["prediction"][0], ours.version, ours.variant) == (2.0, "1", "champion")
        assert (theirs.answer["prediction"][0], theirs.version, theirs.variant) == (11.0, "2", "candidate-1")
        assert ours.prediction_id != theirs.prediction_id
        assert [(row[2], row[3], row[-1]) for row in world.log.rows] == [
            ("1", "champion", "ok"),
            ("2", "candidate-1", "ok"),
        ]
        assert world.log.sizes == [70, 70]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("candidate", "event"),
    [(raises(RuntimeError("broken")), "errors"), (raises(DataError("column 'z': missing")), "errors")],
)
def test_the_champion_answers_for_one_that_fails_and_the_arm_keeps_the_blame(candidate: Behaviour, event: str) -> None:
    async def run() -> None:
        world = World(candidate=candidate)
        found = await world.ask(1)
        assert (found.answer["prediction"][0], found.version, found.variant) == (2.0, "1", "champion")
        assert world.totals(1) == {"requests": 1, "errors": 1, "timeouts": 0, "fallbacks": 1}
        assert world.counts[1].errors == 1 and world.counts[0].errors == 0
        assert world.log.rows[0][3] == "candidate-1" and world.log.rows[0][-1] == "fallback"

    asyncio.run(run())


def test_a_late_candidate_costs_the_budget_and_no_more() -> None:
    async def hang(parts: Any) -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        world = World(remote=hang)
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await world.ask(1)).version == "1"
        assert BUDGET * 0.9 < loop.time() - began < 1.0
        assert world.totals(1) == {"requests": 1, "errors": 0, "timeouts": 1, "fallbacks": 1}

    asyncio.run(run())


def test_a_candidate_that_is_not_there_is_an_error() -> None:
    async def run() -> None:
        world = World()
        assert (await world.ask(1)).version == "1"
        assert world.totals(1)["errors"] == 1

    asyncio.run(run())


def test_rows_that_nobody_can_read_are_the_clients_fault() -> None:
    async def run() -> None:
        bad = raises(DataError("column 'x': found nonsense"))
        world = World(champion=bad, candidate=bad)
        for arm in (0, 1):
            with pytest.raises(DataError, match="nonsense"):
                await world.ask(arm)
        assert world.totals(1) == {"requests": 1, "errors": 0, "timeouts": 0, "fallbacks": 0}
        assert {row[-1] for row in world.log.rows} == {"refused"}

    asyncio.run(run())


def test_a_champion_that_fails_is_told_and_counted() -> None:
    async def run() -> None:
        world = World(champion=raises(RuntimeError("broken")), candidate=adds(0.0))
        with pytest.raises(ModelFailed, match="broken"):
            await world.ask(0)
        assert world.totals(0)["errors"] == 1

    asyncio.run(run())


def test_what_goes_wrong_is_a_line_with_the_prediction_id(lines: Callable[[], list[Any]]) -> None:
    """And nothing else is a line."""

    async def run() -> None:
        world = World(candidate=adds(10.0), budget=60.0)
        await world.ask(0)
        await world.ask(1)
        assert lines() == []

        world = World(candidate=raises(RuntimeError("broken")), budget=60.0)
        found = await world.ask(1)
        (line,) = lines()
        who = {"endpoint": "flights", "replica": "r1", "variant": "candidate-1", "version": "2"}
        assert who.items() <= line.items() and line["prediction_id"] == found.prediction_id
        assert (line["event"], line["level"]) == ("fallback", "warning")
        assert (line["reason"], line["error"]) == ("errors", "RuntimeError: broken")

        world = World(champion=raises(RuntimeError("broken")), budget=60.0)
        with pytest.raises(ModelFailed):
            await world.ask(0)
        (line,) = lines()
        assert (line["event"], line["level"], line["reason"]) == ("failed", "error", "errors")
        assert (line["variant"], line["version"]) == ("champion", "1") and "broken" in line["error"]
        assert line["prediction_id"] == world.log.rows[0][1]

        def slow(columns: Any, rows: int) -> dict[str, np.ndarray]:
            time.sleep(0.002)
            return PLUS_ONE(columns, rows)

        await World(champion=slow, budget=0.001).ask(0)
        (line,) = lines()
        assert (line["event"], line["reason"]) == ("late", "timeouts") and line["ms"] > 1.0

    asyncio.run(run())


def test_every_request_is_a_line_if_wanted(lines: Callable[[], list[Any]]) -> None:
    async def run() -> None:
        world = World(candidate=raises(RuntimeError("broken")), budget=60.0)
        world.answerer._log_requests = True
        for _ in range(30):
            await world.ask(0)
        assert [line["event"] for line in lines()] == ["request"] * 30
        found = await world.ask(1)
        _, line = lines()
        assert (line["event"], line["level"], line["status"], line["rows"]) == ("request", "info", "fallback", 1)
        assert (line["variant"], line["answered_by"]) == ("candidate-1", "champion")
        assert line["prediction_id"] == found.prediction_id

    asyncio.run(run())


def test_a_copy_that_fails_is_a_line(lines: Callable[[], list[Any]]) -> None:
    async def run() -> None:
        world = World(candidate=raises(RuntimeError("broken")), mode="shadow")
        found = await world.ask(0)
        while world.mirror._tasks:
            await asyncio.sleep(0)
        (line,) = lines()
        assert (line["event"], line["prediction_id"]) == ("copy_failed", found.prediction_id)

    asyncio.run(run())


def test_a_chosen_variant_is_evidence_of_nothing() -> None:
    async def run() -> None:
        world = World(candidate=adds(10.0))
        assert (await world.ask(0, forced=1)).variant == "candidate-1"
        assert world.accounts.take(100.0) is None
        assert len(world.log.rows) == 1

    asyncio.run(run())


def test_shadow_copies_are_compared_and_change_no_answer() -> None:
    async def run() -> None:
        world = World(candidate=adds(3.0), mode="shadow")
        found = await world.ask(0)
        assert (found.answer["prediction"][0], found.variant) == (2.0, "champion")
        async with asyncio.timeout(5):
            while len(world.log.rows) < 2:
                await asyncio.sleep(0)
        assert world.log.rows[1][-1] == "shadow" and world.log.rows[1][1] == found.prediction_id
        message = world.accounts.take(1.0)
        assert message is not None
        (arm,) = [row for row in message["totals"] if row.arm == 1]
        assert (arm.compared, arm.disagreed, arm.difference) == (1, 1, 2.0)

    asyncio.run(run())


def test_copies_are_bounded() -> None:
    async def hang(parts: Any) -> Any:
        await asyncio.Event().wait()

    async def run() -> None:
        world = World(remote=hang, mode="shadow")
        for _ in range(10):
            await world.ask(0)
        assert world.mirror.skipped == 6

    asyncio.run(run())


def test_answers_are_compared_by_value_and_by_class() -> None:
    numbers = {"prediction": np.array([1.0, 2.0, 1e9])}
    assert compare(numbers, {"prediction": np.array([1.0, 2.5, 1e9 + 1])}) == (3, 1, 1.5)
    labels = {"prediction": np.array(["a", "b"], dtype=object)}
    assert compare(labels, {"prediction": np.array(["a", "c"], dtype=object)}) == (2, 1, 0.0)


def test_nobody_is_mirrored_beyond_the_sample() -> None:
    async def run() -> None:
        world = World(candidate=adds(3.0), mode="shadow")
        world.routing = replace(world.routing, document=replace(world.document, sample=1e-12))
        await world.ask(0)
        assert not world.mirror._tasks

    asyncio.run(run())
