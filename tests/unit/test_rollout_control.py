"""Rollouts of an endpoint in memory, from start to end: what they decide, and on what."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_cases import Behaviour, FakeWorld, model, run, settings, started, with_settings

from raymlops.rollout import orders
from raymlops.store import Store


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings())


def test_a_good_candidate_is_promoted(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    kinds = world.kinds()
    assert kinds == [
        "champion", "started", "running", "step", "step", "promotion", "promoting", "promoted", "alias", "finished",
    ]  # fmt: skip
    assert world.alias == "2"
    assert world.conductor.last is not None and world.conductor.last["verdict"] == "PROMOTE"
    assert [event["event"] for event in world.told] == ["started", "promoted", "finished"]
    assert world.ended[0]["cause"] == "promotion" and world.tags == {}
    document = world.replicas[0].document
    assert document is not None and document.resident == (model(1),)  # kept warm
    numbers = next(e for e in world.ledger if e.kind == "promotion").payload["numbers"]
    assert numbers["candidates"][0]["verdict"] == "PROMOTE" and numbers["arms"][1]["requests"] > 0


def test_one_with_errors_is_taken_back(world: FakeWorld) -> None:
    world.behaviour["2"] = Behaviour(errors=0.3)

    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.kinds()[-2:] == ["rollback", "rolled_back"]
    entry = world.ledger[-2]
    assert (entry.payload["cause"], entry.payload["blame"]) == ("evidence", "errors")
    metrics = entry.payload["numbers"]["candidates"][0]["metrics"]
    assert metrics["errors"][0] >= entry.payload["numbers"]["thresholds"][0]
    assert world.alias == "1" and world.tags["2"].startswith("rolled back: evidence")
    assert world.told[-1]["event"] == "rollback" and world.told[-1]["details"]["blame"] == "errors"
    assert world.ended[0]["verdict"] == "ROLLBACK"


def test_a_slow_one_is_taken_back(tmp_path: Path) -> None:
    world = with_settings(tmp_path, comparisons={"slowness": {"kind": "latency", "tolerance": 1.2}})
    world.behaviour["2"] = Behaviour(latency=0.02)

    async def scenario() -> None:
        await world.seconds(5)
        await started(world)
        await world.until(world.over)

    run(scenario())
    assert world.ledger[-2].payload["blame"] == "slowness"


@pytest.mark.parametrize(("slack", "verdict"), [(2.0, "PROMOTE"), (0.0, "ROLLBACK")])
def test_answers_of_a_fraction_of_a_millisecond_may_differ_by_the_slack(
    tmp_path: Path, slack: float, verdict: str
) -> None:
    """By which core a process runs on, for instance."""
    world = with_settings(tmp_path, comparisons={"slowness": {"kind": "latency", "slack_ms": slack}})
    world.behaviour |= {"1": Behaviour(latency=0.0002), "2": Behaviour(latency=0.0005)}

    async def scenario() -> None:
        await world.seconds(5)
        await started(world)
        await world.until(world.over)

    run(scenario())
    assert world.conductor.last is not None and world.conductor.last["verdict"] == verdict


def test_latency_waits_for_a_threshold(tmp_path: Path) -> None:
    world = with_settings(tmp_path, comparisons={"slowness": {"kind": "latency", "tolerance": 1.2}})
    world.requests = 0

    async def scenario() -> None:
        await started(world)
        await world.seconds(10)
        assert world.conductor.rollout is not None and world.conductor.rollout.course is not None
        assert world.conductor.rollout.course.state.step == -1  # nothing to judge latencies by
        world.requests = 20
        await world.until(lambda: world.conductor.rollout.course.state.step >= 0)  # type: ignore[union-attr]

    run(scenario())


def test_worse_predictions_are_taken_back(tmp_path: Path) -> None:
    quality = {"kind": "quality", "loss_scale": 10.0, "horizon_seconds": 2.0}
    world = with_settings(tmp_path, comparisons={"mae": quality})
    world.behaviour["2"] = Behaviour(error=5.0)

    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    assert world.ledger[-2].payload["blame"] == "mae"


def test_traffic_only_after_the_candidate_is_ready(world: FakeWorld) -> None:
    """The fake replica asserts that it never routes to an application that does not run."""

    async def scenario() -> None:
        await started(world)
        app = world.conductor.rollout.candidates[0].app  # type: ignore[union-attr]
        world.broken[app] = "cannot load"
        await world.until(world.over)

    run(scenario())
    entry = world.ledger[-2]
    assert entry.kind == "rollback" and entry.payload["cause"] == "start" and "cannot load" in entry.payload["reason"]
    assert "running" not in world.kinds()
    assert world.tags["2"].startswith("rolled back: start")


def test_a_crash_loop_is_taken_back(world: FakeWorld) -> None:
    async def scenario() -> None:
        await started(world)
        await world.seconds(3)
        world.broken[next(iter(world.running))] = "crash loop"
        await world.until(world.over)

    run(scenario())
    assert world.ledger[-2].payload["cause"] == "crash"


def test_health_of_both_arms(tmp_path: Path) -> None:
    world = with_settings(tmp_path, max_bad_share=0.2)
    world.behaviour = {"1": Behaviour(errors=0.5), "2": Behaviour(errors=0.5)}

    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    assert world.ledger[-2].payload["cause"] == "health"


def test_deadline(tmp_path: Path) -> None:
    world = with_settings(tmp_path, deadline_seconds=10.0)
    world.requests = 1

    async def scenario() -> None:
        await started(world)
        await world.until(world.over)

    run(scenario())
    payload = world.ledger[-2].payload
    assert (payload["verdict"], payload["cause"]) == ("EXPIRED", "deadline")
    assert world.tags["2"].startswith("rolled back: deadline")


def test_a_key_keeps_its_variant_while_shares_rise(tmp_path: Path) -> None:
    world = with_settings(tmp_path, deadline_seconds=60.0, comparisons={"e": {"kind": "rate", "excess": 0.001}})
    world.keys = 50

    async def scenario() -> None:
        await started(world)
        await world.seconds(3)
        await world.steering.order(lambda c: orders.pause(c, "me"), world.now)
        await world.seconds(2)
        await world.steering.order(lambda c: orders.resume(c, "me", world.now), world.now)
        await world.seconds(10)

    run(scenario())
    rollout = world.conductor.rollout
    assert rollout is not None and rollout.course is not None
    epochs = rollout.course.evidence.assignment.epochs
    assert len({epoch.salt for epoch in epochs}) == 1
    shares = [epoch.shares[0] for epoch in epochs]
    assert shares == sorted(shares) and shares[-1] == 0.5
    assignment = rollout.course.evidence.assignment
    for key in range(50):  # from control to the candidate at most once, never back
        arms = [assignment.arm_of(_unit(epochs[0].salt, f"key-{key}"), number) for number in range(len(epochs))]
        assert arms == sorted(arms)


def _unit(salt: str, key: str) -> int:
    from raymlops.rollout.evidence import unit_hash

    return unit_hash(salt, key)


def test_several_candidates_the_bad_one_drops_out(tmp_path: Path) -> None:
    world = with_settings(tmp_path, bake_seconds=2.0)
    world.behaviour["2"] = Behaviour(errors=0.6)

    async def scenario() -> None:
        await started(world, 2, 3)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.alias == "3" and set(world.tags) == {"2"}
    step = next(e for e in world.ledger if e.kind == "step" and e.payload["dropped"])
    assert step.payload["shares"][0] == 0 and step.payload["salt"]


def test_a_dead_registry_stops_nothing(world: FakeWorld) -> None:
    world.registry_down = True

    async def scenario() -> None:
        await started(world)
        await world.until(lambda: world.kinds()[-1] == "finished")
        assert world.alias == "1" and world.conductor.champion == model(2)
        world.registry_down = False
        await world.until(world.over)

    run(scenario())
    world.check_agreement()


def test_an_unreadable_store_degrades_and_heals(world: FakeWorld, tmp_path: Path) -> None:
    async def scenario() -> None:
        await started(world)
        await world.seconds(2)
        rollouts = tmp_path / "rollouts"
        rollouts.rename(tmp_path / "away")
        rollouts.write_text("not a directory")
        await world.seconds(3)
        assert world.steering.error is not None and world.steering.phase == "active"
        assert all(r.document is not None and r.document.arms for r in world.replicas)  # still in force
        rollouts.unlink()
        (tmp_path / "away").rename(rollouts)
        await world.until(world.over)

    run(scenario())
    assert world.alias == "2" and world.steering.error is None
