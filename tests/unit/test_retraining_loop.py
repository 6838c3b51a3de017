"""The loop in a small world: what it does, and that a death at any instant makes it do nothing twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from snapshot_cases import config

from raymlops.chain import Chain, Deposed, Entry
from raymlops.data.checks import ContractViolated, Violation
from raymlops.errors import IntegrityError, RaymlopsError
from raymlops.lock import Held
from raymlops.monitoring.signals import Observation, Signal
from raymlops.retraining import orders
from raymlops.retraining.journal import Journal, Retraining
from raymlops.retraining.loop import Delivery, Extent, Loop, Round, Trained
from raymlops.retraining.policy_types import Action, Order
from raymlops.retraining.recipe import Recipe
from raymlops.retraining.runner import exit_code
from raymlops.store import Store

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Killed(BaseException):
    """The process dies here."""


@dataclass
class World:
    """What lies outside of the process and outlives it: monitors, registry, endpoint."""

    store: Store
    alarms: list[Signal] = field(default_factory=list)
    rows: int = 0
    runs: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    """Retraining → version that it registered."""
    champions: list[str] = field(default_factory=lambda: ["1"])
    rollouts: list[str] = field(default_factory=list)
    rollout_takes: int = 1
    """Looks until a rollout is decided."""
    verdict: str = "promoted"
    trouble: list[Exception] = field(default_factory=list)
    """What the next attempts to train raise."""
    refuses: bool = False
    told: list[str] = field(default_factory=list)
    point: Callable[[], None] = lambda: None
    """Called wherever the process may die."""

    def look(self, now: datetime) -> Observation:
        champion = f"-{self.champions[-1]}-"
        found = [alarm for alarm in self.alarms if alarm.incident is None or champion in alarm.incident]
        return Observation("trips", self.champions[-1], now.timestamp(), found, 5, 5, "2026-03-02")

    def orders(self) -> tuple[Order, ...]:
        return orders.pending(self.store, "trips")

    def answered(self, order: str) -> None:
        self.point()
        orders.remove(self.store, "trips", order)

    def extent(self) -> Extent:
        return Extent(self.rows, None)

    def short(self, extent: Extent) -> str | None:
        return None

    def recipe(self, since: str | None, seen: Observation, now: datetime) -> Recipe:
        return Recipe("labelled", "search", "time", since, "2026-02-20", "2026-02-26", "2026-03-02")

    def train(self, retraining: Retraining, now: datetime, fence: Callable[[], None]) -> Trained:
        if retraining.id not in self.versions:
            self.runs.append(retraining.id)
            self.point()
            if self.trouble:
                raise self.trouble.pop(0)
            if self.refuses:
                return Trained("run", None, ["worse than the champion"], {"mae": 9.0}, "ab")
            fence()
            self.versions[retraining.id] = str(len(self.versions) + 2)
            self.point()
        return Trained("run", self.versions[retraining.id], ["better"], {"mae": 1.0}, "ab")

    def intent(self, retraining: Retraining) -> dict[str, Any]:
        return {"how": "rollout", "after": 0}

    def deliver(self, retraining: Retraining, now: datetime) -> Delivery:
        version = self.versions[retraining.id]
        if version not in self.rollouts:
            self.point()
            self.rollouts.append(version)
            self.point()
        if self.rollout_takes > 0:
            self.rollout_takes -= 1
            return Delivery(None, "the rollout is running")
        if self.verdict == "promoted" and self.champions[-1] != version:
            self.point()
            self.champions.append(version)
            self.point()
        return Delivery(self.verdict, "evidence")  # type: ignore[arg-type]

    def tell(self, event: dict[str, Any]) -> None:
        self.point()
        self.told.append(event["outcome"])


def alarm(version: str = "1", since: str = "2026-02-20") -> Signal:
    return Signal.raised("degradation", version, "2026-03-01", since, "the error doubled", {"loss": float("nan")})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Store(str(tmp_path)))


def loop(world: World, **retraining: Any) -> Loop:
    rules = config(retraining={"window": {"mode": "sliding"}, **retraining})
    return Loop(rules, Path(), world.store, effects=world)


def rounds(world: World, times: int, start: datetime = NOW, **retraining: Any) -> list[Round]:
    made = loop(world, **retraining)
    return [made.round(start + number * MINUTE) for number in range(times)]


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in Chain(world.store, "retraining/trips").entries()]


def test_an_alarm_leads_to_one_retraining_and_then_to_quiet(world: World) -> None:
    world.alarms = [alarm()]
    found = rounds(world, 6)
    assert found[0].decision.action is Action.RETRAIN
    assert [r.decision.code for r in found] == ["due", "handled", *["no_cause"] * 4], "the alarm is about version 1"
    assert (world.runs, world.champions, world.rollouts) == ([found[0].retraining.id], ["1", "2"], ["2"])
    assert found[1].retraining is not None and found[1].retraining.phase == "promoted"
    assert world.told == ["promoted"]
    assert kinds(world) == ["opened", "began", "trained", "delivering", "ended", "decision", "decision"]


def test_looks_that_say_the_same_are_counted_in_the_next_entry(world: World) -> None:
    made = loop(world)
    for minute in range(5):
        made.round(NOW + minute * MINUTE)
    world.alarms = [alarm()]
    made.round(NOW + 5 * MINUTE)
    opened, decision, began = Chain(world.store, "retraining/trips").entries()[:3]
    assert (opened.kind, decision.payload["code"], decision.payload["before"]) == ("opened", "no_cause", None)
    assert began.payload["before"] == {"n": 2, "looks": 4, "until": (NOW + 4 * MINUTE).timestamp()}


@pytest.mark.parametrize("verdict", ["promoted", "rolled_back"])
@pytest.mark.parametrize("order", [False, True])
def test_a_death_at_any_instant_makes_nothing_happen_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: str, order: bool
) -> None:
    appended, instant = Chain.append, 0
    while True:
        instant += 1
        world = World(Store(str(tmp_path / f"{verdict}-{order}-{instant}")), verdict=verdict, rollout_takes=2)
        if order:
            orders.place(world.store, "trips", "new labels", "me")
        else:
            world.alarms = [alarm()]
        left = [instant]

        def point(left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Killed

        def append(self: Chain, entry: Entry, point: Callable[[], None] = point) -> None:
            point()
            appended(self, entry)
            point()

        monkeypatch.setattr(Chain, "append", append)
        world.point = point
        now, deaths, made = NOW, 0, loop(world)
        for _ in range(9):
            now += MINUTE
            try:
                made.round(now)
            except Killed:
                deaths += 1
                made = loop(world)
        if deaths == 0:
            break
        state = Journal(world.store, "trips").read()
        assert [r.phase for r in state.retrainings] == [verdict], f"at instant {instant}"
        assert len(world.versions) == 1 and world.rollouts == ["2"]
        assert len(world.runs) <= 2, "a run that died before its model was registered is run again, no other"
        assert world.champions == (["1", "2"] if verdict == "promoted" else ["1"])
        assert world.orders() == () and len(world.told) <= 1
    assert instant > 15


def test_another_live_process_is_left_to_its_work_and_a_dead_one_is_followed(world: World) -> None:
    world.alarms, world.rollout_takes = [alarm()], 2
    first = loop(world)
    first.round(NOW)
    second = loop(world)
    second.me = {**second.me, "pid": 1 << 22, "started": 1.0}
    waits = second.round(NOW + MINUTE)
    assert waits.decision.code == "busy" and "carries it out" in waits.decision.reason
    assert kinds(world).count("resumed") == 0
    journal = second.journal
    journal.append("resumed", {"by": second.me}, NOW.timestamp(), takes_over=True)  # and dies
    third = loop(world)
    third.round(NOW + 2 * MINUTE)
    third.round(NOW + 3 * MINUTE)
    state = third.journal.state
    assert (state.term, state.retrainings[0].phase, kinds(world).count("resumed")) == (3, "promoted", 2)


def test_a_process_that_was_taken_over_registers_nothing(world: World) -> None:
    world.alarms = [alarm()]
    first = loop(world)

    def somebody_takes_over() -> None:
        world.point = lambda: None
        other = Journal(world.store, "trips")
        other.read()
        other.append("resumed", {"by": {**first.me, "pid": 1}}, NOW.timestamp(), takes_over=True)

    world.point = somebody_takes_over
    with pytest.raises(Deposed, match="took the retraining over"):
        first.round(NOW)
    assert world.versions == {}


def test_data_that_breaks_the_contract_blocks_the_incident(world: World) -> None:
    world.alarms = [alarm()]
    broken = Violation("distance", "range", "0 to 5,000", "900 of 1000 rows", ())
    world.trouble = [ContractViolated([broken], "contract.yaml")]
    found = rounds(world, 3)
    assert found[0].retraining is not None and found[0].retraining.phase == "blocked"
    reason = found[0].retraining.ended["reason"]
    assert "distance" in reason and "900 of 1000 rows" in reason
    assert [r.decision.code for r in found[1:]] == ["handled", "handled"]
    assert len(world.runs) == 1 and world.champions == ["1"]


def test_a_refused_model_ends_the_incident_and_a_new_one_is_a_new_reason(world: World) -> None:
    world.alarms, world.refuses = [alarm()], True
    found = rounds(world, 2)
    assert found[0].retraining is not None and found[0].retraining.phase == "refused"
    assert found[1].decision.code == "handled" and world.champions == ["1"]
    world.alarms, world.refuses = [alarm(since="2026-03-20")], False
    later = rounds(world, 2, start=NOW + timedelta(days=30))
    assert later[0].decision.action is Action.RETRAIN and world.champions == ["1", "2"]


def test_trouble_is_tried_again_and_given_up_in_the_end(world: World) -> None:
    world.alarms = [alarm()]
    world.trouble = [RaymlopsError("the cluster is away"), OSError("disk full")]
    found = rounds(world, 4)
    assert found[0].retraining is not None and found[1].decision.code == "busy"
    assert found[0].retraining.failures == ["RaymlopsError: the cluster is away", "OSError: disk full"]
    assert world.champions == ["1", "2"] and len(world.runs) == 3
    world.alarms, world.trouble = [alarm("2")], [RuntimeError("no")] * 3
    given_up = rounds(world, 4, start=NOW + timedelta(days=2))
    assert given_up[2].retraining is not None and given_up[2].retraining.phase == "failed"
    assert "3 attempts failed, the last with RuntimeError: no" in given_up[2].retraining.ended["reason"]


def test_new_rows_are_counted_since_the_last_retraining(world: World) -> None:
    world.rows, made = 1000, loop(world, triggers={"rows": 500}, cooldown=0, max_per_week=9)
    assert made.round(NOW).decision.action is Action.NOTHING
    world.rows = 1499
    assert made.round(NOW + MINUTE).decision.action is Action.NOTHING
    world.rows = 1500
    assert made.round(NOW + 2 * MINUTE).decision.cause == "data"
    world.rows = 1999
    made.round(NOW + 3 * MINUTE)
    assert len(world.versions) == 1
    world.rows = 2000
    assert made.round(NOW + 4 * MINUTE).decision.action is Action.RETRAIN


def test_a_rollout_that_never_begins_expires(world: World) -> None:
    world.alarms, world.rollout_takes = [alarm()], 10**9
    found = rounds(world, 2)
    assert found[1].decision.code == "busy" and "the rollout is running" in found[1].decision.reason
    late = rounds(world, 1, start=NOW + timedelta(days=3))
    assert late[0].retraining is not None and late[0].retraining.phase == "expired"


def test_a_delivery_that_cannot_be_asked_for_ends_as_well(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: Any) -> Delivery:
        raise RaymlopsError("version 2 does not exist")

    monkeypatch.setattr(world, "deliver", gone)
    world.alarms = [alarm()]
    assert "version 2 does not exist" in rounds(world, 2)[1].decision.reason
    [late] = rounds(world, 1, start=NOW + timedelta(days=3))
    assert late.retraining is not None and late.retraining.phase == "expired"


def test_a_job_that_somebody_still_holds_costs_no_attempt(world: World) -> None:
    world.alarms, world.trouble = [alarm()], [Held("process 7 on elsewhere is working on it")] * 9
    found = rounds(world, 9)
    assert "process 7 on elsewhere is working on it" in found[8].decision.reason
    rounds(world, 2)
    assert world.champions == ["1", "2"]


def test_a_single_round_says_how_a_retraining_ended(world: World) -> None:
    world.alarms, world.trouble = [alarm()], [RuntimeError("no")] * 3
    made = loop(world)
    assert [exit_code(made.round(NOW + n * MINUTE)) for n in range(3)] == [0, 0, 1]
    world.alarms, world.refuses = [alarm(since="2026-03-20")], True
    assert exit_code(rounds(world, 1, start=NOW + timedelta(days=9))[0]) == 3


def test_an_order_is_answered_and_removed(world: World) -> None:
    placed = orders.place(world.store, "trips", " new labels ", "me")
    world.store.write("retraining/trips/inbox/broken.json", b"{}")
    [first, _] = rounds(world, 2)
    assert first.decision.reason == "order: new labels (by me)" and first.decision.covers == (f"order-{placed.id}",)
    assert world.store.list("retraining/trips/inbox") == ["broken.json"]
    half = json.dumps({"at": 2, "by": "ci", "reason": "half of a smiley: \ud83d"}).encode()
    world.store.write("retraining/trips/inbox/half.json", half)
    assert orders.place(world.store, "trips", "\ud83d", "me").reason == "?"
    loop(world, cooldown=0, max_per_week=9).round(NOW + timedelta(days=1))
    assert kinds(world)[-1] == "ended" and world.store.list("retraining/trips/inbox") == ["broken.json"]
    world.store.write("retraining/trips/inbox/ci-17.json", json.dumps({"at": 1, "by": "ci", "reason": "x"}).encode())
    assert [order.id for order in orders.pending(world.store, "trips")] == ["ci-17"]


def test_an_entry_that_was_changed_is_noticed(world: World, tmp_path: Path) -> None:
    rounds(world, 2)
    path = tmp_path / "retraining/trips/ledger/00000001.json"
    path.write_text(path.read_text().replace('"rows":0', '"rows":9'))
    with pytest.raises(IntegrityError, match="was changed"):
        rounds(world, 1)
