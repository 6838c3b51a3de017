"""Rollouts of an endpoint in memory, from start to end: verdicts, pauses, promotions, orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rollout_cases import Behaviour, FakeReplica, FakeWorld, model, run, settings

from raymlops.errors import ConfigError, Refused
from raymlops.rollout import orders
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.views import Intent
from raymlops.store import Store


@pytest.fixture
def world(tmp_path: Path) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings())


def with_settings(tmp_path: Path, **rollout: Any) -> FakeWorld:
    return FakeWorld(Store(str(tmp_path)), settings(**rollout))


async def started(world: FakeWorld, *versions: int, **options: Any) -> None:
    await world.tick()
    await world.begin(*(versions or (2,)), **options)


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
