"""Rollouts of an endpoint in memory: promotion, from the first replica that loads to the end of baking."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_cases import Behaviour, FakeWorld, model, run, settings, started, with_settings

from raymlops.errors import Refused
from raymlops.rollout import orders
from raymlops.store import Store


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings())


def test_shadow_compares_and_promotes_nothing(tmp_path: Path) -> None:
    world = with_settings(tmp_path, deadline_seconds=30.0)

    async def scenario() -> None:
        await started(world, mode="shadow")
        await world.seconds(5)
        document = world.replicas[0].document
        assert document is not None and (document.mode, document.shares, document.counted) == ("shadow", (), False)
        assert len(document.arms) == 2
        await world.until(world.over)

    run(scenario())
    assert world.alias == "1" and world.tags == {} and world.conductor.last is not None
    assert world.conductor.last["cause"] == "deadline" and world.conductor.attempts == {}


def test_an_order_promotes_from_shadow_and_the_old_comes_back(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world, mode="shadow")
        await world.seconds(2)
        world.behaviour["2"] = Behaviour(errors=0.5)
        await world.steering.order(lambda c: orders.promote(c, world.view(world.now), "me"), world.now)
        await world.until(lambda: world.alias == "2")
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.alias == "1"
    assert world.ledger[-3].payload["phase"] == "baking" or world.ledger[-2].payload["phase"] == "baking"


def test_a_regression_after_promotion_swaps_back(tmp_path: Path) -> None:
    world = with_settings(tmp_path, bake_seconds=120.0)

    async def scenario() -> None:
        await started(world)
        await world.until(lambda: world.alias == "2")
        assert all(r.document is not None and r.document.champion == model(2) for r in world.replicas)
        document = world.replicas[0].document
        assert document is not None and [arm.model for arm in document.arms] == [model(1), model(2)]
        assert document.shares == (9000,) and all(arm.app is None for arm in document.arms)
        world.behaviour["2"] = Behaviour(errors=0.5)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.alias == "1" and world.tags["2"].startswith("rolled back: evidence")
    assert [e.payload["version"] for e in world.ledger if e.kind == "alias"] == ["2", "1"]


def test_a_replica_that_cannot_load_stops_the_promotion(world: FakeWorld) -> None:
    world.replicas[1].unloadable = {model(2).sha256}

    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.alias == "1" and world.ledger[-2].payload["cause"] == "load"
    assert "promoting" not in world.kinds()


def test_promotion_waits_for_memory(world: FakeWorld) -> None:
    world.memory = 1024

    async def scenario() -> None:
        await started(world)
        await world.until(lambda: world.kinds()[-1] == "waiting")
        await world.seconds(5)
        assert world.kinds()[-1] == "waiting"
        with pytest.raises(Refused, match="memory"):
            await world.steering.order(lambda c: orders.promote(c, world.view(world.now), "me"), world.now)
        world.memory = 1 << 34
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2"


def test_two_administrators_promote_once(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world)
        await world.seconds(2)
        await world.steering.order(lambda c: orders.promote(c, world.view(world.now), "one"), world.now)
        with pytest.raises(Refused, match="promoted"):
            await world.steering.order(lambda c: orders.promote(c, world.view(world.now), "two"), world.now)
        await world.until(world.over)

    run(scenario())
    assert world.kinds().count("promotion") == world.kinds().count("promoted") == 1
