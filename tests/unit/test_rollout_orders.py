"""Rollouts of an endpoint in memory: pauses, approvals, and orders that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_cases import Behaviour, FakeReplica, FakeWorld, model, run, settings, started, with_settings

from raymlops.errors import ConfigError, Refused
from raymlops.rollout import orders
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.views import Intent
from raymlops.store import Store


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings())


def test_nothing_counts_in_a_pause(world: FakeWorld) -> None:
    world.behaviour["2"] = Behaviour(errors=0.0)

    async def scenario() -> None:
        await started(world)
        await world.until(lambda: "step" in world.kinds())
        await world.steering.order(lambda c: orders.pause(c, "me"), world.now)
        with pytest.raises(Refused, match="paused already"):
            await world.steering.order(lambda c: orders.pause(c, "me"), world.now)
        await world.seconds(3)
        assert world.replicas[0].document is not None and not world.replicas[0].document.counted
        before = sum(world.conductor.rollout.course.finding.unit_counts)  # type: ignore[union-attr]
        world.behaviour["2"] = Behaviour(errors=0.9)
        await world.seconds(20)
        assert world.conductor.rollout is not None
        assert sum(world.conductor.rollout.course.finding.unit_counts) == before  # type: ignore[union-attr]
        world.behaviour["2"] = Behaviour(errors=0.0)
        await world.seconds(1)
        await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2"


def test_a_pause_before_candidates_run(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world)
        await world.steering.order(lambda c: orders.pause(c, "me"), world.now)
        await world.seconds(5)
        rollout = world.conductor.rollout
        assert rollout is not None and rollout.phase == "running" and rollout.course is not None
        assert rollout.course.state.step == -1
        await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2"


def test_an_update_of_the_endpoint_pauses(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world)
        await world.until(lambda: "step" in world.kinds())
        old = world.replicas
        world.replicas = [*old, FakeReplica("new", build="b")]
        world.replicas[-1].take(world.steering.published)  # type: ignore[arg-type]
        await world.seconds(2)
        assert world.kinds()[-1] == "paused"
        assert world.replicas[0].document is not None and not world.replicas[0].document.counted
        for replica in old:
            replica.alive = False
        await world.seconds(2)
        assert "resumed" in world.kinds()
        assert world.replicas[-1].document is not None and world.replicas[-1].document.counted
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2"


def test_approvals(tmp_path: Path) -> None:
    world = with_settings(
        tmp_path,
        steps=[{"share": 0.2, "min_seconds": 1}, {"share": 0.5, "approval": True}],
        approve_promotion=True,
    )

    async def scenario() -> None:
        await started(world)
        with pytest.raises(Refused, match="neither is paused nor waits"):
            await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.until(lambda: world.kinds()[-1] == "waiting")
        await world.seconds(5)
        assert world.kinds().count("waiting") == 1
        await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.until(lambda: world.kinds()[-1] == "waiting")
        assert world.kinds().count("waiting") == 2
        await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2" and world.kinds().count("approved") == 2


def test_history_is_remembered(world: FakeWorld) -> None:
    world.behaviour["2"] = Behaviour(errors=0.5)

    async def scenario() -> None:
        await started(world)
        with pytest.raises(Refused, match="under way"):
            await world.begin(3)
        await world.until(world.over)
        with pytest.raises(Refused, match="champion already"):
            await world.begin(1)
        with pytest.raises(Refused, match="cooldown"):
            await world.begin(3)
        with pytest.raises(Refused, match="was rolled back before"):
            await world.begin(2)
        await world.begin(2, force=True)
        await world.until(world.over)

    run(scenario())
    attempts = [entry.payload["attempt"] for entry in world.ledger if entry.kind == "running"]
    assert attempts == [1, 2]
    thresholds = [e.payload["numbers"]["thresholds"][0] for e in world.ledger if e.kind == "rollback"]
    assert thresholds[1] > thresholds[0] + 1.3  # the error is spent: log 4


def test_a_candidate_that_wants_other_requests_is_forced_or_refused(world: FakeWorld) -> None:
    def make(conductor: Conductor, force: bool) -> Intent:
        changes = [["it needs the column 'age', which requests need not have now"]]
        chosen: dict[str, Any] = {"mode": "canary", "force": force, "by": "", "now": world.now, "changes": changes}
        return orders.begin(conductor, world.settings, [model(2)], **chosen)

    async def scenario() -> None:
        await world.seconds(1)
        with pytest.raises(Refused, match=r"version 2 .* version 1: it needs the column 'age', .* --force"):
            await world.steering.order(lambda c: make(c, False), world.now)
        await world.steering.order(lambda c: make(c, True), world.now)

    run(scenario())


def test_tag_of_the_registry_refuses_too(world: FakeWorld) -> None:
    async def scenario() -> None:
        await world.tick()
        with pytest.raises(Refused, match="rolled back before"):
            orders.begin(
                world.conductor, world.settings, [model(2)], mode="canary", force=False, by="", now=world.now,
                tags=["rolled back: elsewhere"],
            )  # fmt: skip

    run(scenario())


def test_a_policy_that_cannot_be_is_refused(tmp_path: Path) -> None:
    world = with_settings(tmp_path, deadline_seconds=1.0)

    async def scenario() -> None:
        await world.tick()
        with pytest.raises(ConfigError, match="deadline_seconds"):
            await world.begin(2)

    run(scenario())
    assert world.kinds() == ["champion"]


@pytest.mark.parametrize("when", ["starting", "running", "baking"])
def test_abort(world: FakeWorld, when: str) -> None:
    async def scenario() -> None:
        await started(world)
        if when != "starting":
            await world.until(lambda: world.conductor.rollout is not None and world.conductor.rollout.phase == when)
        await world.steering.order(lambda c: orders.abort(c, "enough", "me", world.now), world.now)
        await world.until(world.over)
        await world.begin(3)  # no cooldown after an order

    run(scenario())
    entry = next(e for e in world.ledger if e.kind == "rollback")
    assert (entry.payload["cause"], entry.payload["by"]) == ("order", "me")
    assert world.alias == "1"
