"""A controller that dies anywhere, and controllers that do not know of each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rollout_cases import ENDPOINT, Behaviour, FakeWorld, model, run, settings

from raymlops.chain import Deposed, Entry
from raymlops.errors import IntegrityError, Refused
from raymlops.rollout import orders
from raymlops.rollout.conductor import Conductor
from raymlops.rollout.ledger import Ledger, persisted_document, verify
from raymlops.store import Store, StoreError

pytestmark = pytest.mark.usefixtures("no_fsync")
SCENARIOS: dict[str, tuple[Behaviour, str]] = {
    "good": (Behaviour(), "PROMOTE"),
    "errors": (Behaviour(errors=0.4), "ROLLBACK"),
    "regresses": (Behaviour(), "ROLLBACK"),
}


@pytest.fixture(scope="module")
def no_fsync() -> Iterator[None]:
    """Here processes die and machines do not: what was written is there, waited for or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        yield


async def _story(world: FakeWorld, name: str) -> None:
    """One rollout from start to end; `regresses` turns bad while it bakes."""
    world.behaviour["2"] = SCENARIOS[name][0]
    await world.tick()
    while world.conductor.rollout is None and world.conductor.last is None:
        try:
            await world.begin(2)
        except (Refused, StoreError):  # a controller that has just started again
            await world.tick()
        except BaseException as error:
            if type(error).__name__ != "Crash":
                raise
            world.steering = world.controller()
            await world.tick()
    if name == "regresses":
        await world.until(lambda: world.alias == "2")
        world.behaviour["2"] = Behaviour(errors=0.9)
    await world.until(world.over)


def _world(root: Path, crash_at: int | None = None, bake: float = 1.0) -> FakeWorld:
    world = FakeWorld(Store(str(root)), settings(bake_seconds=bake, warmup_seconds=0.5), requests=20)
    world.crash_at = crash_at
    return world


@pytest.mark.parametrize("name", SCENARIOS)
def test_dying_anywhere_changes_nothing(tmp_path: Path, name: str) -> None:
    """The process dies before or after every write and every effect, once in each run."""
    bake = 60.0 if name == "regresses" else 1.0
    whole = _world(tmp_path / "whole", bake=bake)
    run(_story(whole, name))
    assert whole.points > 30
    for at in range(1, whole.points + 1):
        world = _world(tmp_path / str(at), at, bake)
        run(_story(world, name))
        if world.points < at:
            break  # salts are random, and this run was shorter
        where = f"died {world.where[at - 1]}"
        world.check_agreement()
        assert world.conductor.last is not None and world.conductor.last["verdict"] == SCENARIOS[name][1], where
        assert world.conductor.last["blame"] == (None if name == "good" else "errors"), where
        kinds = world.kinds()
        assert kinds.count("promoted") == (name != "errors"), where
        assert kinds.count("rolled_back") == (name != "good"), where
        assert [k for k in kinds if k != "step"] == [k for k in whole.kinds() if k != "step"], where
        assert ("2" in world.tags) == (name != "good"), where
        assert {event["event"] for event in world.told} == {event["event"] for event in whole.told}, where


@hypothesis_settings(max_examples=6, deadline=None)
@given(crashes=st.lists(st.integers(1, 60), min_size=1, max_size=12), bad=st.booleans())
def test_dying_again_and_again(crashes: list[int], bad: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Crashes after random numbers of ticks; what replicas reported and was not durable comes again."""
    world = _world(tmp_path_factory.mktemp("again"))
    world.behaviour["2"] = Behaviour(errors=0.4 if bad else 0.0)

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        for ticks in crashes:
            for _ in range(ticks):
                await world.tick()
            world.steering = world.controller()
        await world.until(world.over)

    run(scenario())
    world.check_agreement()
    assert world.conductor.last is not None
    assert world.conductor.last["verdict"] == ("ROLLBACK" if bad else "PROMOTE")
    assert world.kinds().count("promoted") == (not bad)


def test_nothing_that_was_reported_is_lost(tmp_path: Path) -> None:
    world = _world(tmp_path)
    world.keys = 1 << 40  # every request is the first of its key, wherever it goes

    async def scenario() -> None:
        await world.tick()
        await world.begin(2, mode="ab")
        await world.until(lambda: "step" in world.kinds())
        for _ in range(20):
            await world.seconds(0.7)
            world.steering = world.controller()
        await world.seconds(3)

    run(scenario())
    rollout = world.conductor.rollout
    assert rollout is not None and rollout.course is not None
    counted = sum(int(rollout.course.totals.of_arm(arm).values["requests"]) for arm in (0, 1))
    routed = sum(row["requests"] for r in world.replicas for (e, _), row in r._totals.items() if e >= 0)
    assert counted == routed
    assert world.conductor.lost_reports == 0
    finding = rollout.course.finding
    assert finding is not None and finding.requests == routed
    sent = sum(r.first_requests for r in world.replicas)
    assert sent - 10 <= sum(finding.unit_counts) <= sent  # a few keys share a bucket


def test_two_controllers_on_one_store(tmp_path: Path) -> None:
    """Like two clusters during an upgrade: the older one can write nothing any more, and follows."""
    world = _world(tmp_path)
    pushed: list[tuple[int, int]] = []

    class Elsewhere(FakeWorld):
        def __post_init__(self) -> None:
            pass

        def publish(self, document: Any) -> None:
            pushed.append(document.order)

        def run(self, applications: Any) -> None:
            raise AssertionError("a deposed controller deploys nothing")

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.seconds(2)
        old = world.steering
        old.effects = Elsewhere(world.store, world.settings)
        world.steering = world.controller("newer")
        await world.tick()
        assert world.steering.phase == "active" and world.conductor.term == 2
        before = len(world.ledger)
        for order in (lambda c: orders.abort(c, "", "old", world.now), lambda c: orders.pause(c, "old")):
            with pytest.raises(Refused, match="controller"):
                await old.order(order, world.now)
        await old.tick(world.now)
        assert old.phase == "passive" and len(world.ledger) == before
        assert old.take({"replica": "x", "sequence": 1})["next"] is None
        await old.tick(world.now)
        assert pushed and pushed[-1][0] == 2  # it hands on what the newer one says
        world.behaviour["2"] = Behaviour(errors=0.6)
        await world.until(world.over)
        await old.tick(world.now)
        assert old.published is not None and world.steering.published is not None
        assert old.published == world.steering.published == persisted_document(world.store, ENDPOINT)
        await old.tick(world.now + 3600)
        await old.tick(world.now + 3600)
        assert old.phase == "active" and old.conductor.term == 3  # nobody else is there
        assert old.conductor.last == world.conductor.last

    run(scenario())


def test_a_deposed_controller_calls_nothing_durable(tmp_path: Path) -> None:
    world = _world(tmp_path)

    async def scenario() -> None:
        await world.seconds(2)
        old, world.steering = world.steering, world.controller("newer")
        old.take({"replica": "late", "sequence": 1, "rollout": None})
        await world.steering.tick(world.now)
        await old.tick(world.now + 60)
        assert old.phase == "passive" and "late" not in old.durable

    run(scenario())


def test_both_at_once_append_one_entry(tmp_path: Path) -> None:
    ledgers = [Ledger(Store(str(tmp_path)), "e") for _ in range(2)]
    entries = [Entry(1, 1, 0.0, "term", {"controller": name}, "0" * 64) for name in "ab"]
    ledgers[0].append(entries[0])
    with pytest.raises(Deposed):
        ledgers[1].append(entries[1])
    assert verify(Store(str(tmp_path)), "e") == [entries[0]]


@pytest.mark.parametrize("scheme", ["memory", "path"])
def test_a_remote_store_does(tmp_path: Path, scheme: str) -> None:
    uri = f"memory://{tmp_path.name}" if scheme == "memory" else str(tmp_path)
    world = FakeWorld(Store(uri), settings())

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.until(world.over)

    run(scenario())
    world.check_agreement()


def test_a_store_without_conditional_writes_is_refused(tmp_path: Path) -> None:
    world = FakeWorld(Store(f"local://{tmp_path}"), settings())
    run(world.tick())
    assert world.steering.phase == "recovering" and "conditional write" in str(world.steering.error)


def _change(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "payload": {**entry["payload"], "extra": 1}}


def test_every_change_of_the_ledger_is_noticed(tmp_path: Path) -> None:
    world = _world(tmp_path)

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.until(world.over)

    run(scenario())
    count = len(world.ledger)
    for n in range(1, count):
        path = tmp_path / world.steering.ledger.path(n)
        before = path.read_bytes()
        changed = json.dumps(_change(json.loads(before)), separators=(",", ":"), ensure_ascii=False).encode()
        for damage in (changed, before[:-3], before + b" ", None):
            path.unlink() if damage is None else path.write_bytes(damage)
            with pytest.raises(IntegrityError):
                verify(world.store, ENDPOINT)
            path.write_bytes(before)
    assert len(verify(world.store, ENDPOINT)) == count


def test_the_state_survives_json(tmp_path: Path) -> None:
    world = _world(tmp_path)

    async def scenario() -> None:
        await world.tick()
        await world.begin(2)
        await world.until(lambda: world.kinds()[-1] == "step")
        await world.seconds(2)

    run(scenario())
    data = world.conductor.to_json(1.0)
    again = Conductor.from_json(data)
    assert again.to_json(1.0) == data
    assert again.document() == world.conductor.document()
    view = world.view(world.now)
    assert again.decide(world.now, view) == world.conductor.decide(world.now, view)


def test_somebody_elses_alias_is_not_followed(tmp_path: Path) -> None:
    world = _world(tmp_path)

    async def scenario() -> None:
        await world.tick()
        world.alias = "9"
        await world.seconds(3)
        assert world.alias == "9" and world.conductor.champion == model(1)

    run(scenario())
